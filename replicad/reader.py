"""Reading the source's disk, past the page cache, into buffers that exist.

Why O_DIRECT: a mounted filesystem writes to the disk underneath the device's own page cache, so
a buffered read of the device returns what was cached before. For a regular file that
is not so: there a filesystem that refuses O_DIRECT (some tmpfs, some FUSE) is read buffered, and
:attr:`DiskReader.direct` says so.

Many small ranges close to each other are read with one call, the gaps into a buffer that nobody
looks at: a gap costs bandwidth, a call costs latency. See :data:`GAP`.

A range that cannot be read is tried again granule by granule, so that the error names the exact
place, and what can be read is told from what cannot (:meth:`DiskReader.sift`); a disk that is gone
or has another size is told apart from one that cannot be read.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from protocol.errors import (
    SOURCE_DISK_GREW,
    SOURCE_DISK_MISSING,
    SOURCE_DISK_READ,
    SOURCE_DISK_RESIZED,
)
from protocol.link.buffers import Buffer
from replicad.unreadable import Range, Tell, Unreadable

BLKGETSIZE64 = 0x80081272
BLKSSZGET = 0x1268

GAP = 32 << 10
"""Bytes between two ranges up to which the gap is read as well. Measured by bench/reader_gap.py on
a virtual disk's file and on loop devices: one call takes 0.5-0.7 of two up to 16 KiB, 0.6-0.9 at
32 KiB, about the same at 64 KiB, and more beyond."""

ATTEMPTS = 3
"""How often a granule is tried before the disk is said to be unreadable there."""

TRY_SECONDS = 5.0
"""For trying again what could not be read."""

PIECE = 1 << 20
"""Bytes that are tried with one call when what can be read is told from what cannot."""

_IOV_MAX = 1024
_FILE_ALIGNMENT = 4096
_GONE = frozenset({errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM})

Preadv = Callable[[int, Sequence[memoryview], int], int]


def _text(error: OSError) -> str:
    return error.strerror or str(error)


class DiskReader:
    """An open source disk. ``read`` may be called by several threads at once.

    Attributes:
        path: as given.
        kind: ``disk`` (block device) or ``file``.
        size: bytes when it was opened.
        sector: bytes to which direct reads must be aligned.
        direct: whether reads go past the page cache.
        unreadable: where reading failed, until it is tried again with success.
    """

    def __init__(
        self,
        path: str,
        *,
        granule: int = 4096,
        gap: int = GAP,
        preadv: Preadv = os.preadv,
        tell: Tell | None = None,
    ) -> None:
        """Opens ``path``. Raises LocalFault ``source_disk_missing`` if that is not possible."""
        self.path = path
        self.unreadable = Unreadable(path, tell)
        self._granule = granule
        self._preadv = preadv
        self._trash = Buffer(max(gap, 4096)).view
        self._gap = gap
        self._fd, self.direct = self._open()
        try:
            self.kind = self._kind()
            self.size = self._size()
            self.sector = self._sector()
            if self.direct and self.kind == "file":
                self._try_direct()
        except BaseException:
            os.close(self._fd)
            raise

    def _open(self) -> tuple[int, bool]:
        flags = os.O_RDONLY | os.O_CLOEXEC
        try:
            return os.open(self.path, flags | os.O_DIRECT), True
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise self._missing(_text(error)) from error
        try:
            return os.open(self.path, flags), False
        except OSError as error:
            raise self._missing(_text(error)) from error

    def _kind(self) -> Literal["disk", "file"]:
        mode = os.fstat(self._fd).st_mode
        if stat.S_ISREG(mode):
            return "file"
        if not stat.S_ISBLK(mode):
            raise self._missing("it is neither a block device nor a regular file")
        if not self.direct:
            raise self._missing("it cannot be read past the page cache")
        return "disk"

    def _size(self) -> int:
        if self.kind == "file":
            return os.fstat(self._fd).st_size
        try:
            answer = fcntl.ioctl(self._fd, BLKGETSIZE64, bytes(8))
        except OSError as error:
            raise self._missing(_text(error)) from error
        (size,) = struct.unpack("=Q", answer)
        return int(size)

    def _sector(self) -> int:
        if self.kind == "file":
            return _FILE_ALIGNMENT
        (sector,) = struct.unpack("=i", fcntl.ioctl(self._fd, BLKSSZGET, bytes(4)))
        return int(sector)

    def _try_direct(self) -> None:
        """Some filesystems take the flag and refuse the read."""
        probe = Buffer(_FILE_ALIGNMENT)
        try:
            os.preadv(self._fd, [probe.view], 0)
        except OSError as error:
            if error.errno != errno.EINVAL:
                return  # it takes the flag; that this place cannot be read is another matter
            os.close(self._fd)
            self._fd, self.direct = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC), False
        finally:
            probe.free()

    def close(self) -> None:
        """Closes the disk."""
        os.close(self._fd)

    def check_size(self) -> None:
        """Raises LocalFault ``source_disk_grew``, ``..._resized`` (shrunk) or ``..._missing``."""
        size = self._size()
        if size == 0 and self.kind == "disk":
            raise self._missing("it has no medium any more")
        if size > self.size:
            raise SOURCE_DISK_GREW.fault(path=self.path, before=self.size, after=size)
        if size < self.size:
            raise SOURCE_DISK_RESIZED.fault(path=self.path, before=self.size, after=size)

    # --- reading ------------------------------------------------------------------------------

    def read(self, ranges: Sequence[Range], into: memoryview) -> int:
        """Reads ``(offset, length)`` ranges one behind the other; returns the sum of lengths.

        Ranges ascend, begin at multiples of the granule and end at one or at the disk's end.
        ``into`` is page-aligned, and large enough for the ranges rounded up to granules. Raises
        LocalFault: ``source_disk_read`` with the range that fails, ``..._missing``,
        ``..._resized``. After an error the content of ``into`` means nothing.
        """
        if not ranges:
            return 0
        one = len(ranges) == 1  # nearly all of a full pass
        size = ranges[0][1] if one else sum(length for _, length in ranges)
        if size + -ranges[-1][1] % self.sector > len(into):
            raise ValueError(f"{len(into)} bytes do not hold {len(ranges)} ranges")
        if one:
            return self._read_together(ranges, into)
        at = 0
        for low, high in self._calls(ranges):
            at += self._read_together(ranges[low:high], into[at:])
        return at

    def _calls(self, ranges: Sequence[Range]) -> Iterator[tuple[int, int]]:
        """Which ranges ``[low, high)`` are read with one call; there is one at least."""
        low = 0
        for index in range(1, len(ranges)):
            offset, length = ranges[index - 1]
            far = ranges[index][0] - offset - length > self._gap
            if far or 2 * (index - low) + 1 >= _IOV_MAX:
                yield low, index
                low = index
        yield low, len(ranges)

    def _read_together(self, ranges: Sequence[Range], into: memoryview) -> int:
        start, total, wanted, iov = ranges[0][0], 0, 0, []
        position = start
        for offset, length in ranges:
            if position < offset:
                iov.append(self._trash[: offset - position])
            wanted += offset - position + length
            room = length
            if self.direct:
                room = -(-length // self.sector) * self.sector
            iov.append(into[total : total + room])
            total += length
            position = offset + length
        try:
            if self._preadv(self._fd, iov, start) >= wanted:
                return total
        except OSError as error:
            self._raise_if_gone(error)
        self._read_apart(ranges, into)
        return total

    def _read_apart(self, ranges: Sequence[Range], into: memoryview) -> None:
        """The slow way, after an error or a short read: granule by granule, with retries."""
        self.check_size()
        at = 0
        for start, length in ranges:
            for offset in range(start, start + length, self._granule):
                part = min(self._granule, start + length - offset)
                self._read_granule(offset, part, into[at:])
                at += part

    def _read_granule(self, offset: int, length: int, into: memoryview) -> None:
        if reason := self._try_granule(offset, length, into):
            raise SOURCE_DISK_READ.fault(
                path=self.path, offset=offset, end=offset + length, detail=reason
            )

    def _try_granule(self, offset: int, length: int, into: memoryview) -> str:
        """Why a granule cannot be read, which is remembered; empty when it can."""
        reason = ""
        for _ in range(ATTEMPTS):
            try:
                if self._read_exact(offset, length, into):
                    return ""
                reason = "the disk ends there"
            except OSError as error:
                self._raise_if_gone(error)
                reason = _text(error)
        self.check_size()
        self.unreadable.add(offset, length, reason, time.monotonic())
        return reason

    def sift(self, ranges: Sequence[Range], seconds: float) -> tuple[list[Range], list[Range]]:
        """Tells what can be read from what cannot; the content is thrown away.

        Args:
            ranges: as for :meth:`read`, in any order.
            seconds: after which no more is tried: a sick disk takes long for each granule.

        Returns:
            What cannot be read, and what was not tried. Raises as :meth:`read`, but not
            ``source_disk_read``.
        """
        until = time.monotonic() + seconds
        bad: list[Range] = []
        untried: list[Range] = []
        scratch = Buffer(PIECE)
        try:
            for offset, length in _cut(ranges, PIECE):
                if time.monotonic() > until:
                    untried.append((offset, length))
                elif not self._reads(offset, length, scratch.view):
                    for at, part in _cut([(offset, length)], self._granule):
                        if time.monotonic() > until:
                            untried.append((at, part))
                        elif self._try_granule(at, part, scratch.view):
                            bad.append((at, part))
        finally:
            scratch.free()
        return bad, untried

    def try_again(self) -> None:
        """Tries what could not be read. In a worker thread; ends within seconds. Raises as
        :meth:`sift`."""
        known = self.unreadable.to_try()
        bad, untried = self.sift(known, TRY_SECONDS)
        self.unreadable.tried(known, bad, untried, time.monotonic())

    def _reads(self, offset: int, length: int, into: memoryview) -> bool:
        try:
            return self._read_exact(offset, length, into)
        except OSError as error:
            self._raise_if_gone(error)
            return False

    def _read_exact(self, offset: int, length: int, into: memoryview) -> bool:
        done = 0
        room = length
        if self.direct:
            room = -(-length // self.sector) * self.sector
        while done < length:
            got = self._preadv(self._fd, [into[done:room]], offset + done)
            if got <= 0:
                return False
            done += got
        return True

    def _raise_if_gone(self, error: OSError) -> None:
        """Raises ``source_disk_missing`` if the error means that the device vanished."""
        if error.errno in _GONE:
            raise self._missing(_text(error)) from error
        self.check_size()

    def _missing(self, detail: str) -> Exception:
        return SOURCE_DISK_MISSING.fault(path=self.path, detail=detail)

    # --- holes --------------------------------------------------------------------------------

    def data_ranges(self) -> Iterator[Range]:
        """Where a regular file has data, as ``(offset, length)``; the rest are holes.

        A block device, or a filesystem that does not know holes, is one range. Start tracking
        before asking: what is written afterwards is the tracker's to report.
        """
        if self.kind == "disk":
            yield 0, self.size
            return
        end = 0
        while end < self.size:
            try:
                start = os.lseek(self._fd, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise self._missing(_text(error)) from error
            end = min(os.lseek(self._fd, start, os.SEEK_HOLE), self.size)
            if start < end:
                yield start, end - start


def _cut(ranges: Sequence[Range], size: int) -> Iterator[Range]:
    """The ranges in pieces of at most ``size`` bytes."""
    for offset, length in ranges:
        for at in range(offset, offset + length, size):
            yield at, min(size, offset + length - at)
