"""What is read and sent next: batches cut from the dirty map.

Ideas. Long runs are cut at multiples of the batch size on the disk, so that a full pass reads
aligned extents; small runs are gathered, up to 256 in a batch, so that random 4 KiB writes share
the cost of a frame. One rule does both: cut runs at the multiples, then fill batches with pieces
in ascending order while they fit. A piece is never divided between batches.

A pass sweeps once from granule 0 upwards. What becomes dirty behind the cursor is for the next
pass. What is in flight when the cursor goes by is left alone, and if it is dirty again by then
it stays dirty *for the next pass too*: the sweep does not come back, because waiting for one
acknowledgement must not hold up a whole disk. So the end of a pass does not mean that nothing
is dirty; only a checkpoint needs that, and takes its final set with :func:`take_everything`
once the daemon has stopped sending and nothing is in flight.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from replicad.dirtymap import COMPARE_BLOCK, Batch, DirtyMap, Found, Kind, Segments
from replicad.dirtymap.bitmap import WORD_BITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replicad.dirtymap.bitmap import Index

SEGMENTS_MAX = 256
"""Runs in one batch: each costs a dozen bytes of the frame and one entry of an iovec."""


class NotSettledError(Exception):
    """A final set cannot be taken: something is in flight or suspect; ``str()`` says what."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """``batch_bytes`` and ``segments`` of one batch; ``batch_bytes`` is a power of two."""

    batch_bytes: int = 1 << 20
    segments: int = SEGMENTS_MAX

    def __post_init__(self) -> None:
        if self.batch_bytes < 1 or self.batch_bytes & (self.batch_bytes - 1) or self.segments < 1:
            raise ValueError(f"not usable as limits: {self}")


EXTENT_SECONDS = 0.25
"""What one extent may take on the line: on a slow one a whole MiB would hold up everything behind
it, make a bandwidth limit a row of bursts, and be sent again as a whole after a cut."""

EXTENT_LEAST = 64 << 10
"""bytes; below that a frame costs more than it is worth."""

DATA_LIMITS = BatchLimits()
COMPARE_LIMITS = BatchLimits(batch_bytes=16 << 20)


def extent_for(rate: float | None) -> int:
    """Bytes of one extent on a line that carries ``rate`` bytes of content per second; None: not
    known. As large as the protocol has it where the line is fast: a hop between threads for each
    extent is what costs there (pure)."""
    if rate is None:
        return DATA_LIMITS.batch_bytes
    fitting = max(1, int(rate * EXTENT_SECONDS))
    return min(DATA_LIMITS.batch_bytes, max(EXTENT_LEAST, 1 << fitting.bit_length() - 1))


def cut(starts: Index, ends: Index, extent: int) -> tuple[Index, Index]:
    """Divides runs ``[start, end)`` wherever they cross a multiple of ``extent`` (pure)."""
    low, high = starts // extent, (ends - 1) // extent
    pieces = high - low + 1
    if not (pieces > 1).any():
        return starts, ends
    last = np.cumsum(pieces)
    number = np.arange(last[-1]) - np.repeat(last - pieces - low, pieces)
    first = np.maximum(np.repeat(starts, pieces), number * extent)
    return first, np.minimum(np.repeat(ends, pieces), (number + 1) * extent)


def group(counts: Sequence[int], granules: int, segments: int) -> list[tuple[int, int]]:
    """Fills batches with pieces in order: ranges ``[i, j)`` of ``counts``, each with at most
    ``segments`` pieces and ``granules`` granules, none of which could take the next piece (pure).
    """
    total = [0]
    for count in counts:
        total.append(total[-1] + count)
    found, low = [], 0
    while low < len(counts):
        high = bisect_right(total, total[low] + granules, low, min(low + segments, len(counts)) + 1)
        found.append((low, high - 1))
        low = high - 1
    return found


def divide(
    found: Found, at_most: int, *, disk: int, kind: Kind, granules: int, segments: int
) -> list[Batch]:
    """The first ``at_most`` batches of what was found, each with at most so many ``granules``
    and ``segments`` (pure)."""
    if granules % WORD_BITS == 0 and found.solid_from(granules):
        return whole_extents(found, at_most, disk=disk, kind=kind, words=granules // WORD_BITS)
    return by_pieces(found, at_most, disk=disk, kind=kind, granules=granules, segments=segments)


def by_pieces(
    found: Found, at_most: int, *, disk: int, kind: Kind, granules: int, segments: int
) -> list[Batch]:
    """The same of runs of any kind: cut them into pieces, and fill batches with these (pure)."""
    starts, ends = cut(*found.runs(), granules)
    most = at_most * segments + 1
    firsts = starts[:most].tolist()
    counts = (ends[:most] - starts[:most]).tolist()
    batches = []
    for low, high in group(counts, granules, segments)[:at_most]:
        runs = tuple(zip(firsts[low:high], counts[low:high], strict=True))
        place, mask = found.between(firsts[low], firsts[high - 1] + counts[high - 1])
        batches.append(Batch(disk, kind, runs, sum(counts[low:high]), place, mask))
    return batches


def whole_extents(found: Found, at_most: int, *, disk: int, kind: Kind, words: int) -> list[Batch]:
    """The same of one run without gaps that begins where an extent does (of so many ``words`` of
    the bitmap): a full pass is little else, and need not be taken apart into bits (pure)."""
    first, masks = int(found.at[0]), found.words
    batches = []
    for low in range(0, min(len(masks), at_most * words), words):
        mask, start = masks[low : low + words], first + low
        count = len(mask) * WORD_BITS
        run = (start * WORD_BITS, count)
        batches.append(Batch(disk, kind, (run,), count, slice(start, start + len(mask)), mask))
    return batches


class Sweep:
    """One pass over one disk's map. Several threads may take from it.

    Attributes:
        cursor: the first granule that was not looked at yet.
        done: whether the cursor has reached the end. The pass itself is over when every batch
            that it took has been answered.
    """

    def __init__(
        self, dirty_map: DirtyMap, disk: int, kind: Kind, limits: BatchLimits | None = None
    ) -> None:
        self._map = dirty_map
        self._kind = kind
        self._limits = limits or (DATA_LIMITS if kind == "data" else COMPARE_LIMITS)
        self._full = self._limits.batch_bytes // dirty_map.granule
        least = max(1, COMPARE_BLOCK // dirty_map.granule) if kind == "compare" else 1
        if self._full < least:
            raise ValueError(f"{self._limits} is less than a granule or a block")
        self._divide = partial(
            divide,
            disk=disk,
            kind=kind,
            granules=self._full,
            segments=self._limits.segments,
        )
        self._lock = threading.Lock()
        self.cursor = 0

    @property
    def done(self) -> bool:
        """Whether there is nothing more to take."""
        return self.cursor >= self._map.granules

    def take(self) -> Batch | None:
        """The next batch, already in flight; None at the end of the pass."""
        return next(iter(self.take_many(1)), None)

    def resize(self, batch_bytes: int) -> None:
        """Batches from now on have at most so many bytes, a power of two."""
        full = max(1, batch_bytes // self._map.granule)
        if full != self._full:
            with self._lock:
                self._full = full
                self._divide = partial(self._divide, granules=full)

    def take_many(self, at_most: int) -> Sequence[Batch]:
        """Up to ``at_most`` next batches, already in flight; empty at the end of the pass.

        Taking 8 or more at once spreads the cost of the search over them.
        """
        # One batch more is looked for: what was found may end in the middle of a piece, and
        # that piece must be none of those that are taken.
        with self._lock:
            wanted = (at_most + 1) * self._full
            batches = self._map.take(
                self._kind, self.cursor, wanted, lambda found: self._divide(found, at_most)
            )
            self.cursor = batches[-1].end if batches else self._map.granules
        return batches


def take_everything(
    dirty_map: DirtyMap, disk: int, limits: BatchLimits = DATA_LIMITS
) -> list[Batch]:
    """The final set of a checkpoint: everything dirty now, already in flight.

    To be called with the source frozen and the tracker drained. Raises :class:`NotSettledError` if
    something is in flight (a granule that is dirty again could not be taken) or suspect (no one
    knows what to send); the caller waits for the window to empty *before* it freezes.
    """
    sweep = Sweep(dirty_map, disk, "data", limits)
    batches: list[Batch] = []
    with dirty_map.lock:
        if dirty_map.flying_granules or dirty_map.suspect_granules:
            raise NotSettledError(
                f"{dirty_map.flying_granules} granules are in flight, "
                f"{dirty_map.suspect_granules} suspect"
            )
        while more := sweep.take_many(256):
            batches += more
        if dirty_map.dirty_granules:
            raise AssertionError("a sweep of everything left something behind")
    return batches


__all__ = [
    "COMPARE_LIMITS",
    "DATA_LIMITS",
    "BatchLimits",
    "NotSettledError",
    "Segments",
    "Sweep",
    "cut",
    "divide",
    "extent_for",
    "group",
    "take_everything",
]
