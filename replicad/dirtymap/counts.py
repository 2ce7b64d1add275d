"""The bitmaps of a dirty map as a whole: how much of it is in which state, and their upkeep."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from replicad.dirtymap.bitmap import count_bits, range_pieces

if TYPE_CHECKING:
    from replicad.dirtymap.bitmap import Bitmap
    from replicad.dirtymap.store import MapFile


class Counts:
    """The bitmaps of a map's file, and how many granules and bytes each holds."""

    def __init__(self, file: MapFile) -> None:
        self._file = file
        self.lock = threading.RLock()
        self._dirty, self._suspect, self._flying, self._left = file.bitmaps
        self.granules = self._dirty.granules
        self.granule = file.header.granule
        self.size = file.header.size

    def vouch(self) -> None:
        """Makes checksums of what was changed, by which the next open notices damage. It takes
        about a microsecond for each page (32,768 granules)."""
        with self.lock:
            self._file.vouch()

    def rest(self) -> None:
        """Much of it has been gone through and will not be soon: it need not be resident."""
        with self.lock:
            self._file.rest()

    @property
    def dirty_granules(self) -> int:
        """Granules that must be sent and are not (or must be sent again)."""
        return self._dirty.count

    @property
    def suspect_granules(self) -> int:
        """Granules that must be compared or sent."""
        return self._suspect.count

    @property
    def flying_granules(self) -> int:
        """Granules in flight."""
        return self._flying.count

    @property
    def dirty_bytes(self) -> int:
        """Bytes marked dirty, without what is in flight."""
        return self._bytes(self._dirty)

    @property
    def suspect_bytes(self) -> int:
        """Likewise, suspect."""
        return self._bytes(self._suspect)

    @property
    def flying_bytes(self) -> int:
        """Bytes in flight."""
        return self._bytes(self._flying)

    @property
    def left_out_bytes(self) -> int:
        """Bytes left out: of no use where they are, and neither sent nor compared."""
        with self.lock:
            return self._left.count * self.granule

    def _bytes(self, bits: Bitmap) -> int:
        with self.lock:
            beyond = self.granules * self.granule - self.size
            clip = beyond if beyond and bits.count and bits[self.granules - 1] else 0
            return bits.count * self.granule - clip

    @property
    def clean(self) -> bool:
        """Whether the receiver durably holds everything that is known to have been written, and is
        of use."""
        with self.lock:
            return not (self._dirty.count or self._suspect.count or self._flying.count)

    def dirty_within(self, first: int, count: int) -> int:
        """How many of these granules are dirty."""
        with self.lock:
            return sum(
                count_bits(self._dirty.read(place) & mask)
                for place, mask in range_pieces(first, count)
            )

    def lacking_within(self, first: int, count: int) -> int:
        """How many of these granules are dirty or suspect."""
        with self.lock:
            return sum(
                count_bits((self._dirty.read(place) | self._suspect.read(place)) & mask)
                for place, mask in range_pieces(first, count)
            )
