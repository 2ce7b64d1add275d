"""The receiver's storage: a page cache over a disk that forgets what was not synced.

:class:`SimOs` takes the place of ``os`` in :mod:`receiver.disk.base`, so the intermediate disk is
the real one down to its system calls: locks, bounds, short writes, poison after a failed sync.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace

from receiver.disk.base import IntermediateDisk
from receiver.evidence import Mark

SECTOR = 2048
"""What is written whole or not at all when the power goes: half a granule."""


class Medium:
    """One intermediate disk. ``visible`` is what reads see, ``stable`` what a crash leaves.

    ``fence``: descriptors below this number belong to sessions that a newer one has fenced.
    """

    def __init__(self, content: bytes, generation: str) -> None:
        self.stable = bytearray(content)
        self.visible = bytearray(content)
        self.generation = generation
        self.fence = 0
        self.untrusted = False
        self.fail_sync = False
        self._unsynced: dict[int, list[bytes]] = {}

    def write(self, offset: int, content: bytes) -> None:
        self.visible[offset : offset + len(content)] = content
        end = offset + len(content)
        for sector in range(offset // SECTOR, -(-end // SECTOR)):
            at = sector * SECTOR
            self._unsynced.setdefault(sector, []).append(bytes(self.visible[at : at + SECTOR]))

    def sync(self) -> None:
        if self.fail_sync:
            self.fail_sync = False
            self._lose(random.Random(len(self._unsynced)))
            raise OSError(errno.EIO, "Input/output error")
        for sector in self._unsynced:
            at = sector * SECTOR
            self.stable[at : at + SECTOR] = self.visible[at : at + SECTOR]
        self._unsynced.clear()

    def crash(self, chance: random.Random) -> None:
        """The power goes: of each sector any version since the last sync is left."""
        self._lose(chance)
        self.visible[:] = self.stable

    def _lose(self, chance: random.Random) -> None:
        for sector, versions in self._unsynced.items():
            at = sector * SECTOR
            old = bytes(self.stable[at : at + SECTOR])
            self.stable[at : at + SECTOR] = chance.choice([old, *versions])
        self._unsynced.clear()

    def replace(self, content: bytes, generation: str) -> None:
        """Somebody has put another content in its place, and the catalog knows it."""
        self.stable[:] = self.visible[:] = content
        self._unsynced.clear()
        self.generation = generation


class SimDisk(IntermediateDisk):
    """The real intermediate disk over a :class:`Medium`."""

    medium: Medium

    def allocated_extents(self) -> list[tuple[int, int]]:
        return [(0, self.size)]

    def mark(self) -> Mark:
        return Mark()

    def _zero_by_kernel(self, offset: int, length: int) -> bool:
        return False

    def _distrust(self) -> None:
        """As a raw file does: what opens it next finds that its content is not vouched for."""
        super()._distrust()
        self.medium.untrusted = True


class SimOs:
    """The system calls of :class:`IntermediateDisk`, on media instead of files."""

    def __init__(self, violation: Callable[[str], None]) -> None:
        self._violation = violation
        self._open: dict[int, Medium] = {}
        self._next = 1

    def open(self, medium: Medium, size: int, *, known_zero: bool) -> SimDisk:
        self._next += 1
        self._open[self._next] = medium
        disk = SimDisk(self._next, "medium", size, known_zero=known_zero)
        disk.medium = medium
        return disk

    def fence(self, medium: Medium) -> None:
        """A session has just been opened: only its own descriptor, the newest, may write."""
        medium.fence = self._next

    def kill(self) -> None:
        """The process is gone, and its descriptors."""
        self._open.clear()

    def _medium(self, fd: int) -> Medium:
        medium = self._open.get(fd)
        if medium is None:
            raise OSError(errno.EBADF, "Bad file descriptor")
        return medium

    def _write(self, fd: int, content: bytes, offset: int) -> int:
        medium = self._medium(fd)
        if fd < medium.fence:
            self._violation("promise 3: a fenced session has written")
        # Short now and then: whoever writes must go on.
        taken = len(content) if len(content) <= SECTOR else max(SECTOR, len(content) // 2)
        medium.write(offset, content[:taken])
        return taken

    def pwrite(self, fd: int, content: memoryview, offset: int) -> int:
        return self._write(fd, bytes(content), offset)

    def preadv(self, fd: int, views: Sequence[memoryview], offset: int) -> int:
        at = offset
        for view in views:
            view[:] = self._medium(fd).visible[at : at + len(view)]
            at += len(view)
        return at - offset

    def fdatasync(self, fd: int) -> None:
        self._medium(fd).sync()

    def posix_fadvise(self, fd: int, *_: int) -> None:
        medium = self._medium(fd)
        medium.visible[:] = medium.stable

    def close(self, fd: int) -> None:
        self._open.pop(fd, None)

    def statvfs(self, _: object) -> SimpleNamespace:
        return SimpleNamespace(f_bavail=1 << 20, f_frsize=4096)

    POSIX_FADV_DONTNEED = 4
