"""Dying at a named step, and what it took to go on: one row for each death.

How a step is reached is a *way*: what is done after the daemon has been told where to die, and
what must be undone when it has. Most steps lie on the way to a checkpoint.
"""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, cast

from protocol.local.crashpoints import POINTS, Point
from tests.support.arena import Arena, Side
from tests.support.loops import MIB
from tests.support.ways import (
    DIE_SECONDS,
    Way,
    checkpoint,
    copy_is_damaged,
    copy_is_damaged_again,
    disk_is_distrusted,
    hook_fails,
    map_is_lost,
    pause,
    session_is_lost,
    source_comes,
    source_goes,
    starts,
    stops,
    verifies,
    zeros,
)

NUDGE_SECONDS = 5.0
"""After which another checkpoint is asked for, when nobody has come to the step."""

RESENT_MOST = 64 * MIB
"""Bytes that one death may have in flight. The window of a session would allow 256 MiB; at the
arena's rate there is never so much to send."""

SLACK = 4 * MIB
"""Bytes that may be sent beside what was written: granules are 4 KiB, journals write less."""


@dataclass(frozen=True, slots=True)
class Row:
    """One death, or two that belong together.

    ``resent_bytes``: in flight without an answer when it died. ``sent_bytes``: acknowledged to the
    source's process that took the checkpoint, since it started or since the round began.
    ``written_bytes``: to the source's disks in the round. ``grade``: the worst pass since.
    ``die_seconds``: until it died. ``recover_seconds``: from then until an identical checkpoint was
    held, the start of the daemon included.
    """

    points: tuple[str, ...]
    sides: tuple[str, ...]
    grade: str
    resent_bytes: int
    sent_bytes: int
    written_bytes: int
    die_seconds: float
    recover_seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Reached(NamedTuple):
    """How a step is reached, and the how manyth time of it is meant."""

    way: Way = checkpoint
    times: int = 1


_AT_A_START = """disk.tracked disks.opened map.adopted map.recovering daemon.greeted inventory.sent
    session.answered session.attached link.hello_said transfer.connected session.running"""
_AT_AN_OPENING = """session.opening session.fenced disk.opened disk.unfresh session.opened
    session.remembered hello.heard connection.admitted"""
_IN_A_COMPARISON = """map.unnamed map.created map.suspected map.differs sender.hashed
    transfer.diff_heard transfer.finer sender.looked frame.compared"""
_IN_THE_MIDDLE = "sender.put frame.written segment.written"

_COMPARING = frozenset({map_is_lost, disk_is_distrusted, copy_is_damaged})
"""Ways that may make a comparison needed by themselves."""

REACHED: dict[str, Reached] = {
    **dict.fromkeys(_AT_A_START.split(), Reached(starts)),
    **dict.fromkeys(_AT_AN_OPENING.split(), Reached(source_comes)),
    **dict.fromkeys(_IN_A_COMPARISON.split(), Reached(map_is_lost)),
    **dict.fromkeys(_IN_THE_MIDDLE.split(), Reached(times=3)),
    "verify.judged": Reached(verifies),
    "verify.ended": Reached(verifies),
    "verify.recorded": Reached(verifies),
    "verify.kept": Reached(copy_is_damaged),
    "verify.marked": Reached(copy_is_damaged),
    "session.retired": Reached(source_goes),
    "session.closed": Reached(source_goes),
    "restart.repaired": Reached(starts),
    "receiver.stopping": Reached(stops),
    "session.left": Reached(pause),
    "checkpoint.failed": Reached(hook_fails),
    "refusal.recorded": Reached(hook_fails),
    "segment.zeroed": Reached(zeros),
    "disk.distrusted": Reached(disk_is_distrusted),
    "disk.renewed": Reached(disk_is_distrusted),
    "map.lost": Reached(session_is_lost),
    "map.header_torn": Reached(times=2),
}
"""All steps that are not here are reached on the way to a checkpoint."""

_ONCE = """authority.half_made file.unnamed tracker.half_pinned source.certified job.file_made
    job.created slot.described map.marked slot.unpublished leftover.removed disks.untracked
    disks.closed job.half_deleted job.files_gone job.deleted tracker.half_removed"""
LIVES = frozenset(_ONCE.split())
"""Steps of the beginning or the end of a job; see :mod:`tests.support.lives`."""

ELSEWHERE = {
    "disk.extended": "tests/integration/test_growing_disks.py",
    "disk.growing": "tests/receiver/test_growth.py",
    "disk.grown": "tests/receiver/test_growth.py",
}
"""Steps of something that this job never does, and where they are died at."""

STEADY: tuple[Point, ...] = tuple(
    point for point in POINTS if point.name not in LIVES and point.name not in ELSEWHERE
)
"""Steps that a job passes again and again."""


def groups(points: Sequence[Point], size: int) -> Iterator[tuple[Point, ...]]:
    """Points together that may cost the same, for :func:`die_in_turn`."""
    for comparing in (False, True):
        alike = [point for point in points if may_compare(point) is comparing]
        for at in range(0, len(alike), size):
            yield tuple(alike[at : at + size])


def may_compare(point: Point) -> bool:
    """Whether the recovery may be a compare pass: the death takes away what vouches for the copy,
    or the way to it does."""
    return point.worst == "compare" or _way(point) in _COMPARING


# --- a round -----------------------------------------------------------------------------------


def both_live(arena: Arena, but: Collection[Side] = ()) -> None:
    """Start whoever is dead, without a wish; not those whose death has still to be noted."""
    for side in cast("tuple[Side, ...]", ("receiver", "source")):
        if side not in but and not arena.process(side).running:
            arena.arm(side, "")
            assert arena.start(side), f"{side} does not start: {arena.both.logs()}"


