"""The exceptions of the tracker.

TrackerUnavailable      no eBPF tracking here; every pass compares
  CannotTrack           not of this disk
"""

from __future__ import annotations


class TrackerUnavailable(Exception):
    """Writes cannot be tracked; ``reason`` is one sentence for status."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class CannotTrack(TrackerUnavailable):
    """This one disk cannot be tracked: no block device, a partition, no medium, no memory for its
    bitmap.
    """
