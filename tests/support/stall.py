"""An independent observer of a filesystem: the longest time that nobody could write to it.

A process of its own, run before all others, that knows nothing of freezes: one thread writes a
block to the page cache again and again, another writes and syncs. The first waits for a freeze
and for little else; the second also waits for the disk, as a database does.
"""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

_SCRIPT = """
import mmap, os, struct, sys, threading, time
shared = mmap.mmap(int(sys.argv[1]), 64)
def watch(at, path, sync):
    try:
        os.sched_setscheduler(threading.get_native_id(), os.SCHED_RR, os.sched_param(1))
    except OSError:
        pass
    out = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    while True:
        begun = time.monotonic()
        struct.pack_into("d", shared, at, begun)
        os.pwrite(out, bytes(4096), 0)
        if sync:
            os.fdatasync(out)
        now = time.monotonic()
        longest = struct.unpack_from("d", shared, at + 8)[0]
        struct.pack_into("dQ", shared, at + 8, max(longest, now - begun),
                         struct.unpack_from("Q", shared, at + 16)[0] + 1)
        time.sleep(0.002)
threading.Thread(target=watch, args=(32, sys.argv[2] + ".synced", True), daemon=True).start()
watch(0, sys.argv[2] + ".written", False)
"""


class Observer:
    """Watches the filesystem at ``point``. Use as ``with``."""

    def __init__(self, point: Path) -> None:
        fd = os.memfd_create("stall")
        os.ftruncate(fd, 64)
        self._shared = mmap.mmap(fd, 64)
        words = [sys.executable, "-I", "-S", "-c", _SCRIPT, str(fd), str(point / "observer")]
        self._process = subprocess.Popen(words, pass_fds=(fd,))
        os.close(fd)

    def __enter__(self) -> Self:
        until = time.monotonic() + 20
        while not (self._count(0) > 3 and self._count(32) > 3):
            assert time.monotonic() < until, "the observer does not start"
            time.sleep(0.01)
        self.restart()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def _count(self, at: int) -> int:
        return int(struct.unpack_from("Q", self._shared, at + 16)[0])

    def _longest(self, at: int) -> float:
        begun, longest = struct.unpack_from("dd", self._shared, at)
        return max(float(longest), time.monotonic() - float(begun))

    def restart(self) -> None:
        """Forget what was seen so far; nothing may be frozen now."""
        for at in (8, 40):
            struct.pack_into("d", self._shared, at, 0.0)

    @property
    def stalled(self) -> float:
        """Seconds of the longest write to the page cache, also of one that goes on."""
        return self._longest(0)

    @property
    def synced(self) -> float:
        """Seconds of the longest write and sync, also of one that goes on."""
        return self._longest(32)

    def goes_on(self, seconds: float) -> None:
        """Wait until both can write again."""
        counts = self._count(0), self._count(32)
        until = time.monotonic() + seconds
        while self._count(0) < counts[0] + 3 or self._count(32) < counts[1] + 3:
            assert time.monotonic() < until, "it stays frozen"
            time.sleep(0.005)
