"""The file behind a dirty map: header area, the bitmaps, checksums of their pages; mapped.

The file lies in a tmpfs (``/run``): it survives the process, not the boot, and never dirties
the disk that it describes. Its room is taken when it is made: a tmpfs that is full kills a process
that touches a page for which there is none (SIGBUS), and others fill /run, too. Of that room the
kernel knows which pages were never touched (SEEK_DATA), so an empty map is not read.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from protocol.errors import RUNTIME_FULL
from protocol.local import crash
from replicad.dirtymap.bitmap import PAGE_BYTES, Bitmap, page_count
from replicad.dirtymap.header import (
    HEADER_BYTES,
    Header,
    MapRefusedError,
    decode_newest,
    encode_slot,
    slot_offset,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


BITMAPS = 4
"""Dirty, suspect, in flight, left out; in this order."""

DAMAGED = "the daemon's record of what was written is damaged"
"""Why a map is refused of which a page is not as it was left."""


def file_size(header: Header) -> int:
    """Bytes of the file."""
    return HEADER_BYTES + BITMAPS * _bitmap_bytes(header) + _sums_bytes(header)


def _granules(header: Header) -> int:
    return -(-header.size // header.granule)


def _bitmap_bytes(header: Header) -> int:
    return page_count(_granules(header)) * PAGE_BYTES


def _sums_bytes(header: Header) -> int:
    return -(-BITMAPS * 8 * page_count(_granules(header)) // PAGE_BYTES) * PAGE_BYTES


class MapFile:
    """A mapped file: ``header``, and ``bitmaps`` (see BITMAPS)."""

    def __init__(self, fd: int, header: Header, sequence: int) -> None:
        """Maps ``fd``, which it closes. Bitmaps start uncounted, see :meth:`open`."""
        try:
            self._map = mmap.mmap(fd, file_size(header))
        finally:
            os.close(fd)
        self.header = header
        self._sequence = sequence
        self.bitmaps = tuple(self._bitmap(number) for number in range(BITMAPS))

    def _bitmap(self, number: int) -> Bitmap:
        length = _bitmap_bytes(self.header)
        offset = HEADER_BYTES + number * length
        words = np.frombuffer(self._map, dtype="<u8", count=length // 8, offset=offset)
        pages = length // PAGE_BYTES
        at = HEADER_BYTES + BITMAPS * length + number * pages * 8
        sums = np.frombuffer(self._map, dtype="<u8", count=pages, offset=at)
        return Bitmap(words, _granules(self.header), sums)

    @classmethod
    def create(cls, path: str, header: Header) -> MapFile:
        """A new file in place of what is at ``path``; LocalFault if there is no room for it."""
        header.check()
        header = msgspec.structs.replace(header, seeded=False)
        fresh = Path(f"{path}.new")
        fresh.unlink(missing_ok=True)
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _take_room(fd, path, file_size(header))
            os.pwrite(fd, encode_slot(header, 1), slot_offset(1))
            crash.here("map.unnamed")
            fresh.replace(path)
        except BaseException:
            os.close(fd)
            fresh.unlink()
            raise
        return cls(fd, header, 1)

    @classmethod
    def open(cls, path: str, distrust: Callable[[Header], str | None]) -> MapFile:
        """An existing file, counted. :class:`MapRefusedError` if it may not be believed."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            raise MapRefusedError("there is none") from error
        except OSError as error:
            raise MapRefusedError(f"it cannot be opened: {error.strerror}") from error
        try:
            sequence, header = decode_newest(os.pread(fd, HEADER_BYTES, 0))
            reason = _disbelief(fd, header) or distrust(header)
            if reason:
                raise MapRefusedError(reason)
            filled = list(_filled_pages(fd, file_size(header)))
        except BaseException:
            os.close(fd)
            raise
        found = cls(fd, header, sequence)
        if any(bitmap.damaged() for bitmap in found.bitmaps):
            found.close()
            raise MapRefusedError(DAMAGED)
        found._recount(filled)
        return found

    @staticmethod
    def peek(path: Path) -> Header:
        """The header of a file that is not opened. :class:`MapRefusedError` if it has none."""
        try:
            with path.open("rb", buffering=0) as file:
                return decode_newest(file.read(HEADER_BYTES))[1]
        except OSError as error:
            raise MapRefusedError(f"it cannot be opened: {error.strerror}") from error

    def _recount(self, filled: list[tuple[int, int]]) -> None:
        length = _bitmap_bytes(self.header) // PAGE_BYTES
        for number, bitmap in enumerate(self.bitmaps):
            base = HEADER_BYTES // PAGE_BYTES + number * length
            clipped = ((max(a - base, 0), min(b - base, length)) for a, b in filled)
            bitmap.recount((a, b) for a, b in clipped if a < b)
            bitmap.drop_beyond()

    def update(self, **changes: object) -> Header:
        """Writes a changed header into the slot that is not in use."""
        header = msgspec.structs.replace(self.header, **changes)
        if (header.size, header.granule) != (self.header.size, self.header.granule):
            raise ValueError("size and granule decide the layout: make a new map")
        slot = encode_slot(header, self._sequence + 1)
        at = slot_offset(self._sequence + 1)
        # The end first: until its beginning is there as well, the slot does not check.
        half = len(slot) // 2
        self._map[at + half : at + len(slot)] = slot[half:]
        crash.here("map.header_torn")
        self._map[at : at + half] = slot[:half]
        self.header, self._sequence = header, self._sequence + 1
        return header

    def vouch(self) -> None:
        """Makes the checksums that are missing."""
        for bitmap in self.bitmaps:
            bitmap.vouch()

    def rest(self) -> None:
        """Lets go of the pages that this process has touched, which stay in the file: a map of 32
        MiB that is looked at now and then need not weigh on the daemon (madvise(2))."""
        with contextlib.suppress(OSError):  # locked, while something is frozen
            self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Unmaps. The bitmaps must not be used any more."""
        for bitmap in self.bitmaps:
            bitmap.release()
        self._map.close()


def _disbelief(fd: int, header: Header) -> str | None:
    if os.fstat(fd).st_size != file_size(header):
        return "the file has another size than its header says"
    if not header.seeded:
        return "it was never filled"
    return None


def _take_room(fd: int, path: str, needed: int) -> None:
    try:
        os.posix_fallocate(fd, 0, needed)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        os.ftruncate(fd, 0)
        system = os.fstatvfs(fd)
        free = system.f_bavail * system.f_frsize
        raise RUNTIME_FULL.fault(path=path, free=free, needed=needed) from error


def _filled_pages(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Ranges ``[first, end)`` of pages of the file that are not holes."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start // PAGE_BYTES, -(-end // PAGE_BYTES)
