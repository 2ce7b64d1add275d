"""What of a disk nobody uses, so that it need not travel: free space and the inside of swap areas.

A mounted ext4 or xfs lists its free space (``FS_IOC_GETFSMAP``, ioctl_getfsmap(2)). It may be
left out because of the order: writes are tracked first, then the filesystem is asked, and only
then is what it named free taken out of the dirty map, by the thread that also drains the tracker.
Whatever is allocated after the question and written is marked by a later drain. What is allocated
and not written (preallocation) has no content that a filesystem would show.

Three things make an answer one to rely on. It comes from what a filesystem allocates *by*: an xfs
with a reverse map answers from that, where a block that was just copied on write is missing while
its owner changes (and so is named free). What was freed is free for good: a filesystem that dies
before it has noted that has the file again, in the same boot, so it is synced after the answer.
And it has found no errors in itself: a repair takes blocks into use without writing them.

An active swap area holds what the next boot does not ask for; only its header, by which it is
recognised, is of use. ``/proc/swaps`` is read after the tracker has handed over: what it handed
over had been written before, and a swap area that is active now makes nothing of what was there.

Neither is true of the past of a disk: the content of deleted files does not come along. And the
copy is not identical byte for byte to the disk, which is why it can be forbidden.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from replicad.freeze.blockgraph import number
from replicad.freeze.mounts import FrozenMount
from replicad.lesser import CAP_SYS_ADMIN, without

FS_IOC_GETFSMAP = 0xC0C0583B
"""_IOWR('X', 59, struct fsmap_head), linux/fsmap.h."""

FMR_OWN_FREE = 1
"""FMR_OWNER(0, 1): free space; the same number for every filesystem."""

FMR_OWN_UNKNOWN = 2
"""FMR_OWNER(0, 2): in use, by whatever it may be."""

FMR_OF_SPECIAL_OWNER, FMR_OF_LAST = 0x10, 0x20

ASKED = frozenset({"ext4", "xfs"})
"""Kinds that answer, and whose offsets are those of their one device."""

RECORDS = 4096
"""Records of one answer: 256 KiB."""

SHORTEST = 64 << 10
"""bytes; shorter runs of free space are copied: they cost less than they take to look up."""

MOST_RANGES = 1 << 20
"""Runs of free space that are kept, 16 MiB of them; what a badly fragmented filesystem has beyond
them is copied."""

SWAP_HEADER = 64 << 10
"""bytes at the beginning of a swap area that are kept: a page, on every architecture."""

SECTOR = 512
"""sysfs gives places in units of this."""

_HEAD = struct.Struct("=4I48x")
_RECORD = struct.Struct("=2I4Q24x")
_OCTAL = re.compile(r"\\([0-7]{3})")
_libc = ctypes.CDLL(None, use_errno=True)

Range = tuple[int, int]
"""(offset, length) in bytes of the whole disk."""


@dataclass(frozen=True, slots=True)
class Area:
    """``length`` bytes from ``offset`` on of the whole disk ``device`` (``major:minor``)."""

    device: str
    offset: int
    length: int


def area_of(device: str, sysfs: Path = Path("/sys")) -> Area | None:
    """Where a disk or partition (``major:minor``) lies; None: it is gone, or not one of these."""
    base = sysfs / "dev/block" / device
    try:
        length = int((base / "size").read_text()) * SECTOR
        if not (base / "partition").exists():
            return Area(device, 0, length)
        offset = int((base / "start").read_text()) * SECTOR
        return Area((base.resolve().parent / "dev").read_text().strip(), offset, length)
    except (OSError, ValueError):
        return None


# --- swap -------------------------------------------------------------------------------------


def swap_devices(text: str) -> list[tuple[str, int]]:
    """Paths of the block devices in the text of ``/proc/swaps``, and how many bytes of each are
    swap, but for the page at its beginning (pure)."""
    lines = [line.split() for line in text.splitlines()[1:]]
    return [
        (_OCTAL.sub(lambda match: chr(int(match[1], 8)), words[0]), int(words[2]) << 10)
        for words in lines
        if len(words) >= 5 and words[1] == "partition" and words[2].isdigit()
    ]


def swap_areas(swaps: Path = Path("/proc/swaps"), sysfs: Path = Path("/sys")) -> list[Area]:
    """What lies behind the headers of the active swap areas. One that cannot be found on a disk
    is not among them, and nothing that lies behind the end that its header names. It opens
    nothing that can be frozen."""
    found: list[tuple[tuple[str, int], Area]] = []
    named = _named(swaps)
    for name, size in named:
        with contextlib.suppress(OSError):
            area = area_of(number(os.stat(name).st_rdev), sysfs)
            end = size + mmap.PAGESIZE
            # One that is smaller is another device: the name is of some other /dev.
            if area is not None and SWAP_HEADER < end <= area.length:
                inside = Area(area.device, area.offset + SWAP_HEADER, end - SWAP_HEADER)
                found.append(((name, size), inside))
    # Whatever was no longer swap may have been moved before it was found. Now it is swap there, or
    # it was when it was named: both will do.
    still = _named(swaps) if found else []
    return [area for each, area in found if each in still]


def _named(swaps: Path) -> list[tuple[str, int]]:
    try:
        return swap_devices(swaps.read_text(encoding="utf-8", errors="surrogateescape"))
    except OSError:
        return []


# --- free space -------------------------------------------------------------------------------


def question(count: int, last: bytes = bytes(_RECORD.size)) -> bytearray:
    """A request for ``count`` records after ``last``, the last one of the answer before."""
    everything = _RECORD.pack(0xFFFFFFFF, 0xFFFFFFFF, *[0xFFFFFFFFFFFFFFFF] * 3, 0)
    head = _HEAD.pack(0, 0, count, 0) + last + everything
    return bytearray(head) + bytearray(count * _RECORD.size)


def answered(
    answer: bytes | bytearray, device: int, *, plain: bool = False
) -> tuple[list[Range], bytes | None]:
    """The free ranges of one answer, within the filesystem's device, and the record after which
    to ask on; None: that was all (pure).

    Args:
        device: the filesystem's device number; what lies on another one is not ours.
        plain: only free space may be named; whose the rest is, only a reverse map knows.

    Raises:
        OSError: the answer comes from a reverse map.
    """
    entries = _HEAD.unpack_from(answer)[3]
    begin = _HEAD.size + 2 * _RECORD.size
    entries = min(entries, (len(answer) - begin) // _RECORD.size)
    found: list[Range] = []
    flags, at = FMR_OF_LAST, begin
    for at in range(begin, begin + entries * _RECORD.size, _RECORD.size):
        where, flags, physical, owner, _, length = _RECORD.unpack_from(answer, at)
        special = flags & FMR_OF_SPECIAL_OWNER
        named = not special or owner not in {FMR_OWN_FREE, FMR_OWN_UNKNOWN}
        if plain and named and where == device:
            raise OSError(errno.EPROTO, "the answer comes from a reverse map")
        if special and owner == FMR_OWN_FREE and where == device and length >= SHORTEST:
            found.append((physical, length))
    if not entries or flags & FMR_OF_LAST:
        return found, None
    return found, bytes(answer[at : at + _RECORD.size])


def free_ranges(fd: int, device: int, kind: str) -> Iterator[Range]:
    """Free space of the filesystem that ``fd`` is open on, in bytes of its device.

    Whoever is not CAP_SYS_ADMIN is answered by an xfs from its free space, not from its reverse map
    (fs/xfs/xfs_fsmap.c), from Linux 4.12 on. That it was so is seen in the answer.

    Raises:
        OSError: it does not answer.
    """
    last: bytes | None = bytes(_RECORD.size)
    while last is not None:
        answer = _answer(fd, kind, question(RECORDS, last))
        ranges, last = answered(answer, device, plain=kind == "xfs")
        yield from ranges


def _answer(fd: int, kind: str, asked: bytearray) -> bytearray:
    with without(CAP_SYS_ADMIN) if kind == "xfs" else contextlib.nullcontext():
        fcntl.ioctl(fd, FS_IOC_GETFSMAP, asked)
    return asked


@contextlib.contextmanager
def free_space(device: str, mounts: Iterable[FrozenMount]) -> Iterator[FreeSpace]:
    """What the mounted filesystems that lie directly on the disk ``device`` (``major:minor``) do
    not use now. One that does not answer, or lies on something else in between, has nothing.
    :meth:`FreeSpace.rely` comes before anything follows from it.
    """
    found = FreeSpace()
    try:
        for mount in mounts:
            with contextlib.suppress(OSError):
                if mount.kind in ASKED and _lies_on(mount, device):
                    found.ask(mount, device)
        yield found
    finally:
        found.close()


def _lies_on(mount: FrozenMount, device: str) -> bool:
    area = area_of(mount.device)
    return area is not None and area.device == device


def sync(fd: int) -> None:
    """Bring the filesystem that ``fd`` is open on to stable storage (syncfs(2)).

    Raises:
        OSError: it could not be.
    """
    if _libc.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def refuse_faulty(mount: FrozenMount, sysfs: Path = Path("/sys")) -> None:
    """Raises OSError if the filesystem has found errors in itself, or does not say (ext4; an xfs
    that finds some shuts down, and answers nothing)."""
    if mount.kind == "ext4":
        name = (sysfs / "dev/block" / mount.device).resolve().name
        if (sysfs / "fs/ext4" / name / "errors_count").read_text().strip() != "0":
            raise OSError(errno.EUCLEAN, f"{mount.point} has recorded errors")


class FreeSpace:
    """Many ranges of bytes, in 16 bytes each, and the filesystems that named them."""

    def __init__(self) -> None:
        self._numbers = array.array("Q")
        self._asked: list[tuple[FrozenMount, int, int]] = []

    def __len__(self) -> int:
        return len(self._numbers) // 2

    def __iter__(self) -> Iterator[Range]:
        numbers = self._numbers
        return zip(numbers[::2], numbers[1::2], strict=True)

    def add(self, offset: int, length: int) -> None:
        """One more, if there is room."""
        if len(self) < MOST_RANGES:
            self._numbers.extend((offset, length))

    def forget(self, first: int, end: int) -> None:
        """Ranges that are not to be relied on."""
        del self._numbers[2 * first : 2 * end]

    def ask(self, mount: FrozenMount, device: str) -> None:
        """Add what a filesystem does not use. It stays open.

        Raises:
            OSError: it does not answer.
        """
        fd, before = _open(mount), len(self)
        self._asked.append((mount, fd, before))
        # Now that it is open its partition cannot be moved any more.
        area = area_of(mount.device)
        if area is None or area.device != device:
            return
        try:
            for offset, length in free_ranges(fd, os.fstat(fd).st_dev, mount.kind):
                if offset + length <= area.length:
                    self.add(area.offset + offset, length)
        except BaseException:
            self.forget(before, len(self))
            raise

    def rely(self) -> None:
        """Sync what was asked, so that nothing freed can be undone; what cannot be synced, or is
        faulty, has named nothing."""
        end = len(self)
        for mount, fd, before in reversed(self._asked):
            try:
                if before < end:
                    sync(fd)
                    # Before 5.17 a sync does not say that it failed. An xfs then answers nothing.
                    _answer(fd, mount.kind, question(1))
                    refuse_faulty(mount)
            except OSError:
                self.forget(before, end)
            end = before

    def close(self) -> None:
        """Close what was asked."""
        for _, fd, _ in self._asked:
            os.close(fd)
        self._asked.clear()


def _open(mount: FrozenMount) -> int:
    """The filesystem itself, whatever has been mounted over its path since.

    Raises:
        OSError: it cannot be reached.
    """
    for path, _ in mount.ways:
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            if number(os.fstat(fd).st_dev) == mount.device:
                return fd
            os.close(fd)
    raise OSError(0, f"{mount.point} cannot be reached")


def inner(ranges: Iterable[Range], granule: int, size: int) -> Iterator[Range]:
    """The granules ``(first, count)`` that lie wholly within byte ranges of a disk of ``size``
    bytes (pure)."""
    for offset, length in ranges:
        first, end = -(-offset // granule), min(offset + length, size) // granule
        if first < end:
            yield first, end - first


def on_disk(areas: Sequence[Area], device: str) -> list[Range]:
    """Those of some areas that lie on one disk."""
    return [(area.offset, area.length) for area in areas if area.device == device]
