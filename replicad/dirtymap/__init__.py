"""Which granules of a disk the receiver does not yet durably hold: see :mod:`.map`."""

from replicad.dirtymap.batch import Batch, Kind, Segments
from replicad.dirtymap.header import Header, MapRefusedError, distrust
from replicad.dirtymap.map import COMPARE_BLOCK, DirtyMap, NotInFlightError
from replicad.dirtymap.search import Found

__all__ = [
    "COMPARE_BLOCK",
    "Batch",
    "DirtyMap",
    "Found",
    "Header",
    "Kind",
    "MapRefusedError",
    "NotInFlightError",
    "Segments",
    "distrust",
]
