"""What end-to-end tests put beside the daemons, and what it did to a disk."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

SECTOR = 512


def written_bytes(device: str) -> int:
    """Bytes written to a disk since it exists (Documentation/block/stat.rst)."""
    fields = Path(f"/sys/block/{Path(device).name}/stat").read_text().split()
    return int(fields[6]) * SECTOR


@contextlib.contextmanager
def bpftrace_beside() -> Iterator[None]:
    """An ordinary observability tool on every block and scheduler event.

    Classic tracepoint programs lose events beside it: the kernel skips one while another BPF
    program runs on that CPU.
    """
    script = (
        "tracepoint:block:* { @b[probe] = count(); } tracepoint:sched:* { @s[comm] = count(); }"
    )
    mounts = 'mount -t tracefs none /sys/kernel/tracing 2>/dev/null; exec bpftrace -e "$0"'
    beside = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", mounts, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert beside.stdout is not None
    try:
        while "Attaching" not in (line := beside.stdout.readline()):
            assert line, "bpftrace did not start"
        yield
    finally:
        beside.send_signal(signal.SIGINT)
        report = beside.communicate()[0]
    assert "block_rq_complete" in report, "the other program saw nothing, so this proved nothing"
