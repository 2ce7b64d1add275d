"""Whether the dirty map that an earlier process left is believed, and what follows if it is not.

Here the recovery grade is decided (DESIGN's section 5 and promise 4), one of three:

    intact    the map is of this boot, this tracking, this disk and this intermediate disk:
              only what it says is dirty travels
    compare   it is not, or there is none: everything is suspect, both ends read and hash
    full      the receiver's disk is known to be empty, or an administrator has said that it is to
              become the copy of another disk: everything is dirty

The grade, the reason in words and what it costs are kept in the map's header, so a daemon that is
killed during a comparison goes on with it under the same reason.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from protocol.local import crash, log
from protocol.units import format_instant, instant_of, parse_instant
from protocol.wire.jobs import Grade, PassKind, Recovery
from replicad.dirtymap import DirtyMap, Header, MapRefusedError
from replicad.dirtymap.header import BOOTED
from replicad.dirtymap.store import MapFile
from replicad.tracker import Suspect, TrackingState, boot_time, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

FULL_FLAG = "full"
"""Flag of a map whose first, full pass has not ended."""

FOREIGN_FLAG = "foreign"
"""Flag of a map whose intermediate disk may hold what was never on the source: nothing is left out
there, until all of it has been made equal once."""

SINCE_FULL, SINCE_COMPARE = "since-full", "since-compare"
"""Flags of a map that is without a gap since the pass of this kind."""

TRACKED_SINCE = {SINCE_FULL: "the full pass", SINCE_COMPARE: "the compare pass"}

ANOTHER_GENERATION = "the intermediate disk is another one"
"""What the header says of a map of another generation; the receiver may know why it is."""

UNKNOWN_CONTENT = "nobody knows what the intermediate disk holds"
LOST_STATE = "the daemon's record of what was written was lost"
FIRST_COPY = "the intermediate disk was empty"
ACCEPTED = "the administrator accepted another disk"
ALL_KNOWN = "every write since then was tracked"

DAY_SECONDS = 86400.0

_log = log.get("recovery")


@dataclass(frozen=True, slots=True)
class Opened:
    """What the receiver said of an intermediate disk, as far as it decides about the map.

    Attributes:
        fresh: it holds only zeros.
        full: everything is to be sent, zeros too.
        reason: why its generation is not the one that we may know; '' if it is.
        last_boot: our boot id in the session before; '' if there was none.
    """

    fresh: bool = False
    full: bool = False
    reason: str = ""
    last_boot: str = ""


def take_up(
    path: Path,
    present: Header,
    opened: Opened,
    *,
    untracked: str,
    allocated: Callable[[], Iterable[tuple[int, int]]],
) -> DirtyMap:
    """The map at ``path`` if it can be believed, or a new one in its place.

    Args:
        path: where the map of this disk of this job lies.
        present: what is true now.
        opened: what the receiver said.
        untracked: why writes are not tracked, '' if they are; without a tracker a map proves
            nothing.
        allocated: (offset, length) of what the source's disk may hold besides zeros.
    """
    reason = untracked
    if not untracked:
        try:
            held = DirtyMap.open(str(path), present, time.monotonic())
        except MapRefusedError as refused:
            reason = _reason(str(refused) if path.exists() else "", present, opened)
        else:
            crash.here("map.adopted")
            # A kill between the commit and its note here leaves the map an epoch behind.
            held.update(
                epoch=present.epoch,
                session=present.session,
                acked=(),
                attachment=present.attachment,
            )
            _go_on(held)
            return held
    held = DirtyMap.create(str(path), present)
    crash.here("map.created")
    owned = opened.fresh or (present.epoch > 0 and not opened.reason)
    foreign = () if owned and not opened.full else (FOREIGN_FLAG,)
    if opened.fresh or opened.full:
        ranges = [(0, present.size)] if opened.full else allocated()
        for offset, length in ranges:
            first, count = held.covering(offset, length)
            held.mark_range(first, count, time.monotonic())
        crash.here("map.marked")
        begin(held, "full", ACCEPTED if opened.full else FIRST_COPY)
        held.update(seeded=True, flags=(FULL_FLAG, *foreign))
        return held
    suspect_all(held, reason)
    crash.here("map.suspected")
    held.update(seeded=True, flags=(*held.header.flags, *foreign))
    return held


def peek(directory: Path, job: str) -> list[Header]:
    """What the maps of a job say, before anybody knows whether they are believed."""
    found = []
    for path in sorted(directory.glob(f"{job}-*.map")):
        try:
            header = MapFile.peek(path)
        except MapRefusedError:
            continue
        if header.job == job and header.seeded:
            found.append(header)
    return found


def _reason(refusal: str, present: Header, opened: Opened) -> str:
    """Why a comparison is needed, in the words that tell an administrator most."""
    rebooted = opened.last_boot not in ("", present.boot)
    if refusal == BOOTED or (rebooted and not refusal):
        return rebooted_at(boot_time(), time.time())
    if refusal == ANOTHER_GENERATION and opened.reason:
        return opened.reason
    if refusal:
        return refusal
    if opened.reason:
        return opened.reason
    if opened.last_boot:
        return LOST_STATE
    if not opened.fresh and not present.epoch:
        return UNKNOWN_CONTENT
    state = TrackingState(present.boot, present.token, present.misses, present.size)
    verdict = judge(None, state)
    assert isinstance(verdict, Suspect)  # nothing is ever trusted for want of evidence
    return verdict.reason


def rebooted_at(booted: float, now: float) -> str:
    """``rebooted at 03:12 UTC``; with the date when that was longer ago than a day."""
    shape = "%H:%M UTC" if now - booted < DAY_SECONDS else "%Y-%m-%d %H:%M UTC"
    return f"rebooted at {instant_of(booted).strftime(shape)}"


# --- the account ------------------------------------------------------------------------------


def begin(held: DirtyMap, grade: Grade, reason: str) -> None:
    """The copy is taken up: from now on what is read and sent is on this account."""
    held.update(recovery=Recovery(grade=grade, reason=reason, since=_now()))
    level = _log.info if grade == "intact" else _log.warning
    level("recovery.began", disk=held.header.disk, grade=grade, because=reason)


def _go_on(held: DirtyMap) -> None:
    """A map is believed. A pass that was broken off goes on, with the reason that it had."""
    before = held.header.recovery
    if before is not None and before.ended is None and before.grade != "intact":
        _log.info("recovery.goes_on", disk=held.header.disk, grade=before.grade)
        return
    if held.suspect_granules:
        # Of a release that kept no reasons.
        begin(held, "compare", "the comparison was interrupted")
    else:
        begin(held, "intact", ALL_KNOWN)


def suspect_all(held: DirtyMap, reason: str) -> None:
    """Nothing is known to be equal any more; the next pass compares."""
    held.suspect_range(0, held.granules)
    begin(held, "compare", reason)
    # Whatever it was since, from now on it is since this comparison, once that has ended.
    before = held.header.flags
    foreign = [flag for flag in before if flag == FOREIGN_FLAG]
    held.update(flags=(FULL_FLAG if FULL_FLAG in before else SINCE_COMPARE, *foreign))


def passed(held: DirtyMap, kind: PassKind, *, whole: bool) -> None:
    """A pass has ended: what its map is called now.

    A comparison may end before all that it found has been sent. So what was never on the source is
    gone only when nothing is left to send, or after a pass that had nothing to compare: such a pass
    sends all that is dirty when it begins.

    Args:
        whole: nothing was passed over because it could not be read.
    """
    before = held.header.flags
    if held.suspect_granules or not {FULL_FLAG, FOREIGN_FLAG} & {*before}:
        return
    flags = [flag for flag in before if flag in TRACKED_SINCE]
    if FULL_FLAG in before:
        flags = [SINCE_FULL if kind == "full" else SINCE_COMPARE]
    if FOREIGN_FLAG in before and not (whole and (kind != "compare" or held.clean)):
        flags.append(FOREIGN_FLAG)
    if tuple(flags) != before:
        held.update(flags=tuple(flags))


def settle(held: DirtyMap) -> None:
    """A pass has ended, or there is nothing to do: so has the recovery, if no other is needed."""
    now = held.header.recovery
    if now is None or now.ended is not None:
        return
    if held.suspect_granules or FULL_FLAG in held.header.flags:
        return
    ended = msgspec.structs.replace(now, ended=_now())
    held.update(recovery=ended)
    _log.info(
        "recovery.ended",
        disk=held.header.disk,
        grade=now.grade,
        because=now.reason,
        read_bytes=now.bytes_read,
        sent_bytes=now.bytes_sent,
        seconds=round(time.time() - parse_instant(now.since).timestamp(), 3),
    )


def reason_of(header: Header) -> str:
    """Why what is suspect in a map must be compared."""
    return header.recovery.reason if header.recovery else ""


def tracked_since(header: Header) -> str:
    """Since when a map without suspects is without a gap; for people."""
    if FULL_FLAG in header.flags:
        return "first copy"
    since = next(
        (TRACKED_SINCE[flag] for flag in header.flags if flag in TRACKED_SINCE), "the job began"
    )
    epoch = f" (epoch {header.epoch})" if header.epoch else ""
    return f"tracked without a gap since {since}{epoch}"


def _now() -> str:
    return format_instant(instant_of(time.time()))
