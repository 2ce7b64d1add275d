"""The checkpoint, cancelled at every point where it waits; then everything goes on.

The writer writes before, during and after; only while frozen it does not. Whatever happens:
nothing stays frozen, nothing stays in flight, what was committed is the frozen instant, and the
next undisturbed sync makes both disks equal.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
import types
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from protocol.errors import CHECKPOINT_SUPERSEDED, DISK_BUSY_UNMOUNTED, FREEZE_TOO_LONG, Fault
from protocol.wire.jobs import CheckpointOrder
from replicad import forecast
from replicad.convergence import Outlook
from replicad.engine import checkpoint
from replicad.engine import frozen as frozen_module
from replicad.engine.checkpoint import Checkpointer, Taken
from replicad.freeze.hooks import HookContext
from replicad.freeze.mounts import FrozenMount
from replicad.rates import Sent
from tests.support.copying import GRANULE, Bench, Freezing, bench

pytestmark = pytest.mark.timeout(280)

GRANULES = 600
ORDER = CheckpointOrder(request="r")
CONTEXT = HookContext(job="job", job_name="name", epoch=1)


@types.coroutine
def cancelled_at(
    number: int, work: Coroutine[Any, Any, Taken]
) -> Generator[Any, Any, Taken | None]:
    """Run ``work``, and cancel the task at the ``number``th time that it waits; None: never."""
    found = None
    waits = 0
    try:
        found = work.send(None)
        while True:
            waits += 1
            if waits == number:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                value = yield found
            except BaseException as error:  # noqa: BLE001 - handed on to where it belongs
                found = work.throw(error)
            else:
                found = work.send(value)
    except StopIteration as stop:
        if waits < number:
            return None
        taken: Taken = stop.value
        return taken


class Writer:
    """Writes random granules; it stands still while the disk is frozen."""

    def __init__(self, made: Bench, freezing: Freezing) -> None:
        self._made = made
        self._freezing = freezing
        self._chance = random.Random(1)

    def write(self, granules: int = 5) -> None:
        if not self._freezing.frozen:
            for granule in self._chance.sample(range(GRANULES), granules):
                self._made.tracker.write(self._made.path, granule, self._chance.randbytes(GRANULE))


def frozen_for(monkeypatch: pytest.MonkeyPatch, made: Bench, mounted: bool = True) -> Freezing:
    freezing = Freezing(made.path)
    name = made.path.resolve().name
    mount = FrozenMount("/m", "ext4", "/dev/x", "0:0", (("/m", 1),), (name,))
    monkeypatch.setattr(checkpoint, "Freezer", freezing)
    monkeypatch.setattr(checkpoint, "mounts_to_freeze", lambda _: (mount,) if mounted else ())
    monkeypatch.setattr(checkpoint, "lock_memory", lambda: None)
    monkeypatch.setattr(checkpoint, "unlock_memory", lambda: None)
    return freezing


def run_case(case: Callable[[Bench], Coroutine[Any, Any, Any]], *, tracked: bool = True) -> Any:
    async def run() -> Any:
        with TemporaryDirectory(dir="/dev/shm") as directory:
            async with bench(Path(directory), GRANULES, tracked=tracked) as made:
                return await case(made)

    return asyncio.run(run())


def checkpointer(
    made: Bench, transfer: Any, budget: float = 30.0, outlook: Outlook | None = None
) -> Checkpointer:
    hooks, record = made.directory / "hooks", made.directory / "frozen.json"
    return Checkpointer(
        made.disks,
        transfer,
        budget,
        hooks,
        CONTEXT,
        made.workers,
        record,
        outlook or Outlook(600.0),
    )


@pytest.mark.parametrize("part", range(3))
def test_cancelled_wherever_it_waits(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in itertools.count(1 + part, 3):

        async def case(made: Bench, number: int = number) -> Taken | None:
            await made.sync()
            freezing = frozen_for(monkeypatch, made)
            writer = Writer(made, freezing)
            freezing.on_thaw = writer.write
            made.receiver.written = writer.write
            writer.write(40)
            transfer = await made.transfer()
            taken = None
            cancelled = False
            try:
                async with transfer:
                    taken = await cancelled_at(number, checkpointer(made, transfer).take(ORDER))
            except asyncio.CancelledError:
                cancelled = True
            assert not freezing.frozen
            if taken is not None:
                assert bytes(made.receiver.disks[0]) == freezing.references[-1]
            made.receiver.written = freezing.on_thaw = None
            transfer.release()
            assert made.disk.live_map.flying_granules == 0
            await made.sync()
            assert made.equal()
            return taken if cancelled else Taken("crash", 0.0, 0.0, "done")

        done = run_case(case)
        if done is not None:
            break
    assert number > 10, number


def test_what_is_committed_is_the_frozen_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    async def case(made: Bench) -> None:
        await made.sync()
        freezing = frozen_for(monkeypatch, made)
        writer = Writer(made, freezing)
        freezing.on_thaw = made.receiver.written = writer.write
        writer.write(40)
        async with await made.transfer() as transfer:
            for epoch in range(1, 6):
                taken = await checkpointer(made, transfer).take(ORDER)
                assert taken.consistency == "filesystem"
                assert bytes(made.receiver.disks[0]) == freezing.references[-1], epoch
                assert set(taken.milliseconds) == {
                    "freeze",
                    "drain",
                    "read",
                    "hooks",
                    "still",
                    "thaw",
                }

    run_case(case)


def test_a_silent_receiver_does_not_prolong_a_freeze_in_which_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More than memory holds is sent while frozen; nobody waits longer than the freeze lasts."""

    async def case(made: Bench) -> None:
        await made.sync()
        freezing = frozen_for(monkeypatch, made)
        freeze = freezing.freeze
        monkeypatch.setattr(frozen_module, "ARENA_LEAST", GRANULE)
        monkeypatch.setattr(forecast, "MEMORY_BYTES", 2 * GRANULE)
        outlook = Outlook(600.0)
        outlook.sending.begin(0.0, Sent())
        outlook.sending.end(1.0, Sent(10**9, 0, 10**9))

        def late_freeze() -> None:
            freeze()
            for granule in range(100):
                made.tracker.write(made.path, granule, b"late" * (GRANULE // 4))

        monkeypatch.setattr(freezing, "freeze", late_freeze)
        made.receiver.answer = lambda _, answers: [] if freezing.frozen else answers
        begun = time.monotonic()
        async with await made.transfer() as transfer:
            with pytest.raises(Fault) as refused:
                await checkpointer(made, transfer, 0.3, outlook)._attempt()
            assert not freezing.frozen
            assert time.monotonic() - begun < 5.0
        assert refused.value.code == FREEZE_TOO_LONG.code
        assert "could not be sent while frozen" in refused.value.sentence
        made.receiver.answer = None
        transfer.release()
        await made.sync()
        assert made.equal()

    run_case(case)


@pytest.mark.parametrize("when", ["frozen", "read"])
def test_missed_events_end_the_attempt_and_the_next_one_compares(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def case(made: Bench) -> None:
        await made.sync()
        freezing = frozen_for(monkeypatch, made)
        missed = iter([True])

        def miss(*_: object) -> None:
            if next(missed, False):
                made.tracker.write(made.path, 77, b"z" * GRANULE, seen=False)
                made.tracker.misses_now += 1

        made.tracker.write(made.path, 5, b"a" * GRANULE)
        if when == "frozen":
            freeze = freezing.freeze

            def missing_freeze() -> None:
                miss()
                freeze()

            monkeypatch.setattr(freezing, "freeze", missing_freeze)
        else:
            read = made.disk.reader.read

            def reading(*arguments: Any) -> int:
                if freezing.frozen:
                    miss()
                return read(*arguments)

            monkeypatch.setattr(made.disk.reader, "read", reading)
            settle = iter([True])
            freezing_freeze = freezing.freeze

            def dirty_freeze() -> None:
                if next(settle, False):
                    made.tracker.write(made.path, 9, b"b" * GRANULE)
                freezing_freeze()

            monkeypatch.setattr(freezing, "freeze", dirty_freeze)
        async with await made.transfer() as transfer:
            await checkpointer(made, transfer).take(ORDER)
        assert len(freezing.references) == 2
        assert bytes(made.receiver.disks[0]) == freezing.references[-1]
        assert made.equal()
        assert made.disk.trust == "tracked without a gap since the compare pass"

    run_case(case)


def test_events_missed_in_every_attempt_refuse_the_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def case(made: Bench) -> None:
        await made.sync()
        freezing = frozen_for(monkeypatch, made)
        freeze = freezing.freeze

        def missing() -> None:
            made.tracker.misses_now += 1
            freeze()

        monkeypatch.setattr(freezing, "freeze", missing)
        async with await made.transfer() as transfer:
            with pytest.raises(Fault) as refused:
                await checkpointer(made, transfer).take(ORDER)
        assert refused.value.code == CHECKPOINT_SUPERSEDED.code
        assert not freezing.frozen
        assert made.disk.suspect

    run_case(case)


def test_a_disk_without_a_filesystem_that_is_written_meanwhile_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def case(made: Bench) -> None:
        await made.sync()
        freezing = frozen_for(monkeypatch, made, mounted=False)
        instant = iter([True])
        drain = made.disks.drain_frozen

        def drain_and_write() -> None:
            drain()
            if next(instant, False):
                made.tracker.write(made.path, 9, b"b" * GRANULE)

        monkeypatch.setattr(made.disks, "drain_frozen", drain_and_write)
        async with await made.transfer() as transfer:
            with pytest.raises(Fault) as refused:
                await checkpointer(made, transfer).take(ORDER)
        assert refused.value.code == DISK_BUSY_UNMOUNTED.code
        assert not freezing.references

    run_case(case)


def test_a_write_that_is_on_its_way_is_a_write_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has marked it yet; it is looked for before the drain that must find what ended."""

    async def case(made: Bench) -> None:
        await made.sync()
        freezing = frozen_for(monkeypatch, made, mounted=False)
        drain, order = made.disks.drain_frozen, list[str]()

        def draining() -> None:
            order.append("drain")
            drain()

        def looking(*_: int) -> bool:
            order.append("look")
            return True

        monkeypatch.setattr(made.disks, "drain_frozen", draining)
        monkeypatch.setattr("replicad.engine.frozen.has_requests", lambda *_: True)
        monkeypatch.setattr("replicad.engine.frozen.writes_under_way", looking)
        async with await made.transfer() as transfer:
            with pytest.raises(Fault) as refused:
                await checkpointer(made, transfer).take(ORDER)
        assert refused.value.code == DISK_BUSY_UNMOUNTED.code
        assert order[-2:] == ["look", "drain"]
        assert not freezing.references

    run_case(case)


def test_without_a_tracker_all_is_compared_again_while_frozen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def case(made: Bench) -> None:
        await made.sync()
        freezing = frozen_for(monkeypatch, made)
        async with await made.transfer() as transfer:
            # Half of it compared a moment ago, and written since: only suspicion tells.
            made.disk.live_map.suspect_range(300, 300)
            with made.path.open("r+b") as disk:
                disk.write(b"c" * GRANULE)
            taken = await checkpointer(made, transfer, 600.0).take(ORDER)
        assert taken.consistency == "filesystem"
        assert bytes(made.receiver.disks[0]) == freezing.references[-1]

    run_case(case, tracked=False)
