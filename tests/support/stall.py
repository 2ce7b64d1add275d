"""An independent observer of a filesystem: the longest time that nobody could write to it.

A process of its own, run before all others, that knows nothing of freezes: one thread writes a
block to the page cache again and again, another writes and syncs. The first waits for a freeze
and for little else; the second also waits for the disk, as a database does.

What they see is in shared memory: for each the beginning of its present write, the longest so far
(both in seconds) and a count, 8 bytes each. Not with ``struct.pack_into``, which writes zeros
first: who reads in that moment would see a write that began when the machine did.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

_SCRIPT = """
import mmap, os, sys, threading, time
shared = memoryview(mmap.mmap(int(sys.argv[1]), 64))
seconds, counts = shared.cast("d"), shared.cast("Q")
def watch(at, path, sync):
    try:
        os.sched_setscheduler(threading.get_native_id(), os.SCHED_RR, os.sched_param(1))
    except OSError:
        pass
    out = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    while True:
        begun = time.monotonic()
        seconds[at] = begun
        os.pwrite(out, bytes(4096), 0)
        if sync:
            os.fdatasync(out)
        now = time.monotonic()
        seconds[at + 1] = max(seconds[at + 1], now - begun)
        counts[at + 2] += 1
        time.sleep(0.002)
threading.Thread(target=watch, args=(4, sys.argv[2] + ".synced", True), daemon=True).start()
watch(0, sys.argv[2] + ".written", False)
"""

WRITTEN, SYNCED = 0, 4
"""Where the first and the second have their place, in units of 8 bytes."""


class Observer:
    """Watches the filesystem at ``point``. Use as ``with``."""

    def __init__(self, point: Path) -> None:
        fd = os.memfd_create("stall")
        os.ftruncate(fd, 64)
        shared = memoryview(mmap.mmap(fd, 64))
        self._seconds, self._counts = shared.cast("d"), shared.cast("Q")
        words = [sys.executable, "-I", "-S", "-c", _SCRIPT, str(fd), str(point / "observer")]
        self._process = subprocess.Popen(words, pass_fds=(fd,))
        os.close(fd)

    def __enter__(self) -> Self:
        until = time.monotonic() + 20
        while not (self._counts[WRITTEN + 2] > 3 and self._counts[SYNCED + 2] > 3):
            assert time.monotonic() < until, "the observer does not start"
            time.sleep(0.01)
        self.restart()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def _longest(self, at: int) -> float:
        begun, longest = self._seconds[at], self._seconds[at + 1]
        return max(longest, time.monotonic() - begun)

    def restart(self) -> None:
        """Forget what was seen so far; nothing may be frozen now."""
        for at in (WRITTEN, SYNCED):
            self._seconds[at + 1] = 0.0

    @property
    def stalled(self) -> float:
        """Seconds of the longest write to the page cache, also of one that goes on."""
        return self._longest(WRITTEN)

    @property
    def synced(self) -> float:
        """Seconds of the longest write and sync, also of one that goes on."""
        return self._longest(SYNCED)

    def goes_on(self, seconds: float) -> None:
        """Wait until both can write again."""
        now = self._counts
        counts = now[WRITTEN + 2], now[SYNCED + 2]
        until = time.monotonic() + seconds
        while now[WRITTEN + 2] < counts[0] + 3 or now[SYNCED + 2] < counts[1] + 3:
            assert time.monotonic() < until, "it stays frozen"
            time.sleep(0.005)
