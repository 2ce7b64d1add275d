"""Nothing is left behind: what a run began ends with it, also on Ctrl-C and SIGTERM.

Every scene takes away what it made. Behind that stands this: descendants whose parents are gone
come to us (we are their subreaper), and whoever is still there at the end is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

PR_SET_CHILD_SUBREAPER = 36
WAIT_SECONDS = 5.0

MEMORY = Path("/dev/shm")
"""All files of a benchmark lie here: no disk of this machine is measured or worn."""


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory in memory, removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="replicad-bench-", dir=MEMORY))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def touched(size: int) -> None:
    """Memory for a new file of ``size`` bytes that the machine has used a moment ago.

    Peers copy into a file whose pages exist. Ours makes a new one, and on a virtual machine whose
    host takes back what is free (free page reporting) the first touch of a page costs up to 2 ms
    for each MiB: ten times as much as all that a copy does with it.
    """
    with tempfile.TemporaryFile(dir=MEMORY, buffering=0) as file:
        zeros = bytes(1 << 20)
        for _ in range(-(-size >> 20)):
            file.write(zeros)


def children() -> list[int]:
    """Our child processes."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found


def reap() -> None:
    """Kill and collect every descendant that is still there. Only ours are seen here."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (left := children()) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.02)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """The first one ends the run; the next must not break off the cleaning up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextlib.contextmanager
def clean_exit() -> Iterator[None]:
    """Around the whole run."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        reap()
