"""What would a full copy mean? Reads a small, fair sample of the disks and works it out.

An administrator plans a migration before there is a receiver: how much is on the disks, how
well it compresses, how long a first copy takes over his line. The disk is cut into as many
strata as samples are affordable and one extent is read at a random place of each, in random
order: so the answer is unbiased even when time ends the sampling early (stratified sampling,
Cochran 1977, chapter 5), and data at the front of a disk does not stand for all of it.

Reads are O_DIRECT into one aligned buffer: the page cache of the server is left as it was,
and the read speed is the disk's. Random extents of this size read a little slower than the
sequential pass will on rotating disks, and what deleted files left behind counts as used
(the copy skips it where the filesystem tells), so the estimate errs on the slow side.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import zstandard

from protocol.errors import SOURCE_DISK_MISSING, SOURCE_DISK_READ
from protocol.units import format_duration, format_rate, format_size, parse_rate
from protocol.views import EstimateDisk, EstimateView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

EXTENT: Final = 512 << 10
"""Bytes of one sample: long enough that seeks do not dominate, short enough for thousands."""

GRANULE: Final = 4096
SAMPLES: Final = 2048
"""Most samples of a disk: with these the used share is known to about two percent."""

SECONDS: Final = 3.0
"""Longest time that one disk is sampled."""

LEVEL: Final = 1
RATES: Final = ("100Mbit", "1Gbit", "10Gbit")


@dataclass(slots=True)
class Sample:
    """Sums over what was read of one disk, in bytes, and the seconds that reading took."""

    read: int = 0
    used: int = 0
    compressed: int = 0
    seconds: float = 0.0

    def add(self, content: memoryview, compressor: zstandard.ZstdCompressor) -> None:
        """Account for one extent: its granules that are not zero, and how they compress."""
        words = np.frombuffer(content, dtype=np.uint64)
        granules = words.reshape(-1, GRANULE // words.itemsize).any(axis=1)
        used = int(granules.sum()) * GRANULE
        self.read += len(content)
        self.used += used
        if used:
            self.compressed += min(used, len(compressor.compress(content)))

    def disk(self, path: str, size: int) -> EstimateDisk:
        """What the sample says about a whole disk of ``size`` bytes."""
        share = self.used / self.read if self.read else 0.0
        return EstimateDisk(
            path=path,
            size=size,
            used_bytes=round(size * share),
            compression_ratio=self.used / self.compressed if self.compressed else 1.0,
            read_bytes_per_second=self.read / self.seconds if self.seconds > 0 else 0.0,
        )


def positions(size: int, chance: random.Random, samples: int = SAMPLES) -> list[int]:
    """Byte offsets of the extents to read, one in each stratum, in random order.

    Each is aligned to a granule and its extent lies inside the disk; a small disk is read
    whole. The tail that does not fill a granule is left out.
    """
    extents = size // EXTENT
    strata = min(samples, extents)
    chosen = [
        chance.randrange(number * extents // strata, (number + 1) * extents // strata) * EXTENT
        for number in range(strata)
    ]
    chance.shuffle(chosen)
    return chosen or ([0] if size >= GRANULE else [])


def estimate(
    disks: Iterable[tuple[str, int]],
    *,
    clock: Callable[[], float] = time.monotonic,
    chance: random.Random | None = None,
    progress: Callable[[str, float], None] = lambda path, share: None,
) -> EstimateView:
    """Sample every (path, size) and say what a full copy would mean.

    Args:
        progress: called with the path and the share (0-1) of its sampling that is done.

    Raises:
        LocalFault: SOURCE_DISK_MISSING or SOURCE_DISK_READ.
    """
    chance = chance or random.Random()  # noqa: S311 - a sample, not a secret
    found = []
    for path, size in disks:
        sample = Sample()
        for share in _sampled(path, size, sample, clock, chance):
            progress(path, share)
        found.append(sample.disk(path, size))
    return summary(found)


def _sampled(
    path: str, size: int, sample: Sample, clock: Callable[[], float], chance: random.Random
) -> Iterator[float]:
    """Read the sample of one disk into ``sample``, yielding the share that is done."""
    compressor = zstandard.ZstdCompressor(level=LEVEL)
    offsets = positions(size, chance)
    begun = clock()
    with _opened(path) as disk, mmap.mmap(-1, EXTENT) as buffer, memoryview(buffer) as view:
        for number, offset in enumerate(offsets, 1):
            before = clock()
            try:
                got = os.preadv(disk, [view[: min(EXTENT, size - offset)]], offset)
            except OSError as error:
                raise SOURCE_DISK_READ.fault(
                    path=path, offset=offset, end=offset + EXTENT, detail=error.strerror
                ) from error
            sample.seconds += clock() - before
            with view[: got - got % GRANULE] as content:
                sample.add(content, compressor)
            share = max(number / len(offsets), (clock() - begun) / SECONDS)
            yield min(1.0, share)
            if share >= 1.0:
                break


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    """A descriptor for O_DIRECT reading; a filesystem without O_DIRECT is read by its cache."""
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        try:
            descriptor = os.open(path, flags | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            descriptor = os.open(path, flags)
    except OSError as error:
        raise SOURCE_DISK_MISSING.fault(path=path, detail=error.strerror) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def summary(disks: Iterable[EstimateDisk], rates: Iterable[str] = RATES) -> EstimateView:
    """The disks together, and the seconds that a first copy takes at each of ``rates``.

    A copy is as fast as the slower of the line and the disks; the disks are read one after
    another here, which is what a single pool of workers amounts to.
    """
    disks = tuple(disks)
    used = sum(disk.used_bytes for disk in disks)
    wire = sum(disk.used_bytes / disk.compression_ratio for disk in disks)
    reading = sum(
        disk.size / disk.read_bytes_per_second for disk in disks if disk.read_bytes_per_second
    )
    read = sum(disk.size for disk in disks)
    sentence = f"{format_size(used)} of {format_size(read)} are in use, {format_size(round(wire))}"
    sentence += " on the wire"
    if reading:
        duration = format_duration(round(reading, 1))
        sentence += f"; reading alone takes {duration} at {format_rate(read / reading)}"
    return EstimateView(
        disks=disks,
        total_bytes=read,
        used_bytes=used,
        compression_ratio=used / wire if wire else 1.0,
        seconds_at={rate: max(reading, wire / parse_rate(rate)) for rate in rates},
        sentence=sentence,
    )
