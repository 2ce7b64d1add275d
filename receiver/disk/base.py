"""One interface for everything that content is written to, and what all kinds share.

The ideas it rests on:

* **Positional I/O only** (pwrite, preadv): workers of all connections use one descriptor
  at once, with no seek to share and the GIL released.
* **A failed sync is final.** Linux reports a writeback error once and marks the pages clean
  (fsync(2), "fsyncgate"), so a second fdatasync would say "durable" of data that
  is gone. The disk is poisoned instead: every later call fails with the same fault, the
  cached pages are dropped so that nobody reads what the device does not hold, and the
  identity mark of a file is removed, so that its next use begins with a compare pass.
* **A closed descriptor's number is reused by the kernel**: see :mod:`receiver.disk.calls`.
"""

from __future__ import annotations

import abc
import contextlib
import errno
import os
import threading
from typing import TYPE_CHECKING, Self

from protocol.errors import RECEIVER_FULL, TARGET_IO, LocalFault
from protocol.local import crash
from receiver.disk.calls import Calls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from receiver.disk.lease import Lease
    from receiver.evidence import Mark

ZEROS = memoryview(bytes(1 << 20))
"""1 MiB that is written where the kernel cannot zero; larger gains nothing (measured: memory
bandwidth of the page cache, not calls, is the limit)."""

