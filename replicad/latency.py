"""Looks at what others wait for the disks that we read; see :mod:`replicad.courtesy`.

One thread for all disks of a transfer. It reads single blocks at random places, each by itself,
past the page cache and through a descriptor of its own, and the kernel's counters
(Documentation/admin-guide/iostats.rst, /sys/dev/block/MAJ:MIN/stat). A disk that does not answer
keeps this thread and nobody else: holds end by themselves.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import platform
import random
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from protocol.local import log
from replicad.courtesy import Courtesy, Looked

HOLD_SECONDS: Final = 0.12
"""That nobody of us reads, to see the disk without us."""

PERIOD_SECONDS: Final = 5.0
"""Between two looks while somebody else uses the disk: 2 % of the time is spent looking."""

QUIET_SECONDS: Final = 15.0
"""The same while nobody does."""

FIRST_SECONDS: Final = 2.0
"""Before the first look: a pass that is over by then needs none."""

PROBES: Final = 5
"""Small reads of each kind. One every half second is nothing, also to a disk that must seek."""

NICE: Final = 5
"""Of a thread that steps back: beside one like any other it gets a quarter of a processor
(sched(7): each step is a tenth)."""

BLOCK: Final = 4096
_SYS = Path("/sys/dev/block")
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}
_CLASSES = {False: 0, True: 3 << 13}

_log = log.get("courtesy")


class Counters(NamedTuple):
    """Reads and writes that a disk has completed."""

    reads: int
    writes: int


def counters(text: str) -> Counters:
    """Of a ``stat`` file; discards and flushes are nobody's waiting."""
    fields = text.split()
    return Counters(int(fields[0]), int(fields[4]))


def step_back(thread: int, *, back: bool) -> None:
    """Have a thread make way for others, or again be like any other.

    It reads only when nobody else wants to, where the disk's scheduler knows that (ioprio_set(2),
    IOPRIO_CLASS_IDLE; BFQ and mq-deadline do), and gets a smaller share of the processors where
    all are busy (:data:`NICE`). What cannot be had changes nothing: the way back from being nice
    needs CAP_SYS_NICE or LimitNICE=.

    Args:
        thread: its number, as the kernel has it.
    """
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None).syscall(number, 1, thread, _CLASSES[back])
    with contextlib.suppress(PermissionError, ProcessLookupError):
        # Of this thread: what POSIX has for processes Linux has for threads (setpriority(2)).
        os.setpriority(os.PRIO_PROCESS, thread, NICE if back else 0)


class Probe:
    """Small reads of one block device.

    Raises:
        OSError: it cannot be opened, or is no block device.
    """

    def __init__(self, path: str, size: int) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        try:
            status = os.fstat(self._fd)
            if not stat.S_ISBLK(status.st_mode):
                raise OSError(f"{path} is no block device")
            device = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
            self._stat = _SYS / device / "stat"
            self.counters()
        except BaseException:
            os.close(self._fd)
            raise
        self._blocks = max(1, size // BLOCK)
        self._buffer = mmap.mmap(-1, BLOCK)
        self._random = random.Random()  # noqa: S311 - places to read, no secret

    def counters(self) -> Counters:
        """The kernel's."""
        return counters(self._stat.read_text())

    def seconds(self) -> float:
        """What reading one block took."""
        place = self._random.randrange(self._blocks) * BLOCK
        begun = time.monotonic()
        os.preadv(self._fd, [self._buffer], place)
        return time.monotonic() - begun

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


class Watch(threading.Thread):
    """Looks at disks until stopped.

    Args:
        disks: path and size of each, and how we read it.
        read_bytes: what we have read of them so far: while that does not grow nobody waits for us,
            and nobody is looked at.
    """

    def __init__(
        self, disks: Mapping[tuple[str, int], Courtesy], read_bytes: Callable[[], int]
    ) -> None:
        super().__init__(name="latency", daemon=True)
        self._disks = disks
        self._read_bytes = read_bytes
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Ask it to end. It may be waiting for a disk: nobody waits for it."""
        self._stopping.set()

    def run(self) -> None:
        """Look, think, wait."""
        if self._stopping.wait(FIRST_SECONDS):
            return
        with contextlib.ExitStack() as stack:
            watched = list(self._open(stack))
            due = dict.fromkeys(range(len(watched)), 0.0)
            before = -1
            while watched and not self._stopping.is_set():
                read, before = before, self._read_bytes()
                for index, (probe, courtesy) in enumerate(watched if read != before else ()):
                    # A place that cannot be read says nothing about those that can.
                    with contextlib.suppress(OSError):
                        self._look(probe, courtesy, due, index)
                if self._stopping.wait(0.5):
                    return

    def _open(self, stack: contextlib.ExitStack) -> Iterator[tuple[_Watched, Courtesy]]:
        for (path, size), courtesy in self._disks.items():
            try:
                probe = Probe(path, size)
            except OSError as error:
                _log.debug("courtesy.none", disk=path, because=str(error))
                continue
            stack.callback(probe.close)
            yield _Watched(probe), courtesy

    def _look(self, disk: _Watched, courtesy: Courtesy, due: dict[int, float], index: int) -> None:
        disk.beside.append(disk.probe.seconds())
        now = time.monotonic()
        if now < due[index] or len(disk.beside) < PROBES:
            return
        courtesy.hold(now + HOLD_SECONDS)
        # What we had begun to read is read by then.
        time.sleep(HOLD_SECONDS / 4)
        before, begun, without = disk.probe.counters(), time.monotonic(), list[float]()
        while time.monotonic() < now + HOLD_SECONDS:
            without.append(disk.probe.seconds())
            time.sleep(HOLD_SECONDS / 8)
        after, seconds = disk.probe.counters(), time.monotonic() - begun
        count = after.reads - before.reads + after.writes - before.writes - len(without)
        share = courtesy.share
        courtesy.looked(Looked(without, tuple(disk.beside), max(0, count) / seconds))
        disk.beside.clear()
        busy = courtesy.share < 1.0 or count > len(without)
        due[index] = time.monotonic() + (PERIOD_SECONDS if busy else QUIET_SECONDS)
        if courtesy.share != share:
            _log.debug("courtesy.share", share=round(courtesy.share, 2), because=courtesy.because)


class _Watched:
    """A disk, and what our last small reads beside our large ones took."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.beside: deque[float] = deque(maxlen=PROBES)
