"""Whether the dirty map that an earlier process left is believed, and what follows if it is not.

Here the recovery grade is decided (DESIGN's promise 4): a map is believed only if it is of this
boot, this tracking, this disk and this intermediate disk; otherwise everything is suspect and
the next pass compares, or, if the receiver's disk is known to be empty, everything allocated is
dirty and the next pass is a full one.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from protocol.local import crash
from replicad.dirtymap import DirtyMap, Header, MapRefusedError
from replicad.tracker import Suspect, TrackingState, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

FULL_FLAG = "full"
"""Flag of a map whose first, full pass has not ended."""

SINCE_FULL, SINCE_COMPARE = "since-full", "since-compare"
"""Flags of a map that is without a gap since the pass of this kind."""

TRACKED_SINCE = {SINCE_FULL: "the full pass", SINCE_COMPARE: "the compare pass"}

INTERRUPTED = "the comparison was interrupted"
"""Why a map that was found has suspects."""


def take_up(
    path: Path,
    present: Header,
    *,
    tracked: bool,
    fresh: bool,
    allocated: Callable[[], Iterable[tuple[int, int]]],
) -> tuple[DirtyMap, str]:
    """The map at ``path`` if it can be believed, or a new one in its place.

    Args:
        path: where the map of this disk of this job lies.
        present: what is true now.
        tracked: whether writes are tracked; a map without a tracker proves nothing.
        fresh: the receiver's disk is known to hold only zeros.
        allocated: (offset, length) of what the source's disk may hold besides zeros.

    Returns:
        The map, and why what is suspect in it must be compared.
    """
    if tracked:
        try:
            held = DirtyMap.open(str(path), present, time.monotonic())
        except MapRefusedError as refused:
            reason = str(refused) if path.exists() else _unknown(present)
        else:
            crash.here("map.adopted")
            # A kill between the commit and its note here leaves the map an epoch behind.
            held.update(epoch=present.epoch)
            return held, INTERRUPTED
    else:
        reason = "writes are not tracked"
    held = DirtyMap.create(str(path), present)
    crash.here("map.created")
    if fresh:
        for offset, length in allocated():
            first, count = held.covering(offset, length)
            held.mark_range(first, count, time.monotonic())
        crash.here("map.marked")
        held.update(seeded=True, flags=(FULL_FLAG,))
        return held, INTERRUPTED
    suspect_all(held)
    crash.here("map.suspected")
    held.update(seeded=True)
    return held, reason


def suspect_all(held: DirtyMap) -> None:
    """Nothing is known to be equal any more; the next pass compares."""
    held.suspect_range(0, held.granules)
    # Whatever it was since, from now on it is since this comparison, once that has ended.
    held.update(flags=(FULL_FLAG if FULL_FLAG in held.header.flags else SINCE_COMPARE,))


def tracked_since(header: Header) -> str:
    """Since when a map without suspects is without a gap; for people."""
    if FULL_FLAG in header.flags:
        return "first copy"
    since = next(
        (TRACKED_SINCE[flag] for flag in header.flags if flag in TRACKED_SINCE), "the job began"
    )
    epoch = f" (epoch {header.epoch})" if header.epoch else ""
    return f"tracked without a gap since {since}{epoch}"


def _unknown(present: Header) -> str:
    """Why there is no map to believe, when there is none at all."""
    state = TrackingState(present.boot, present.token, present.misses, present.size)
    verdict = judge(None, state)
    assert isinstance(verdict, Suspect)  # nothing is ever trusted for want of evidence
    return verdict.reason
