"""The order of things in the engine that a promise stands on: fence before lost, thaw first."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from protocol.errors import INTERNAL, Fault
from protocol.wire.jobs import CheckpointOrder
from protocol.wire.messages import OpenSession
from replicad.engine import checkpoint, session
from tests.replicad.engine.test_interrupted import ORDER, checkpointer, frozen_for, run_case
from tests.replicad.engine.test_job import World, play
from tests.support.copying import GRANULE, Bench

pytestmark = pytest.mark.timeout(120)


def nothing_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicad.engine.disks.mounts_to_freeze", lambda _: ())
    monkeypatch.setattr(checkpoint, "mounts_to_freeze", lambda _: ())


def test_what_was_in_flight_is_lost_only_after_the_next_session_has_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until then the older one's frames may still be written, over what is sent anew."""
    nothing_mounted(monkeypatch)

    async def case(world: World) -> None:
        def flying() -> int:
            disks = world.engine._disks
            assert disks is not None
            return disks.disks[0].live_map.flying_granules

        world.order("run")
        await world.synced()
        world.receiver.answer = lambda _frame, _answers: []  # nothing is acknowledged any more
        world.write(5)
        await world.until(lambda: flying() == 1)
        world.lose()
        world.receiver.answer = None
        seen: list[int] = []
        request = world.played.request

        async def asking(message: object, *rest: Any) -> Any:
            if isinstance(message, OpenSession):
                seen.append(flying())
            return await request(message, *rest)

        world.played.request = asking  # type: ignore[method-assign, assignment]
        world.order("run")
        await world.until(lambda: seen and world.equal)
        assert seen[0] == 1

    play(case)


def test_after_a_held_checkpoint_nothing_is_sent_before_the_next_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nothing_mounted(monkeypatch)
    monkeypatch.setattr(session, "DELTA_SECONDS", 0.0)

    async def case(world: World) -> None:
        world.order("run")
        await world.synced()
        world.order("run", checkpoint=CheckpointOrder(request="a", hold=True))
        await world.until(lambda: world.report.epoch == 1)
        world.write(9)
        await asyncio.sleep(1.0)
        assert bytes(world.receiver.disks[0]) == world.receiver.committed[1][0]
        world.order("run")
        await world.until(lambda: world.equal)

    play(case)


def test_it_thaws_before_it_waits_for_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook that hangs must not keep the server frozen when reading has failed."""

    async def case(made: Bench) -> None:
        await made.sync()
        freezing = frozen_for(monkeypatch, made)
        ended: list[bool] = []

        async def failing(*_: object) -> None:
            await asyncio.sleep(0)
            raise INTERNAL.fault(detail="a test")

        async def hook(phase: str, _limit: float) -> bool:
            if phase == "frozen":
                try:
                    await asyncio.Event().wait()
                finally:
                    ended.append(freezing.frozen)
            return False

        monkeypatch.setattr(checkpoint, "read_frozen", failing)
        async with await made.transfer() as transfer:
            taker = checkpointer(made, transfer)
            monkeypatch.setattr(taker, "_hook", hook)
            with pytest.raises(Fault, match="RPL-1900"):
                await taker.take(ORDER)
        assert freezing.references
        assert ended == [False]

    run_case(case)


def test_what_is_read_was_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dirty at the freeze is written over as soon as it is thawed."""

    async def case(made: Bench) -> None:
        await made.sync()
        freezing = frozen_for(monkeypatch, made)
        freeze = freezing.freeze

        def write() -> None:
            for granule in range(0, 600, 7):
                made.tracker.write(made.path, granule, os.urandom(GRANULE))

        def write_and_freeze() -> None:
            write()
            freeze()

        monkeypatch.setattr(freezing, "freeze", write_and_freeze)
        freezing.on_thaw = write
        async with await made.transfer() as transfer:
            await checkpointer(made, transfer).take(ORDER)
            assert bytes(made.receiver.disks[0]) == freezing.references[-1]

    run_case(case)
