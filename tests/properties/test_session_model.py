"""The whole way against a model: any order of everything, and nothing is lost.

The rules are small steps, so that hypothesis finds the orders that nobody thought of, and a few
large ones, so that examples get far. What must hold is in :mod:`tests.properties.wholeway`. Each
example ends in quiet: after all that happened both disks must become equal.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.properties import quiet
from tests.properties.network import Cable
from tests.properties.wholeway import WholeWay

pytestmark = pytest.mark.timeout(600)

# Places where words, compare blocks, batches and the disk's end meet.
PLACES = st.sampled_from([0, 1, 2, 3, 15, 16, 17, 62, 63, 64, 65, 69])
COUNTS = st.sampled_from([1, 1, 2, 3, 8, 40])
SEEDS = st.integers(0, 2**16)
SIZES = st.sampled_from([1, 60, 5000, 1 << 20])
WHICH = st.integers(0, 99)


class Replication(RuleBasedStateMachine):
    world_class: type[WholeWay] = WholeWay

    @initialize(fresh=st.booleans(), seed=SEEDS, connected=st.integers(0, 3))
    def begin(self, fresh: bool, seed: int, connected: int) -> None:
        self.directory = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.seed = seed
        self.world = self.world_class(Path(self.directory.name), fresh=fresh, seed=seed)
        if connected:
            quiet.connect(self.world, random.Random(seed))
        if connected > 1:
            quiet.come_to_rest(self.world, random.Random(seed))

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                if not self.world.violations:
                    quiet.come_to_rest(self.world, random.Random(self.seed))
            finally:
                self.world.close()
                self.directory.cleanup()

    # --- the server works ---------------------------------------------------------------------

    @rule(first=PLACES, count=COUNTS, shift=st.integers(0, 1), zeros=st.booleans())
    def write(self, first: int, count: int, shift: int, zeros: bool) -> None:
        self.world.write(first, count, shift=shift, zeros=zeros, whole=True)

    @rule(first=PLACES, count=COUNTS, shift=st.integers(0, 1))
    def queue(self, first: int, count: int, shift: int) -> None:
        self.world.write(first, count, shift=shift, zeros=False, whole=False)

    @rule(first=PLACES, count=COUNTS)
    def queue_unseen(self, first: int, count: int) -> None:
        """It stays in flight, and only its landing is seen."""
        self.world.write(first, count, shift=0, zeros=False, whole=False, seen=False)

    @precondition(lambda self: self.world.kernel.writes)
    @rule(which=WHICH, size=st.sampled_from([2048, 4096, 1 << 20]))
    def land(self, which: int, size: int) -> None:
        writes = self.world.kernel.writes
        self.world.kernel.land(which % len(writes), size)

    @rule(first=PLACES, hook=st.integers(0, 2))
    def miss(self, first: int, hook: int) -> None:
        self.world.miss(first, hook)

    # --- the source ---------------------------------------------------------------------------

    def idle(self) -> bool:
        return self.world.source.transfer is not None and self.world.source.running is None

    @rule()
    def drain(self) -> None:
        self.world.drain()

    @precondition(lambda self: self.idle())
    @rule()
    def begin_pass(self) -> None:
        self.world.source.run()

    @precondition(lambda self: self.world.source.running is not None)
    @rule(count=st.integers(1, 4))
    def plan(self, count: int) -> None:
        for _ in range(count):
            if self.world.source.transfer is not None:
                self.world.source.plan()

    def can_send(self) -> bool:
        return bool(self.world.source.reading and self.world.source.senders)

    @precondition(lambda self: self.can_send())
    @rule(which=WHICH)
    def read_late(self, which: int) -> None:
        """The first halves are read now, not when the batch was taken."""
        source = self.world.source
        at = which % len(source.reading)
        work, _ = source.reading[at]
        source.reading[at] = (work, source.reader.begin(work.ranges))

    @precondition(lambda self: self.can_send())
    @rule(which=WHICH, line=st.integers(0, 1))
    def send(self, which: int, line: int) -> None:
        self.world.send(which % len(self.world.source.reading), line)

    @precondition(lambda self: self.world.source.senders)
    @rule(line=st.integers(0, 1))
    def ask(self, line: int) -> None:
        self.world.ask(line)

    # --- wire and receiver --------------------------------------------------------------------

    def with_bytes(self, back: bool) -> list[Cable]:
        return [cable for cable in self.world.cables if (cable.back if back else cable.coming)]

    @precondition(lambda self: self.with_bytes(False))
    @rule(line=WHICH, size=SIZES)
    def deliver(self, line: int, size: int) -> None:
        cables = self.with_bytes(False)
        cables[line % len(cables)].deliver(size)
        self.world.settle()

    @precondition(lambda self: self.with_bytes(True))
    @rule(line=WHICH, size=SIZES)
    def answer(self, line: int, size: int) -> None:
        cables = self.with_bytes(True)
        cables[line % len(cables)].answer(size)
        self.world.settle()
        self.world.source.finish_pass()

    @precondition(lambda self: self.world.receiver.jobs.waiting)
    @rule(which=WHICH)
    def thread(self, which: int) -> None:
        self.world.run_job(which)

    @rule()
    def tick(self) -> None:
        self.world.clock.now += 0.06
        self.world.settle()

    # Whole rounds.

    @precondition(lambda self: self.world.source.transfer is not None)
    @rule(seed=SEEDS)
    def round_trip(self, seed: int) -> None:
        quiet.move_on(self.world, random.Random(seed))
        self.world.source.finish_pass()

    @precondition(lambda self: self.world.source.transfer is not None)
    @rule(seed=SEEDS, busy=st.booleans())
    def whole_pass(self, seed: int, busy: bool) -> None:
        self.world.drain()
        self.world.source.run()
        quiet.finish_pass(self.world, random.Random(seed), busy=busy)

    @precondition(lambda self: self.world.source.transfer is None)
    @rule(seed=SEEDS)
    def connect(self, seed: int) -> None:
        quiet.connect(self.world, random.Random(seed))

    # --- what goes wrong ----------------------------------------------------------------------

    @precondition(lambda self: self.world.live_cables())
    @rule(line=WHICH)
    def cut(self, line: int) -> None:
        cables = self.world.live_cables()
        cables[line % len(cables)].cut()
        self.world.settle()
        self.world.leave_if_failed()

    @precondition(lambda self: self.world.source.transfer is not None)
    @rule()
    def leave(self) -> None:
        """The control connection broke: the source gives the session up; its frames go on."""
        self.world.leave()

    @precondition(lambda self: self.world.source.transfer is None)
    @rule()
    def ask_for_session(self) -> None:
        self.world.ask_for_session()

    @precondition(lambda self: self.world.receiver.opening is not None)
    @rule(heard=st.sampled_from([True, True, False]))
    def take_session(self, heard: bool) -> None:
        self.world.take_session(heard=heard)

    @rule(seed=SEEDS, power=st.booleans())
    def kill_receiver(self, seed: int, power: bool) -> None:
        self.world.kill_receiver(random.Random(seed), power=power)
        self.world.leave_if_failed()

    @rule(run_lost=st.booleans(), pins_lost=st.sampled_from([False, False, True]))
    def kill_source(self, run_lost: bool, pins_lost: bool) -> None:
        self.world.kill_source(run_lost=run_lost, pins_lost=pins_lost)

    @rule(kill_after=st.integers(0, 3))
    def kill_in_drain(self, kill_after: int) -> None:
        self.world.drain(kill_after)

    @rule(run_kept=st.booleans())
    def reboot(self, run_kept: bool) -> None:
        self.world.reboot(run_kept=run_kept)

    @rule()
    def lose_pins(self) -> None:
        """Somebody removes the tracker's pins while the daemon runs."""
        self.world.kernel.slot.generation = 0

    @rule(seed=SEEDS)
    def swap(self, seed: int) -> None:
        self.world.swap(random.Random(seed))

    @rule()
    def fail_sync(self) -> None:
        self.world.medium.fail_sync = True

    # --- what must hold -----------------------------------------------------------------------

    @rule(seed=SEEDS, writes=st.integers(0, 3))
    def checkpoint(self, seed: int, writes: int) -> None:
        quiet.checkpoint(self.world, random.Random(seed), writes)

    @invariant()
    def promises(self) -> None:
        if hasattr(self, "world"):
            self.world.leave_if_failed()
            self.world.check()


TestWholeWay = Replication.TestCase
TestWholeWay.settings = settings(
    max_examples=max(100, settings().max_examples // 2), stateful_step_count=50
)
