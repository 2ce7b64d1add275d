"""Online verification, the part without I/O: what is looked at, what counts, what was found.

The idea: a granule that is clean in the dirty map *should* be equal on both sides. So both sides
hash what is clean, and after the answers have come the tracker is drained: what is dirty by then
was written meanwhile and says nothing; what is still clean and differs is damage. The dirty map
is only read for this. Nothing of it is in flight, so there is nothing that a kill could leave.

One look is not enough to accuse. A write that was queued long ago, sent, and marked clean may be
*landing* now: the disk has it, its completion has not been marked yet. So what differs is first a
*candidate*, and is looked at again when every write that was on its way at the first look has
ended (:mod:`replicad.engine.verify` waits for that). A candidate that the tracker has marked
meanwhile is one no more: it was written, and is sent.

What is found stays known as a bitmap, so that a copy that differs everywhere costs no more
memory than one that differs nowhere.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import numpy as np

from protocol.units import format_duration, format_size
from protocol.wire.jobs import DiskRange, DiskReport
from protocol.wire.limits import RANGES_MAX
from replicad.dirtymap import COMPARE_BLOCK, Batch, Found, Segments
from replicad.dirtymap.bitmap import (
    PAGE_WORDS,
    WORD_BITS,
    Bitmap,
    Words,
    count_bits,
    page_count,
    range_mask,
)
from replicad.dirtymap.describe import describe
from replicad.dirtymap.search import spread
from replicad.planner import SEGMENTS_MAX, divide

BATCH_BYTES = 4 << 20
"""Bytes of disk in one batch of digests: little enough that even a slow disk has read it in the
time that a checkpoint may be kept waiting."""

Where = Callable[[slice], Words]
"""Which granules are meant, for some words of a bitmap."""

Round = Literal["sweep", "confirm", "recheck", "certain"]
"""Over everything that is clean; again over what differed; when that was repaired, or a checkpoint
may have been taken since, over what was found; and again over what of it differs still."""


class Sweep:
    """Batches of digests over the granules of one disk that ``where`` names, whole blocks of
    64 KiB at a time.

    Attributes:
        cursor: the first granule that no batch was taken for.
    """

    def __init__(
        self, number: int, granules: int, granule: int, where: Where, cursor: int = 0
    ) -> None:
        self._number = number
        self._granules = granules
        self._full = BATCH_BYTES // granule
        self._per_block = max(1, COMPARE_BLOCK // granule)
        self._where = where
        self._planned = cursor
        self._ready: deque[Batch] = deque()
        self.cursor = cursor

    def take(self) -> Batch | None:
        """The next batch; None when there is nothing more."""
        while not self._ready and self._planned < self._granules:
            self._plan()
        batch = self._ready.popleft() if self._ready else None
        self.cursor = self._ready[0].first if self._ready else self._planned
        return batch

    def _plan(self) -> None:
        """Batches of the next page of the bitmap."""
        low = self._planned // WORD_BITS
        high = min(low + PAGE_WORDS, -(-self._granules // WORD_BITS))
        # A copy: what where() gives may be the bitmap itself.
        blocks = spread(self._where(slice(low, high)), self._per_block).copy()
        blocks[0] &= ~np.uint64((1 << self._planned % WORD_BITS) - 1)
        if high * WORD_BITS > self._granules:
            blocks[-1] &= np.uint64((1 << self._granules % WORD_BITS) - 1)
        some = np.flatnonzero(blocks)
        if some.size:
            self._ready.extend(
                divide(
                    Found(some + low, blocks[some]),
                    (high - low) * WORD_BITS,
                    disk=self._number,
                    kind="verify",
                    granules=self._full,
                    segments=SEGMENTS_MAX,
                )
            )
        self._planned = min(high * WORD_BITS, self._granules)


def settled_granules(settled: Where, segments: Segments) -> int:
    """How many granules of these runs are clean."""
    pieces = (range_mask(*segment) for segment in segments)
    return sum(count_bits(settled(place) & mask) for place, mask in pieces)


@dataclass(slots=True, eq=False)
class DiskFindings:
    """What is known of one disk in a verification. Counts are granules in bitmaps, else bytes.

    Attributes:
        cursors: where each round has come to.
        compared: bytes of which the first round can say that they are equal or differ.
        candidates: to be looked at again; what the tracker marks is taken out of it.
        found: differed twice. ``open``: differs still, as the last round has it.
        suspected: when (CLOCK_MONOTONIC) the last candidate came.
        calm: when this disk was last seen without a write on its way.
    """

    path: str
    size: int
    granule: int
    cursors: dict[Round, int] = field(default_factory=dict)
    compared: int = 0
    candidates: Bitmap = field(init=False)
    found: Bitmap = field(init=False)
    open: Bitmap = field(init=False)
    suspected: float = 0.0
    calm: float = 0.0

    def __post_init__(self) -> None:
        for name in ("candidates", "found", "open"):
            setattr(self, name, _empty(self.granules))

    @property
    def granules(self) -> int:
        """Granules of the disk."""
        return -(-self.size // self.granule)

    def where(self, kind: Round, settled: Where) -> Where:
        """The granules that a round looks at."""
        return settled if kind == "sweep" else self.candidates.read

    def judge(
        self, kind: Round, batch: Batch, differing: Segments, settled: Where, now: float
    ) -> None:
        """Take the answer to a batch, once what was written meanwhile is dirty."""
        if kind == "sweep":
            clean = settled_granules(settled, batch.segments) * self.granule
            beyond = batch.end * self.granule - self.size
            self.compared += max(0, clean - beyond) if beyond > 0 else clean
        for run in differing:
            place, mask = range_mask(*run)
            real = settled(place) & mask & self.where(kind, settled)(place)
            if not real.any():
                continue
            if kind == "sweep":
                self.candidates.set(place, real)
                self.suspected = now
            else:
                (self.found if kind == "confirm" else self.open).set(place, real)

    def begin_recheck(self, now: float) -> None:
        """All that was found is to be looked at once more."""
        self.open.zero()
        self.candidates.zero()
        for page in np.flatnonzero(self.found.pages).tolist():
            place = slice(page * PAGE_WORDS, (page + 1) * PAGE_WORDS)
            self.candidates.set(place, self.found.read(place))
        self.suspected = now
        self.cursors.pop("recheck", None)

    def begin_certain(self, now: float) -> None:
        """Of that, what differs still: one look does not accuse. Not what was marked since."""
        self.open.zero()
        self.suspected = now
        self.cursors.pop("certain", None)

    def ended(self, kind: Round) -> None:
        """A later round has ended: of its candidates, only what differs still may be another's."""
        self.cursors.pop(kind, None)
        for page in np.flatnonzero(self.candidates.pages).tolist():
            place = slice(page * PAGE_WORDS, (page + 1) * PAGE_WORDS)
            kept = self.open.read(place) if kind == "recheck" else np.uint64(0)
            self.candidates.clear(place, self.candidates.read(place) & ~kept)

    def bytes_of(self, bits: Bitmap) -> int:
        """Bytes of the granules whose bits are set."""
        beyond = self.granules * self.granule - self.size
        last = beyond and bits.count and bits[self.granules - 1]
        return bits.count * self.granule - (beyond if last else 0)

    def swept(self) -> int:
        """Bytes that the first round has passed by."""
        return min(self.size, self.cursors.get("sweep", 0) * self.granule)

    def range(self, first: int, end: int) -> DiskRange:
        """A run of granules as bytes of this disk."""
        offset = first * self.granule
        length = min(end * self.granule, self.size) - offset
        return DiskRange(path=self.path, offset=offset, length=length)