FOLIO_MAX = 2 << 20
"""Bytes of the largest pieces in which the page cache keeps a file (PMD_SIZE, with 4 KiB pages)."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_UNLEASED = contextlib.nullcontext()


class IntermediateDisk(abc.ABC):
    """An intermediate disk that is open for this process alone. All methods are thread-safe.

    Attributes:
        path: where it is, for people and messages.
        size: bytes that the source's disk has; a device may be larger, the rest is not touched.
        known_zero: it held only zeros when it was opened (nothing need be zeroed then).
        doubt: why its content is not what the catalog says of it, in words; '' if it may be.
        lease: notices that somebody else changes it; where that can be noticed.
    """

    def __init__(self, descriptor: int, path: str, size: int, *, known_zero: bool) -> None:
        self.path = path
        self.size = size
        self.known_zero = known_zero
        self.doubt = ""
        self.lease: Lease | None = None
        self._descriptor = descriptor
        self._syncing = threading.Lock()
        self._writing: contextlib.AbstractContextManager[object] = _UNLEASED
        self._calls = Calls(path, self._fault)

    @property
    def poisoned(self) -> LocalFault | None:
        """Why nothing may be believed of this disk any more: the fault of a failed sync."""
        return self._calls.poison

    def write(self, offset: int, content: memoryview) -> None:
        """Write all of ``content`` at ``offset``, as :meth:`write_pieces` does."""
        self.write_pieces([(offset, content)])

    def write_pieces(self, pieces: Sequence[tuple[int, memoryview]]) -> None:
        """Write all pieces, each an offset and what is to be there, as bytes.

        All of a frame is one call of this: what has to be looked at before a write, and after it,
        takes longer than writing 4 KiB does.

        When it returns, the content is in the page cache; :meth:`sync` makes it durable.

        Raises:
            LocalFault: RECEIVER_FULL, TARGET_IO; a part may have been written.
            ValueError: a range is not within the disk, or the disk is closed.
        """
        for offset, content in pieces:
            self._check_within(offset, len(content))
        with self._calls, self.lease or _UNLEASED:
            self._check_room()
            for offset, content in pieces:
                done = 0
                while done < len(content):
                    with self._writing:
                        done += os.pwrite(self._descriptor, content[done:], offset + done)
                crash.here("segment.written")

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros, as a hole where that is possible.

        Raises:
            LocalFault: RECEIVER_FULL, TARGET_IO.
            ValueError: the range is not within the disk, or the disk is closed.
        """
        self._check_within(offset, length)
        with self._calls, self.lease or _UNLEASED:
            if length and not self._zero_by_kernel(offset, length):
                self._write_zeros(offset, length)

    def read(self, ranges: Sequence[tuple[int, int]], into: memoryview) -> int:
        """Read ``(offset, length)`` ranges one behind the other; returns the sum of lengths.

        Raises:
            LocalFault: TARGET_IO, also for a disk that has become shorter.
            ValueError: a range is not within the disk, or the disk is closed.
        """
        for offset, length in ranges:
            self._check_within(offset, length)
        filled = 0
        with self._calls:
            for offset, length in ranges:
                end = filled + length
                while filled < end:
                    at = offset + length - (end - filled)
                    count = os.preadv(self._descriptor, [into[filled:end]], at)
                    if count == 0:
                        raise OSError(errno.EIO, f"it ends at byte {at}")
                    filled += count
        return filled

    def sync(self) -> None:
        """Bring all that was written before this call to stable storage.

        Raises:
            LocalFault: TARGET_IO (or RECEIVER_FULL, for delayed allocation). The disk is then
                poisoned for good: reopen it, under a new generation.
            ValueError: the disk is closed.
        """
        # One at a time: of two that run at once, only one is told of an error (the kernel
        # reports it once for a descriptor), and the other would call lost data durable.
        with self._syncing, self._calls:
            try:
                os.fdatasync(self._descriptor)
                crash.here("disk.synced")
            except OSError as error:
                self._calls.poison = self._fault(error)
                self._distrust()
                raise self._calls.poison from error

    def look(self) -> None:
        """See whether somebody else has changed it, as far as that can be seen.

        Raises:
            LocalFault: TARGET_TOUCHED.
        """
        if self.lease is not None:
            self.lease.look()

    @abc.abstractmethod
    def mark(self) -> Mark:
        """By what a change of it is seen from now on. Sync before.

        Raises:
            LocalFault: TARGET_IO.
        """

    def is_hole(self, offset: int, length: int) -> bool:
        """Whether a range is known to read as zeros without being read. False says nothing."""
        self._check_within(offset, length)
        with self._calls:
            return self._is_hole(offset, length)

    def forget(self, offset: int, length: int) -> None:
        """Drop what the page cache has of a range, so that the next read is of the medium.

        Pages that are dirty stay (posix_fadvise(2)); what was acknowledged has been synced. A
        folio that lies across the range's ends would stay as well, hence the wider range.
        """
        self._check_within(offset, length)
        with self._calls:
            start = offset // FOLIO_MAX * FOLIO_MAX
            end = -(-(offset + length) // FOLIO_MAX) * FOLIO_MAX
            os.posix_fadvise(self._descriptor, start, end - start, os.POSIX_FADV_DONTNEED)

    @abc.abstractmethod
    def allocated_extents(self) -> list[tuple[int, int]]:
        """(offset, length) of what may be other than zeros, ascending."""

    def allocated_bytes(self) -> int:
        """Bytes of storage that it may take up."""
        return sum(length for _, length in self.allocated_extents())

    def close(self) -> None:
        """Wait for calls in progress, then release it. Does not sync. May be called twice."""
        if self._calls.close():
            os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abc.abstractmethod
    def _zero_by_kernel(self, offset: int, length: int) -> bool:
        """Zero without writing; False when that cannot be done here."""

    def _is_hole(self, offset: int, length: int) -> bool:
        return False

    def _distrust(self) -> None:
        """After a failed sync: drop the cache, which may show what was never stored."""
        with contextlib.suppress(OSError):  # advice; the disk is poisoned whatever it says
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def _write_zeros(self, offset: int, length: int) -> None:
        while length:
            written = os.pwrite(self._descriptor, ZEROS[: min(length, len(ZEROS))], offset)
            offset += written
            length -= written

    def _check_within(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ValueError(f"bytes {offset}+{length} are not within {self.path} ({self.size})")

    def _check_room(self) -> None:  # noqa: B027 - a kind of disk may have nothing to look at
        """Before a write: raises RECEIVER_FULL while there is still room for the catalog."""

    def _fault(self, error: OSError) -> LocalFault:
        if error.errno in _FULL:
            return RECEIVER_FULL.fault(path=self.path, free=free_bytes(self._descriptor))
        return TARGET_IO.fault(path=self.path, detail=error.strerror or str(error))


def free_bytes(where: int | str) -> int:
    """Bytes that the filesystem of a descriptor or path can still take (statvfs(3))."""
    filesystem = os.statvfs(where)
    return filesystem.f_bavail * filesystem.f_frsize
