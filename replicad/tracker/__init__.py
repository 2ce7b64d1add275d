"""Learns which granules of a disk were written since it was last asked.

``EbpfTracker`` does it in the kernel, ``NoTracker`` explains why that is impossible here. ``judge``
decides whether what was recorded while no daemon ran is complete.
"""

from replicad.tracker.bitmap import granule_for
from replicad.tracker.disk import (
    attachment,
    boot_id,
    boot_time,
    has_requests,
    writes_under_way,
)
from replicad.tracker.ebpf import DiskDrain, EbpfTracker, TrackedDisk
from replicad.tracker.errors import CannotTrack, TrackerUnavailable
from replicad.tracker.none import NoTracker
from replicad.tracker.pins import collect_garbage, pin_directory
from replicad.tracker.trust import Suspect, TrackingState, Trust, Trusted, judge

__all__ = [
    "CannotTrack",
    "DiskDrain",
    "EbpfTracker",
    "NoTracker",
    "Suspect",
    "TrackedDisk",
    "TrackerUnavailable",
    "TrackingState",
    "Trust",
    "Trusted",
    "attachment",
    "boot_id",
    "boot_time",
    "collect_garbage",
    "granule_for",
    "has_requests",
    "judge",
    "pin_directory",
    "writes_under_way",
]