class Round:
    """What is measured from a held checkpoint, over some deaths, to the next one."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._written = arena.written()
        self._sent = arena.sent()
        self._log = arena.log_end()
        self._begun = time.monotonic()
        self._died = self._begun
        self._resent = 0
        self._source = arena.both.source.pid

    def died(self) -> None:
        """Somebody, just now."""
        self._resent += self._arena.in_flight()
        self._died = time.monotonic()

    def recovered(self, points: Sequence[Point], sides: Sequence[Side]) -> Row:
        """Both live again: get the next checkpoint, compare, judge, and go on."""
        arena = self._arena
        (arena.both.hooks / "pre-freeze.d/50-fails").unlink(missing_ok=True)
        if arena.view().get("state") == "paused":
            arena.act("resume")
        view = arena.held()
        recovered = time.monotonic() - self._died
        arena.identical(view)
        arena.clean()
        passes = arena.passes(self._log)
        sent = arena.sent() - (self._sent if arena.both.source.pid == self._source else 0)
        row = Row(
            points=tuple(point.name for point in points),
            sides=tuple(sides),
            grade=next((kind for kind in ("full", "compare") if kind in passes), "delta"),
            resent_bytes=self._resent,
            sent_bytes=sent,
            written_bytes=arena.written() - self._written,
            die_seconds=round(self._died - self._begun, 2),
            recover_seconds=round(recovered, 2),
        )
        arena.resume()
        judge(row, points)
        return row


def judge(row: Row, points: Sequence[Point]) -> None:
    """Nothing is sent that need not be, and nothing compared that is vouched for."""
    allowed = {"delta", "compare"} if any(map(may_compare, points)) else {"delta"}
    assert row.grade in allowed, f"a {row.grade} pass after a death at {row.points}"
    assert row.resent_bytes <= RESENT_MOST * len(points), row
    # Journals write less than a granule at a time: a quarter more.
    assert row.sent_bytes <= 1.25 * row.written_bytes + row.resent_bytes + SLACK, row


def _way(point: Point) -> Way:
    return REACHED.get(point.name, Reached()).way


def die_in_turn(arena: Arena, *points: Point) -> Row:
    """A round with one death after the other, each when the one before has been recovered from
    so far that both live; compared at the end."""
    this = Round(arena)
    sides: list[Side] = []
    for point in points:
        side: Side = "receiver" if point.side == "receiver" else "source"
        way, times = REACHED.get(point.name, Reached())
        if sides:
            _on_the_move(arena)
        arena.arm(side, f"{point.name}:{times}")
        way(arena, side)
        _until_dead(arena, this, {side: point})
        both_live(arena)
        sides.append(side)
    return this.recovered(points, sides)


def die_twice(arena: Arena, first: Point, second: Point) -> Row:
    """A round in which both sides die, each at its step, whichever comes first. The one that has
    died is started, so that the other gets to its step at the latest while that one recovers."""
    wishes: dict[Side, Point] = {"source": first, "receiver": second}
    this = Round(arena)
    for side, point in wishes.items():
        arena.arm(side, f"{point.name}:{REACHED.get(point.name, Reached()).times}")
    for way in dict.fromkeys(_way(point) for point in wishes.values()):
        way(arena, next(side for side, point in wishes.items() if _way(point) is way))
    dead = _until_dead(arena, this, wishes)
    return this.recovered([wishes[side] for side in dead], dead)


def _until_dead(arena: Arena, this: Round, wishes: dict[Side, Point]) -> list[Side]:
    """Until all have died at their steps; in which order. Whoever has is started again."""
    dead: list[Side] = []
    nudge = time.monotonic() + NUDGE_SECONDS
    deadline = time.monotonic() + DIE_SECONDS
    while len(dead) < len(wishes):
        for side, point in wishes.items():
            if side not in dead and (at := arena.died(side)):
                assert at == point.name
                this.died()
                dead.append(side)
                both_live(arena, set(wishes) - set(dead))
                deadline = time.monotonic() + DIE_SECONDS
        if len(dead) < len(wishes) and time.monotonic() > deadline:
            names = [point.name for side, point in wishes.items() if side not in dead]
            raise AssertionError(f"nobody died at {names}")
        if time.monotonic() > nudge:
            nudge = time.monotonic() + NUDGE_SECONDS
            _on_the_move(arena)
            waiting = [point for side, point in wishes.items() if side not in dead]
            _again({_way(point) for point in waiting})(arena, "source")
        time.sleep(0.02)
    return dead


def _again(ways: Collection[Way]) -> Way:
    """What is asked for again when nobody has come to the step."""
    if copy_is_damaged in ways:
        return copy_is_damaged_again
    if verifies in ways:
        return verifies
    return hook_fails if hook_fails in ways else checkpoint


def _on_the_move(arena: Arena) -> None:
    """Nothing stands still: no hold, no pause, no hook that fails."""
    (arena.both.hooks / "pre-freeze.d/50-fails").unlink(missing_ok=True)
    view = arena.act("show") or {}
    if view.get("held") or view.get("state") == "paused":
        arena.act("resume")


PAIRABLE = {
    side: tuple(p for p in STEADY if p.side == side and _way(p) in {checkpoint, starts, zeros})
    for side in ("source", "receiver")
}
"""Steps that both sides can be made to die at in one round."""


def pairs(seed: int) -> Iterator[tuple[Point, Point]]:
    """All pairs of a step of the source and one of the receiver, in ``seed``'s order."""
    found = [(s, r) for s in PAIRABLE["source"] for r in PAIRABLE["receiver"]]
    random.Random(seed).shuffle(found)
    return iter(found)
