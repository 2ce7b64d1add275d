"""Sizes small enough for a disk of 70 granules: several batches, several rounds of a window."""

from __future__ import annotations

from replicad.planner import BatchLimits
from tests.properties.kernel import GRANULE

DATA = BatchLimits(batch_bytes=4 * GRANULE, segments=3)
COMPARE = BatchLimits(batch_bytes=16 * GRANULE, segments=2)
WINDOW = 40 * GRANULE
