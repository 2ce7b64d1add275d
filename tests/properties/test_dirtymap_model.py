"""The dirty map, planner and window against a model: any order of writes, drains, sends, acks,
losses, crashes and kills; no promise may break on the way, and checkpoints must be exact."""

from __future__ import annotations

import contextlib
import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.properties.world import Killed, Line, World

if TYPE_CHECKING:
    from collections.abc import Callable

# Places where words, compare blocks, batches and the disk's end meet.
PLACES = st.sampled_from([0, 1, 2, 3, 4, 15, 16, 17, 62, 63, 64, 65, 69])
COUNTS = st.sampled_from([1, 1, 2, 5, 20])
SEEDS = st.integers(0, 2**16)


class Replication(RuleBasedStateMachine):
    world_class: type[World] = World

    @initialize(dirty=st.sets(PLACES, max_size=3), suspect=st.sets(PLACES, max_size=3))
    def begin(self, dirty: set[int], suspect: set[int]) -> None:
        self.directory = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.world = self.world_class(Path(self.directory.name, "map"), dirty, suspect)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.map.close()
            self.directory.cleanup()

    # --- the server works ---------------------------------------------------------------------

    @rule(first=PLACES, count=COUNTS, half=st.sampled_from([None, 0, 1]))
    def write(self, first: int, count: int, half: int | None) -> None:
        self.world.write(first, count, half)

    @rule()
    def drain(self) -> None:
        self.world.drain()

    @rule(first=PLACES, count=COUNTS)
    def free(self, first: int, count: int) -> None:
        self.world.free(first, count)

    @rule()
    def swap(self) -> None:
        self.world.swap()

    @rule(first=PLACES, count=COUNTS)
    def leave_out(self, first: int, count: int) -> None:
        self.world.leave_out(first, count)

    @rule()
    def bring_back(self) -> None:
        self.world.bring_back()

    @rule()
    def suspect(self) -> None:
        """A gap: what the kernel had, and perhaps more, is unknown."""
        self.world.tracked.clear()
        self.world.dirtied += self.world.map.flying_granules
        self.world.map.suspect_range(0, self.world.map.granules)

    # --- replication --------------------------------------------------------------------------

    @rule(kind=st.sampled_from(["data", "data", "compare"]), at_most=st.integers(1, 5))
    def take(self, kind: str, at_most: int) -> None:
        self.world.take(kind, at_most)

    @precondition(lambda self: self.world.reading)
    @rule(which=st.integers(0, 99))
    def read_late(self, which: int) -> None:
        self.world.reread(which % len(self.world.reading))

    @precondition(lambda self: self.world.reading and self.lines())
    @rule(which=st.integers(0, 99), line=st.integers(0, 2))
    def send(self, which: int, line: int) -> None:
        lines = self.lines()
        self.world.send(which % len(self.world.reading), lines[line % len(lines)])

    def lines(
        self, want: Callable[[Line], object] = lambda _: True, *, cut: bool = False
    ) -> list[Line]:
        return [line for line in self.world.lines.values() if line.cut == cut and want(line)]

    def with_frames(self) -> list[Line]:
        return [line for line in self.world.lines.values() if line.frames]

    @precondition(lambda self: self.with_frames())
    @rule(line=st.integers(0, 2))
    def deliver(self, line: int) -> None:
        lines = self.with_frames()
        self.world.deliver(lines[line % len(lines)])

    @precondition(lambda self: self.lines(lambda line: line.written))
    @rule(line=st.integers(0, 2))
    def acknowledge(self, line: int) -> None:
        lines = self.lines(lambda line: line.written)
        self.world.acknowledge(lines[line % len(lines)])

    @precondition(lambda self: self.lines(lambda line: line.acks))
    @rule(line=st.integers(0, 2))
    def hear(self, line: int) -> None:
        lines = self.lines(lambda line: line.acks)
        self.world.hear(lines[line % len(lines)])

    # Whole rounds, so that examples get far; the single steps above find the orders in between.

    @precondition(lambda self: self.lines())
    @rule(kind=st.sampled_from(["data", "compare"]), line=st.integers(0, 2))
    def take_and_send(self, kind: str, line: int) -> None:
        self.world.take(kind, 5)
        lines = self.lines()
        while self.world.reading:
            self.world.send(0, lines[line % len(lines)])

    @precondition(lambda self: self.lines(lambda line: line.frames or line.written))
    @rule(line=st.integers(0, 2))
    def round_trip(self, line: int) -> None:
        lines = self.lines(lambda line: line.frames or line.written)
        self.finish(lines[line % len(lines)])

    def finish(self, line: Line) -> None:
        while line.frames:
            self.world.deliver(line)
        self.world.acknowledge(line)
        while line.acks:
            self.world.hear(line)

    # --- what goes wrong ----------------------------------------------------------------------

    @precondition(lambda self: self.lines(lambda line: line.frames))
    @rule(line=st.integers(0, 2))
    def cut(self, line: int) -> None:
        lines = self.lines(lambda line: line.frames)
        self.world.cut(lines[line % len(lines)])

    @precondition(lambda self: self.lines(cut=True))
    @rule()
    def fence(self) -> None:
        self.world.fence(self.lines(cut=True)[0])

    @rule(seed=SEEDS)
    def crash_receiver(self, seed: int) -> None:
        self.world.crash_receiver(random.Random(seed))

    @rule()
    def kill(self) -> None:
        self.world.stop_source()

    @rule(seed=SEEDS, stores=st.integers(0, 3), what=st.integers(0, 7))
    def kill_within(self, seed: int, stores: int, what: int) -> None:
        """kill -9 in the middle of one of the map's operations, and perhaps of recovery too."""
        self.world.switch.chance = random.Random(seed)
        self.world.switch.left = stores
        with contextlib.suppress(Killed):
            self.something(what)
        self.world.stop_source()

    def something(self, what: int) -> None:
        waiting = self.lines(lambda line: line.frames or line.written)
        if what == 0:
            self.world.drain()
        elif what == 1:
            self.world.take("compare", 3)
        elif what == 2 and waiting:
            self.world.cut(waiting[0])
            self.world.fence(waiting[0])
        elif what == 3:
            self.world.dirtied += self.world.map.flying_granules
            self.world.map._recover(0.0)
        elif what == 6:
            self.world.leave_out(0, 1)
        elif what == 7:
            self.world.bring_back()
        elif what == 4 and waiting:
            self.finish(waiting[0])
        else:
            self.world.take("data", 3)

    # --- what must hold -----------------------------------------------------------------------

    @rule(seed=SEEDS)
    def checkpoint(self, seed: int) -> None:
        self.world.checkpoint(random.Random(seed))

    @invariant()
    def promises(self) -> None:
        if hasattr(self, "world"):
            self.world.check()


TestReplication = Replication.TestCase
TestReplication.settings = settings(
    max_examples=max(150, settings().max_examples), stateful_step_count=60
)
