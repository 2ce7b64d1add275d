"""Verification against a model: no false alarm and no miss, in whatever order writes, passes,
damage and slices come; and each precaution that is left out is noticed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from replicad.dirtymap import Batch, Segments
from replicad.verification import Round
from tests.properties.verifying import World, bits_of

# Where words, blocks of 64 KiB and the disk's end meet.
PLACES = st.sampled_from([0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 149])


class Verifying(RuleBasedStateMachine):
    world_class: type[World] = World

    @initialize(marks_queued=st.booleans())
    def begin(self, marks_queued: bool) -> None:
        self.directory = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.world = self.world_class(Path(self.directory.name, "map"))
        self.world.marks_queued = marks_queued

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.map.close()
            self.directory.cleanup()

    @rule(first=PLACES, count=st.sampled_from([1, 1, 2, 20]))
    def queue(self, first: int, count: int) -> None:
        self.world.queue(first, count)

    @precondition(lambda self: any(not write.landed for write in self.world.writes))
    @rule(which=st.integers(0, 99))
    def land(self, which: int) -> None:
        waiting = [write for write in self.world.writes if not write.landed]
        self.world.land(waiting[which % len(waiting)])

    @precondition(lambda self: self.world.writes)
    @rule(which=st.integers(0, 99))
    def end(self, which: int) -> None:
        self.world.end(self.world.writes[which % len(self.world.writes)])

    @rule(granule=PLACES)
    def damage(self, granule: int) -> None:
        self.world.damage(granule)

    @rule()
    def drain(self) -> None:
        self.world.drain()

    @precondition(lambda self: self.world.look is None)
    @rule()
    def send(self) -> None:
        self.world.drain()
        self.world.send()

    @precondition(lambda self: self.world.look is None)
    @precondition(lambda self: self.world.stage == "sweep" or self.world.calm)
    @rule(at_most=st.sampled_from([1, 9]))
    def look(self, at_most: int) -> None:
        self.world.start_look(at_most)

    @precondition(lambda self: self.world.look is not None)
    @rule()
    def read(self) -> None:
        self.world.read_again()

    @precondition(lambda self: self.world.look is not None)
    @rule()
    def answer(self) -> None:
        self.world.answer()

    @precondition(lambda self: self.world.look is None)
    @rule()
    def all_of_it(self) -> None:
        """A whole verification while nothing else happens, so that examples get to ends."""
        world = self.world
        for write in list(world.writes):
            world.end(write)
        world.begin()
        findings = world.findings
        while world.findings is findings:
            world.start_look(9)
            world.answer()

    @invariant()
    def promises(self) -> None:
        if hasattr(self, "world"):
            self.world.check()


TestVerifying = Verifying.TestCase
TestVerifying.settings = settings(max_examples=70, stateful_step_count=50)


# --- what is left out is noticed ---------------------------------------------------------------


class NoDrain(World):
    """Judges by what was dirty before the slice."""

    def drain_before_judging(self) -> None: ...


class OneLook(World):
    """Accuses at the first look."""

    def judge(self, kind: Round, batch: Batch, differing: Segments) -> None:
        super().judge(kind, batch, differing)
        for granule in range(self.findings.granules):
            if self.findings.candidates[granule]:
                place = slice(granule // 64, granule // 64 + 1)
                word = np.uint64(1 << granule % 64)
                self.findings.found.set(place, self.map.settled(place) & word)


class NoPatience(World):
    """Looks again at once, whatever is on its way."""

    calm = property(lambda _: True)


class Deaf(World):
    """Does not hear that a candidate was written between two looks."""

    def begin(self) -> None:
        super().begin()
        self.map.unwritten = None


class Trusting(World):
    """Believes the copy where the map calls it clean."""

    def judge(self, kind: Round, batch: Batch, differing: Segments) -> None:
        super().judge(kind, batch, ())


@pytest.mark.parametrize("mutant", [NoDrain, Trusting])
def test_a_precaution_that_is_left_out_is_noticed(mutant: type[World]) -> None:
    machine = type(f"With{mutant.__name__}", (Verifying,), {"world_class": mutant})
    many = settings(
        max_examples=300,
        stateful_step_count=50,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[p for p in settings().phases if p.name in {"explicit", "generate"}],
    )
    with pytest.raises(AssertionError, match=r"false alarm|not found"):
        run_state_machine_as_test(machine, settings=many)


def a_block_that_is_written_all_the_time(world: World) -> None:
    """Both looks come between the landing of a write and its end; each time it is another one."""
    for _ in range(2):
        world.queue(5, 1)
        world.drain()
        world.send()
        (write,) = world.writes
        world.land(write)
        assert world.calm
        world.start_look(99)
        world.answer()
        world.end(write)


def a_write_that_takes_long(world: World) -> None:
    """One write that has landed and does not end, for as long as the verification takes."""
    world.queue(5, 1)
    world.drain()
    world.send()
    world.land(world.writes[0])
    for _ in range(2):
        if world.calm:
            world.start_look(99)
            world.answer()


def repaired_and_written(world: World, *granules: int) -> None:
    """These are damaged, found and sent; then a write lands on the first, and has not ended."""
    for granule in granules:
        world.damage(granule)
    for _ in range(2):
        world.start_look(99)
        world.answer()
    for granule in granules:
        world.map.mark_range(granule, 1, 0.0)
    world.send()
    world.findings.begin_recheck(0.0)
    world.queue(granules[0], 1)
    world.land(world.writes[0])


def a_write_to_what_was_repaired(world: World) -> None:
    """It has landed and not ended when it is looked whether the repair holds."""
    repaired_and_written(world, 5)
    world.start_look(99)
    world.answer()
    if world.calm:
        world.start_look(99)
        world.answer()
    world.end(world.writes[0])
    if world.stage == "certain":
        world.start_look(99)
        world.answer()


def another_write_between(world: World) -> None:
    """What a landing write made look as if the repair had failed is written again until the last
    look: it has been marked, and is no candidate any more."""
    repaired_and_written(world, 5, 100)
    world.start_look(1)
    world.answer()
    assert world.stage == "recheck", "one batch was all of it"
    world.end(world.writes[0])
    world.drain()
    world.send()
    world.queue(5, 1)
    world.land(world.writes[0])
    for _ in range(2):
        world.start_look(99)
        world.answer()


class OneLookAtTheEnd(World):
    """Accuses the repair at the first look."""

    def accused(self, kind: Round) -> set[int]:
        return super().accused("certain" if kind == "recheck" else kind)


class Resurrecting(World):
    """Looks again at all that differed, also at what has been marked since."""

    def next_stage(self, kind: Round) -> None:
        before = bits_of(self.findings.open)
        super().next_stage(kind)
        for granule in before if kind == "recheck" else ():
            place = slice(granule // 64, granule // 64 + 1)
            self.findings.candidates.set(place, np.array([1 << granule % 64], dtype=np.uint64))


@pytest.mark.parametrize(
    ("scene", "mutants"),
    [
        (a_block_that_is_written_all_the_time, [OneLook, Deaf]),
        (a_write_that_takes_long, [OneLook, NoPatience]),
        (a_write_to_what_was_repaired, [OneLookAtTheEnd, NoPatience]),
        (another_write_between, [Resurrecting, Deaf]),
    ],
)
def test_a_landing_write_is_no_damage(
    scene: Callable[[World], None], mutants: list[type[World]], tmp_path: Path
) -> None:
    world = World(tmp_path / "map")
    scene(world)
    assert not world.findings.found.count
    world.map.close()
    for mutant in mutants:
        without = mutant(tmp_path / mutant.__name__)
        with pytest.raises(AssertionError, match="false alarm"):
            scene(without)
        without.map.close()
