"""Reading what can be read of a piece of work, when a part of it cannot.

A sender reads its work as a whole. When that fails, the granules that cannot be read are found
and taken out of the work: they are dirty again at once (they were never sent), and held back from
then on (:mod:`replicad.unreadable`). The rest is read again and goes its way. A comparison hashes
blocks, so there the whole block is taken out and counts as different: what can be read is sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from protocol.errors import SOURCE_DISK_READ, LocalFault
from replicad.dirtymap import COMPARE_BLOCK, Segments
from replicad.feed import Feed, Work
from replicad.unreadable import Range, common, joined, without

SIFT_SECONDS = 10.0
"""For finding out what of a piece of work cannot be read. What was not tried by then stays dirty,
and is tried in the next pass: a sick disk must not hold up the rest of it for minutes."""

AGAIN = 3
"""Readings that may fail although each granule can be read: then it is left for the next pass."""


def salvage(feed: Feed, work: Work, read: Callable[[], None]) -> bool:
    """``read`` the work's ranges, less what cannot be read; whether anything is left of it.

    In a sender's thread. Raises LocalFault when the disk is gone, or has another size.
    """
    reader = work.disk.reader
    apart = reader.unreadable.within(work.ranges) if reader.unreadable else []
    fruitless = 0
    while True:
        if apart and not _set_apart(feed, work, apart):
            return False
        try:
            read()
        except LocalFault as fault:
            if fault.code != SOURCE_DISK_READ.code:
                raise
        else:
            return True
        bad, untried = reader.sift(work.ranges, SIFT_SECONDS)
        apart = joined([*bad, *untried])
        fruitless += not apart
        if fruitless >= AGAIN:
            apart = list(work.ranges)


def _set_apart(feed: Feed, work: Work, apart: Sequence[Range]) -> bool:
    """Take ranges out of a work; whether anything is left of it."""
    disk, held = work.disk, work.disk.live_map
    granule = held.granule
    unit = granule if work.stage == "data" else max(granule, COMPARE_BLOCK)
    whole = joined(
        (offset // unit * unit, -(-(offset + length) // unit) * unit - offset // unit * unit)
        for offset, length in apart
    )
    segments: Segments = tuple(
        (offset // granule, length // granule)
        for offset, length in common(
            [(first * granule, count * granule) for first, count in work.batch.segments], whole
        )
    )
    left = without(work.ranges, whole)
    now = time.monotonic()
    disk.reader.unreadable.pass_over(work.size - sum(length for _, length in left))
    if work.verdict is not None:
        return _verify_less(feed, work, segments, left)
    rest = held.set_apart(work.batch, segments, now)
    if rest is not None and not left:
        # It was to be looked at closer: what else is in the batch is known to be equal.
        held.compared(rest, (), now)
        rest = None
    feed.shrink(work, rest, left)
    return rest is not None


def _verify_less(feed: Feed, work: Work, segments: Segments, left: Sequence[Range]) -> bool:
    """The same for a verification, which has taken nothing from the map: what cannot be read is
    not judged."""
    rest = work.batch.without(segments)
    feed.shrink(work, rest if left else None, left)
    if rest is not None and not left and work.verdict is not None:
        work.verdict(Work(work.disk, rest, work.stage, ()), ())
    return bool(left)
