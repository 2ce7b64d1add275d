"""Whether the dirty map that was kept while nobody looked can be believed.

A restart is trusted if the kernel is the same boot, tracks the same disk under the same token, and
has not missed an event meanwhile. Anything else is a gap, and a gap is never called clean (DESIGN,
promise 4): the next pass compares.

Pure: the caller brings both states.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrackingState:
    """What identifies the tracking of one disk at a moment, to be stored with the dirty map."""

    boot_id: str
    token: str
    misses: int
    """Cumulative, of the last drain that was merged into the dirty map."""
    size: int
    """Bytes of the disk."""
    diskseq: int | None = None
    """The kernel's sequence number of the medium (Linux 5.15), None where there is none."""


@dataclass(frozen=True)
class Trusted:
    """The stored dirty map and what the tracker holds are together complete."""


@dataclass(frozen=True)
class Suspect:
    """Writes may be unaccounted for; reason is one sentence for the administrator."""

    reason: str


Trust = Trusted | Suspect


def judge(stored: TrackingState | None, current: TrackingState) -> Trust:
    """Compares what was stored with what is; the first difference, in order of consequence, is the
    reason.
    """
    if stored is None:
        return Suspect("nothing is known of what was written before tracking began")
    if stored.boot_id != current.boot_id:
        return Suspect("the server was restarted, and writes around a restart are not tracked")
    if stored.size != current.size:
        return Suspect(f"the disk changed its size from {stored.size} to {current.size} bytes")
    if stored.diskseq != current.diskseq:
        return Suspect("the disk was detached and another one attached in its place")
    if stored.token != current.token:
        return Suspect("tracking was interrupted and began anew")
    if stored.misses > current.misses:
        return Suspect("the tracker's count of missed events went backwards")
    if stored.misses < current.misses:
        missed = current.misses - stored.misses
        return Suspect(f"the tracker may have missed {missed} write{'s' if missed > 1 else ''}")
    return Trusted()
