"""The model test is worth what it finds: each promise is broken on purpose, and must be noticed.

A mutant is a world in which one thing is done wrongly: a store left out or in the wrong order, an
answer believed too early. The rules of the state machine run
on it in random order, and an invariant has to fail.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from replicad.dirtymap import DirtyMap, search
from replicad.dirtymap.bitmap import range_pieces
from tests.properties.test_dirtymap_model import Replication
from tests.properties.world import Line, World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from replicad.dirtymap import Batch, Found, Kind, Segments
    from replicad.dirtymap.bitmap import Words

WALKS = 3000
STEPS = 60
PLACES = (0, 1, 2, 16, 63, 64, 69)
ARGUMENTS: dict[str, tuple[object, ...]] = {
    "first": PLACES,
    "count": (1, 2, 5),
    "half": (None, 0, 1),
    "kind": ("data", "compare"),
    "at_most": (1, 2, 5),
    "which": tuple(range(10)),
    "line": (0, 1, 2),
    "seed": tuple(range(1000)),
    "stores": (0, 1, 2, 3),
    "what": tuple(range(8)),
}


RULES = Replication().rules


def walk(machine: Replication, chance: random.Random) -> None:
    """The rules of the state machine in random order, checked after each. Hypothesis itself looks
    for the smallest example and takes 50 times as long for each; here only finding counts."""
    machine.begin(
        set(chance.sample(PLACES, chance.randrange(4))),
        set(chance.sample(PLACES, chance.randrange(4))),
    )
    try:
        for _ in range(STEPS):
            rule = chance.choice(RULES)
            if all(condition(machine) for condition in rule.preconditions):
                given = {name: chance.choice(ARGUMENTS[name]) for name in rule.arguments_strategies}
                rule.function(machine, **given)
                machine.world.check()
    finally:
        machine.teardown()


def search_for_a_fault(world: type[World], walks: int = WALKS) -> None:
    """Walks until a promise is seen broken (AssertionError), or not."""
    machine = type("Searched", (Replication,), {"world_class": world})
    for seed in range(walks):
        walk(machine(), random.Random(seed))


class ClearsAfterReading(World):
    """Promise 2 turned round: the dirty bit goes when the extent has been read."""

    def taken(self, batch: Batch) -> None:
        super().taken(batch)
        if batch.kind == "data":
            self.map._dirty.set(batch.place, batch.mask)

    def send(self, which: int, line: Line) -> None:
        batch = self.reading[which][0]
        super().send(which, line)
        if batch.kind == "data":
            self.map._dirty.clear(batch.place, batch.mask)


class AcknowledgesBeforeSync(World):
    """The receiver says 'durable' of what is in its cache."""

    def acknowledge(self, line: Line) -> None:
        self.speak(line)


class LosesBeforeFence(World):
    """What a broken connection carried is sent again while the receiver may still write it."""

    def cut(self, line: Line) -> None:
        super().cut(line)
        self.report_lost(line)


class ForgetsLost(World):
    """What a broken connection carried is taken for delivered."""

    def report_lost(self, line: Line) -> None:
        for batch in self.window.lost(line.number):
            if batch.kind == "data":
                self.map.acked(batch)
            else:
                self.map.compared(batch, (), 0.0)


class DrainsBetween(World):
    """What was written between the question what is unused and its consequence is taken for
    unused as well."""

    def meanwhile(self) -> None:
        self.drain()


class _LeavesInWrongOrder(DirtyMap):
    """D and S cleared before L is set: a kill in between makes it clean."""

    def leave_out(self, first: int, count: int) -> int:
        for place, mask in range_pieces(first, count):
            lacking = (self._dirty.read(place) | self._suspect.read(place)) & mask
            lacking &= ~self._flying.read(place)
            self._dirty.clear(place, lacking)
            self._suspect.clear(place, lacking)
            self._left.set(place, lacking)
        return 0


class _MarkKeepsLeft(DirtyMap):
    """What is written again stays left out."""

    def mark(self, first_word: int, words: Words, now: float) -> int:
        before = self._left.words.copy()
        new = super().mark(first_word, words, now)
        self._left.set(slice(0, before.size), before)
        return new


class _VainIsNothing(DirtyMap):
    """What was swapped out is still called clean."""

    def written_in_vain(self, first_word: int, words: Words) -> None:
        del first_word, words


class _SuspectKeepsLeft(DirtyMap):
    """After a gap what was left out is still taken for unused."""

    def suspect_range(self, first: int, count: int) -> int:
        before = self._left.words.copy()
        new = super().suspect_range(first, count)
        self._left.set(slice(0, before.size), before)
        return new


class _IgnoresFlight(DirtyMap):
    def _takeable(self, place: slice) -> Words:
        return self._dirty.read(place)


class _ComparesInFlight(DirtyMap):
    def _comparable(self, place: slice) -> Words:
        blocks = search.spread(self._suspect.read(place) & ~self._dirty.read(place), 16)
        if place.stop * 64 >= self.granules:
            blocks[1] &= (1 << self.granules % 64) - 1
        return blocks


class _TakesInWrongOrder(DirtyMap):
    """D cleared before F is set: a kill in between forgets."""

    def take(
        self, kind: Kind, cursor: int, wanted: int, divide: Callable[[Found], Sequence[Batch]]
    ) -> Sequence[Batch]:
        def divided(found: Found) -> Sequence[Batch]:
            batches = divide(found)
            if kind == "data" and batches:
                self._dirty.clear(*found.below(batches[-1].end))
            return batches

        return super().take(kind, cursor, wanted, divided)


class _LosesInWrongOrder(DirtyMap):
    """F cleared before D is set."""

    def lost(self, batch: Batch) -> None:
        self._end(batch, batch.kind)
        self._flying.clear(batch.place, batch.mask)
        if batch.kind == "data":
            self._dirty.set(batch.place, batch.mask)


class _LostIsClean(DirtyMap):
    def lost(self, batch: Batch) -> None:
        self._end(batch, batch.kind)
        self._flying.clear(batch.place, batch.mask)


class _DiffersInWrongOrder(DirtyMap):
    """S and F cleared before D is set."""

    def compared(self, batch: Batch, differing: Segments, now: float) -> None:
        super().compared(batch, (), now)
        for first, count in differing:
            self.mark_range(first, count, now)


class _RecoversNothing(DirtyMap):
    def _recover(self, now: float) -> None:
        del now
        self._flying.zero()


class _RecoversInWrongOrder(DirtyMap):
    """F zeroed before D has it: a kill in the middle of recovery forgets."""

    def _recover(self, now: float) -> None:
        del now
        flying = self._flying.words & ~self._suspect.words
        self._flying.zero()
        if flying.any():
            self._dirty.set(slice(0, flying.size), flying)


class _AckCleansAll(DirtyMap):
    """The acknowledgement also clears what was written since."""

    def acked(self, batch: Batch) -> None:
        super().acked(batch)
        self._dirty.clear(batch.place, batch.mask)


class _EqualCleansAll(DirtyMap):
    def compared(self, batch: Batch, differing: Segments, now: float) -> None:
        super().compared(batch, differing, now)
        self._suspect.clear(batch.place, batch.mask)
        if not differing:
            self._dirty.clear(batch.place, batch.mask)


class _MarkSkipsFlight(DirtyMap):
    """What is in flight is on its way anyway, or is it?"""

    def mark(self, first_word: int, words: Words, now: float) -> int:
        flying = self._flying.words[first_word : first_word + words.size]
        return super().mark(first_word, words & ~flying, now)


class _SuspectForgotten(DirtyMap):
    """Comparing clears S at once; loss then leaves nothing."""

    def take(
        self, kind: Kind, cursor: int, wanted: int, divide: Callable[[Found], Sequence[Batch]]
    ) -> Sequence[Batch]:
        batches = super().take(kind, cursor, wanted, divide)
        for batch in batches:
            self._suspect.clear(batch.place, batch.mask)
        return batches


MAPS = (
    _IgnoresFlight,
    _ComparesInFlight,
    _TakesInWrongOrder,
    _LosesInWrongOrder,
    _LostIsClean,
    _DiffersInWrongOrder,
    _RecoversNothing,
    _RecoversInWrongOrder,
    _AckCleansAll,
    _EqualCleansAll,
    _MarkSkipsFlight,
    _SuspectForgotten,
    _LeavesInWrongOrder,
    _MarkKeepsLeft,
    _VainIsNothing,
    _SuspectKeepsLeft,
)
WORLDS = (DrainsBetween, ClearsAfterReading, AcknowledgesBeforeSync, LosesBeforeFence, ForgetsLost)
MUTANTS = [*WORLDS, *(type(m.__name__, (World,), {"map_class": m}) for m in MAPS)]


@pytest.mark.parametrize("world", MUTANTS, ids=lambda world: world.__name__.strip("_"))
def test_a_broken_promise_is_found(world: type[World]) -> None:
    with pytest.raises(AssertionError, match=r"promise|checkpoint"):
        search_for_a_fault(world)


def test_the_world_itself_is_right() -> None:
    """The same walks find nothing where nothing is wrong; tests/mutations makes them longer."""
    search_for_a_fault(World, walks=min(WALKS, 2 * settings().max_examples))
