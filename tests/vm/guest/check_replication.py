"""A receiver and a source on this kernel, over real disks: the copy is the source, byte for byte.

Where the kernel cannot carry the tracker (``REPLICAD_VM_TRACKER=none``) the same job works with
compare passes, and says so.
"""

from __future__ import annotations

import contextlib
import os
import platform
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.support.loops import MIB, mounted
from tests.support.pair import BIN, Pair, pair, same_content
from tests.vm.guest.disks import by_serial, disk

pytestmark = [pytest.mark.root, pytest.mark.timeout(800)]

TRACKED = os.environ["REPLICAD_VM_TRACKER"] == "ebpf"
JOBS = {
    "scsi": [("ext4", "scsi")],
    "two": [("ext4", "linear"), ("xfs", "blk0")],
    "raid1": [("ext4", "raid1")],
}
"""The disks of each job, and what is on them."""


@contextlib.contextmanager
def place(kind: str) -> Iterator[str]:
    if kind == "blk0":
        yield by_serial("blk0")
        return
    with disk(kind) as path:
        yield os.path.realpath(path)


def test_check_says_what_this_kernel_can() -> None:
    done = subprocess.run([BIN / "replicad", "check"], capture_output=True, text=True, check=False)
    said = " ".join(done.stdout.split())
    if TRACKED:
        assert "ok tracker its programs load and attach" in said
    else:
        release = platform.release()
        assert f"warning kernel Linux {release} is older than 5.12: no tracker" in said
        assert "Each sync will compare both sides" in said


class Churn:
    """A thread that writes, removes and overwrites files until it is told to stop."""

    def __init__(self, where: Path) -> None:
        self._where = where
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.written = 0

    def _work(self) -> None:
        chosen = random.Random(11)
        while not self._stopped.is_set():
            file = self._where / f"f{chosen.randrange(9)}"
            data = chosen.randbytes(chosen.randrange(1, 60_000))
            file.write_bytes(data)
            if chosen.random() < 0.3:
                (self._where / f"f{chosen.randrange(9)}").unlink(missing_ok=True)
            with (self._where / "database").open("r+b") as database:
                database.seek(chosen.randrange(8 * MIB - 4096) // 4096 * 4096)
                database.write(chosen.randbytes(4096))
                os.fsync(database.fileno())
            self.written += len(data)
            # Little, and a load all the same: a slow machine without KVM, with other tests beside
            # it, has been seen to send 0.2 MB/s, and to others' writes the senders give way.
            time.sleep(0.5)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()


class Source:
    """A mounted disk of the job, and what it was when it was frozen."""

    def __init__(self, number: int, device: str, root: Path) -> None:
        self.number = number
        self.device = device
        self.root = root
        self.reference = Path(f"/dev/shm/reference-{number}")
        (root / "database").write_bytes(random.Random(1).randbytes(8 * MIB))

    def identical(self, both: Pair) -> bool:
        return same_content(both.intermediate(self.number), self.reference)


@pytest.mark.parametrize("job", JOBS)
def test_a_job_under_load_and_a_killed_source(job: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        sources = []
        for number, (kind, where) in enumerate(JOBS[job]):
            device = stack.enter_context(place(where))
            root = stack.enter_context(mounted(device, tmp_path / f"mnt{number}", kind))
            sources.append(Source(number, device, root))
            stack.callback(sources[-1].reference.unlink, missing_ok=True)
        both = stack.enter_context(pair([source.device for source in sources]))
        copy = "rm -f {0}; dd if={1} of={0} iflag=direct bs=1M conv=sparse"
        copies = [copy.format(source.reference, source.device) for source in sources]
        both.hook("frozen", "10-reference", "\n".join(copies))
        with contextlib.ExitStack() as load:
            for source in sources:
                load.enter_context(Churn(source.root))
            both.create("--freeze-budget", "60s", "--compress", "none")
            both.synced(240)
            assert_grade(both)
            taken = both.checkpoint("--hold")
            assert taken["consistency"] == "filesystem"
            assert all(source.identical(both) for source in sources)
            both.resume()
            both.source.kill()
            time.sleep(1.0)  # what is written now only the kernel sees
        wire = both.show()["wire_bytes"]
        both.source.start()
        both.synced(240)
        assert_grade(both)
        both.checkpoint("--hold")
        assert all(source.identical(both) for source in sources)
        if TRACKED:  # a delta: neither a full copy nor a comparison
            for disk_view in both.show()["disks"]:
                assert "since the full pass" in disk_view["trust"]
        assert both.show()["wire_bytes"] - wire < 20 * MIB * len(sources)


def assert_grade(both: Pair) -> None:
    """Whether this kernel's tracker is used, and what is said where it is not."""
    sentence = both.status()["tracker"]["sentence"]
    for disk_view in both.show()["disks"]:
        if TRACKED:
            assert disk_view["tracker"] == "ebpf"
            assert sentence == ""
            assert disk_view["pass"] in ("delta", "idle"), disk_view
        else:
            assert disk_view["tracker"] == "none"
            for said in (sentence, disk_view["trust"]):
                assert "is too old for the tracker, which needs 5.12" in said