def _empty(granules: int) -> Bitmap:
    return Bitmap(np.zeros(page_count(granules) * PAGE_WORDS, dtype=np.uint64), granules)


@dataclass(slots=True)
class Tally:
    """All verifications of this process that came to their end. ``last``: when, Unix seconds; 0
    when there was none."""

    compared_bytes: int = 0
    differing_bytes: int = 0
    last: float = 0.0

    def add(self, compared: int, differing: int, now: float) -> None:
        """One more has ended."""
        self.compared_bytes += compared
        self.differing_bytes += differing
        self.last = now


@dataclass(slots=True, eq=False)
class Verification:
    """One wanted verification, as far as it has come. It lives as long as the process: sessions
    that are lost in between cost nothing but the slice that was under way. ``mended``: what was
    found has been sent, as was asked for. ``sent``: that, or a checkpoint has taken it along."""

    request: str
    disks: dict[str, DiskFindings]
    stage: Literal["sweep", "confirm", "repair", "recheck", "certain"] = "sweep"
    mended: bool = False
    sent: bool = False
    began: float = field(default_factory=time.monotonic)

    @property
    def candidates(self) -> int:
        """Granules that must be looked at again."""
        return sum(disk.candidates.count for disk in self.disks.values())

    @property
    def found(self) -> int:
        """Granules that were found to differ."""
        return sum(disk.found.count for disk in self.disks.values())

    @property
    def open(self) -> int:
        """Granules that still differ."""
        return sum(disk.open.count for disk in self.disks.values())

    @property
    def compared_bytes(self) -> int:
        """Bytes that were compared and not written meanwhile."""
        return sum(disk.compared for disk in self.disks.values())

    @property
    def differing_bytes(self) -> int:
        """Bytes that were found to differ."""
        return sum(disk.bytes_of(disk.found) for disk in self.disks.values())

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began

    def progress(self) -> tuple[int, int]:
        """Bytes that the first round has passed by, and those that there are."""
        disks = self.disks.values()
        return sum(disk.swept() for disk in disks), sum(disk.size for disk in disks)

    def remaining_seconds(self) -> float | None:
        """Until the first round ends, at the speed so far; None when nobody can say yet."""
        done, total = self.progress()
        if done == total:
            return 0.0
        return (total - done) / done * self.seconds if done else None

    def sentence(self) -> str:
        """What it is doing, for people."""
        done, total = self.progress()
        differs = self.differing_bytes or sum(
            disk.bytes_of(disk.candidates) for disk in self.disks.values()
        )
        what = f"{format_size(differs)} differ" if differs else "nothing differs"
        again = self.stage in {"recheck", "certain"}
        if self.stage == "repair" or (again and done == total and self.found):
            doing = "repairing" if self.stage == "repair" else "comparing once more"
            return f"verify: {doing} {format_size(differs)}"
        left = self.remaining_seconds()
        end = f", {format_duration(round(left))} left" if left and left >= 1 else ""
        return f"verify: {format_size(done)} of {format_size(total)} compared, {what}{end}"

    def ranges(self) -> tuple[tuple[DiskRange, ...], int]:
        """The first ranges that differed, and how many more there are."""
        ranges: list[DiskRange] = []
        count = 0
        for disk in self.disks.values():
            found = describe(disk.found, RANGES_MAX)
            count += found.total
            ranges += (disk.range(*run) for run in found.runs)
        shown = tuple(ranges[:RANGES_MAX])
        return shown, count - len(shown)

    def suspected(self) -> tuple[DiskRange, ...]:
        """Ranges that cover everything that differed once or twice."""
        share = max(1, RANGES_MAX // (2 * len(self.disks)))
        return tuple(
            disk.range(*run)
            for disk in self.disks.values()
            for bits in (disk.candidates, disk.found)
            for run in describe(bits, share).hulls
        )

    def still_differing(self) -> tuple[DiskRange, ...]:
        """Ranges that cover everything that still differs."""
        share = max(1, RANGES_MAX // len(self.disks))
        return tuple(
            disk.range(*run)
            for disk in self.disks.values()
            for run in describe(disk.open, share).hulls
        )


def shown(
    verification: Verification,
    disks: tuple[DiskReport, ...],
    remaining: float | None,
    sentence: str,
) -> tuple[tuple[DiskReport, ...], float | None, str]:
    """Figures and sentence of a report while a verification is under way. Between its slices
    passes are made; one that takes long is shown instead."""
    if any(disk.pass_ in {"full", "compare"} for disk in disks):
        return disks, remaining, sentence
    reports = tuple(_shown(verification.disks.get(disk.path), disk) for disk in disks)
    return reports, verification.remaining_seconds(), verification.sentence()


def _shown(findings: DiskFindings | None, disk: DiskReport) -> DiskReport:
    if findings is None:
        return disk
    return msgspec.structs.replace(
        disk,
        pass_="compare",  # noqa: S106 - a pass
        total_bytes=findings.size,
        transferred_bytes=findings.swept(),
        differing_bytes=findings.bytes_of(findings.found),
    )
