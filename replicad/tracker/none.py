"""The tracker where there is none: it says why, and every pass compares."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NoTracker:
    """Stands where an EbpfTracker would; knows nothing but the reason, one sentence for status."""

    reason: str
    name: str = "none"
