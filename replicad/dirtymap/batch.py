"""What is taken out of a dirty map at once, travels together, and comes back with one answer.

A batch is the unit of everything after the map: read into one buffer, sealed as one frame,
acknowledged or lost as a whole. It exists only while its granules are in flight.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from replicad.dirtymap.bitmap import segments_mask

if TYPE_CHECKING:
    from replicad.dirtymap.bitmap import Place, Words

Kind = Literal["data", "compare", "verify"]
Segments = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Granules of one disk that are in flight. Compared and hashed by identity.

    Attributes:
        disk: the number the disk has in the session's data frames.
        kind: ``data`` (content travels), ``compare`` (digests travel) or ``verify`` (likewise, of
            granules that are clean and stay it: no map knows of such a batch).
        segments: ascending, disjoint runs ``(first granule, count)``.
        granules: how many granules the segments cover.
        place, mask: the same granules as words of the bitmaps.
    """

    disk: int
    kind: Kind
    segments: Segments
    granules: int
    place: Place = field(repr=False)
    mask: Words = field(repr=False)

    @property
    def first(self) -> int:
        """The lowest granule."""
        return self.segments[0][0]

    @property
    def end(self) -> int:
        """One past the highest granule."""
        first, count = self.segments[-1]
        return first + count

    def without(self, apart: Segments) -> Batch | None:
        """The batch less ascending runs that lie within its segments; None if nothing is left."""
        left: list[tuple[int, int]] = []
        runs = list(apart)
        for first, count in self.segments:
            at, end = first, first + count
            while runs and runs[0][0] < end:
                start, length = runs.pop(0)
                if at < start:
                    left.append((at, start - at))
                at = start + length
            if at < end:
                left.append((at, end - at))
        if not left:
            return None
        segments = tuple(left)
        granules = sum(count for _, count in segments)
        return Batch(self.disk, self.kind, segments, granules, *segments_mask(segments))

    def check_within(self, runs: Segments) -> None:
        """Raises ValueError unless ``runs`` ascend, are disjoint and lie within the segments."""
        inside = iter(self.segments)
        first, count = next(inside)
        end = 0
        for start, length in runs:
            while first + count < start + length and (more := next(inside, None)):
                first, count = more
            if length <= 0 or start < max(first, end) or start + length > first + count:
                raise ValueError(f"granules {start}+{length} differ, but were not compared")
            end = start + length

    def ranges(self, granule: int, size: int) -> list[tuple[int, int]]:
        """The segments as ``(offset, length)`` in bytes, clipped to a disk of ``size`` bytes."""
        found = [(first * granule, count * granule) for first, count in self.segments]
        offset, length = found[-1]
        if offset + length > size:
            found[-1] = (offset, size - offset)
        return found

    def bytes(self, granule: int, size: int) -> int:
        """Bytes that the segments cover on a disk of ``size`` bytes."""
        return self.granules * granule - max(0, self.end * granule - size)
