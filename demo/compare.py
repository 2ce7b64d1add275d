"""Are two disks the same, byte for byte, and if not, where?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PIECE = 4 << 20
GRANULE = 4096
SHOWN = 8
"""So many differing offsets are listed; one would do to know, eight show the pattern."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found: sizes in bytes and the first offsets (of 4 KiB granules) that differ."""

    size: int
    reference_size: int
    offsets: tuple[int, ...]

    @property
    def identical(self) -> bool:
        """Same size and no byte differs."""
        return self.size == self.reference_size and not self.offsets

    def __str__(self) -> str:
        if self.identical:
            return "identical"
        if self.size != self.reference_size:
            return f"DIFFERENT: {self.size} bytes instead of {self.reference_size}"
        return "DIFFERENT at bytes " + ", ".join(map(str, self.offsets))


def compare(copy: Path, reference: Path) -> Comparison:
    """Read both from end to end; the first :data:`SHOWN` differing granules are listed."""
    offsets: list[int] = []
    with open(copy, "rb") as left, open(reference, "rb") as right:
        at = 0
        while len(offsets) < SHOWN:
            mine, theirs = left.read(PIECE), right.read(PIECE)
            if not mine and not theirs:
                break
            if mine != theirs:
                offsets += _differing(mine, theirs, at)
            at += PIECE
        # seek, because a block device has no size in its inode
        sizes = left.seek(0, 2), right.seek(0, 2)
    return Comparison(sizes[0], sizes[1], tuple(offsets[:SHOWN]))


def _differing(mine: bytes, theirs: bytes, base: int) -> list[int]:
    return [
        base + at
        for at in range(0, max(len(mine), len(theirs)), GRANULE)
        if mine[at : at + GRANULE] != theirs[at : at + GRANULE]
    ]
