"""The loop that obeys orders: golden sequences of orders, and what the report says after each."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from protocol.errors import CONNECTION_LOST, JOB_STATE, Fault
from protocol.wire.jobs import CheckpointOrder, JobOrder
from protocol.wire.messages import Commit
from replicad.engine import checkpoint
from replicad.engine.job import JobEngine
from replicad.engine.leftovers import remove_leftovers
from replicad.engine.session import Settings
from tests.support.copying import GRANULE, Link, Receiver, Tracker

pytestmark = pytest.mark.timeout(120)

GRANULES = 64


class World:
    """An engine, the receiver that orders it about, and the link between them."""

    host = "127.0.0.1"

    def __init__(self, directory: Path, receiver: Receiver, disk: Path) -> None:
        self.directory = directory
        self.disk = disk
        self.receiver = receiver
        self.tracker = Tracker()
        self.played = Link(receiver)
        self.link: Any = None
        self.engine = JobEngine(
            Settings(directory, directory / "hooks", (str(disk),)), self.tracker, self
        )
        self.revision = 0

    def order(self, want: Any, **values: Any) -> None:
        """Say what is wanted; the receiver is there from the first time on."""
        self.revision += 1
        self.link = self.played
        said = {"job": "job", "name": "n", "disks": (str(self.disk),), "state": "syncing"}
        self.engine.obey(JobOrder(revision=self.revision, want=want, **{**said, **values}))

    def lose(self) -> None:
        """The control link breaks, and with it the session."""
        self.played.closed.set()
        self.receiver.fence()
        self.played, self.link = Link(self.receiver), None

    async def until(self, condition: Callable[[], Any]) -> None:
        """Poll: threads and sockets are real here."""
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 - many conditions, none of them an event
                await asyncio.sleep(0.01)

    async def state(self, state: str) -> None:
        await self.until(lambda: self.report and self.report.state == state)

    async def synced(self) -> None:
        def passed() -> bool:
            report = self.report  # its disks are gone while a fault has them opened anew
            return bool(report and report.disks and report.disks[0].passed)

        await self.until(lambda: passed() and self.equal)

    @property
    def report(self) -> Any:
        """None until the engine has taken the first order in."""
        return self.engine.report()

    @property
    def equal(self) -> bool:
        return bytes(self.receiver.disks[0]) == self.disk.read_bytes()

    def write(self, granule: int) -> None:
        self.tracker.write(self.disk, granule, os.urandom(GRANULE))


def play(case: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        with TemporaryDirectory(dir="/dev/shm") as name:
            directory = Path(name)
            disk = directory / "disk"
            disk.write_bytes(os.urandom(GRANULES * GRANULE))
            async with Receiver({str(disk): GRANULES * GRANULE}, fresh=True) as receiver:
                world = World(directory, receiver, disk)
                running = asyncio.create_task(world.engine.run())
                try:
                    await case(world)
                finally:
                    running.cancel()
                    await asyncio.wait([running])
                assert running.cancelled()

    asyncio.run(run())


@pytest.fixture(autouse=True)
def nothing_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicad.engine.disks.mounts_to_freeze", lambda _: ())
    monkeypatch.setattr(checkpoint, "mounts_to_freeze", lambda _: ())


def test_from_the_first_copy_to_the_cutover() -> None:
    async def case(world: World) -> None:
        world.order("run")
        await world.synced()
        world.write(3)
        world.order("run", checkpoint=CheckpointOrder(request="a"))
        await world.until(lambda: 1 in world.receiver.committed)
        assert world.receiver.committed[1][0] == world.disk.read_bytes()
        world.order("pause", state="paused")
        await world.state("paused")
        world.write(4)
        await world.until(lambda: world.report.disks[0].dirty_bytes == GRANULE)
        assert not world.equal
        world.order("run")
        await world.until(lambda: world.equal)
        assert world.report.disks[0].trust == "tracked without a gap since the full pass (epoch 1)"
        world.order("run", checkpoint=CheckpointOrder(request="b", cutover=True))
        await world.until(lambda: 2 in world.receiver.committed)
        world.order("stop", state="finished")
        await world.state("finished")
        await world.until(lambda: not list(world.directory.glob("*.map")))
        assert world.tracker.untracked == [str(world.disk)]

    play(case)


def test_a_held_checkpoint_is_not_written_over() -> None:
    async def case(world: World) -> None:
        world.order("run")
        await world.synced()
        world.order("run", checkpoint=CheckpointOrder(request="a", hold=True))
        await world.until(lambda: world.report.epoch == 1)
        world.write(9)
        world.order("pause", state="waiting", held=True)
        await world.state("waiting")
        await world.until(lambda: world.report.disks[0].dirty_bytes == GRANULE)
        assert bytes(world.receiver.disks[0]) == world.receiver.committed[1][0]
        world.order("run")
        await world.until(lambda: world.equal)

    play(case)


def test_a_lost_link_is_noticed_at_once_and_mended() -> None:
    async def case(world: World) -> None:
        world.order("run")
        await world.synced()
        world.lose()
        # Although there is nothing to send at that moment.
        await world.until(lambda: world.report.reconnects == 1)
        world.write(5)
        world.order("run")
        await world.until(lambda: world.equal)
        assert world.report.state in {"preparing", "syncing"}

    play(case)


def test_a_session_that_carried_something_is_soon_replaced() -> None:
    """However often that happens: on a long line each tenth of a second counts."""

    async def case(world: World) -> None:
        engine: Any = world.engine
        waits: list[float] = []
        real = engine._backoff.next

        def noted() -> float:
            waits.append(real())
            return waits[-1]

        def another(old: Any) -> bool:
            return engine._transfer not in {None, old}

        engine._backoff.next = noted
        world.order("run")
        await world.synced()
        for number in range(3):
            world.write(number)
            await world.until(lambda: world.equal)
            await world.until(lambda: not world.report.disks[0].in_flight_bytes)
            old = engine._transfer
            fault = CONNECTION_LOST.peer(peer="the receiver", detail="a test")
            world.engine.session_failed(old.session, fault)
            await world.until(partial(another, old))
        assert len(waits) == 3
        assert max(waits) <= 0.05

    play(case)


def test_a_commit_whose_answer_is_lost_is_not_taken_twice() -> None:
    async def case(world: World) -> None:
        world.order("run")
        await world.synced()

        def lost(_: Commit) -> None:
            world.lose()
            raise CONNECTION_LOST.peer(peer="the receiver", detail="a test")

        world.played.on_commit = lost
        world.order("run", checkpoint=CheckpointOrder(request="a"))
        await world.until(lambda: world.report.reconnects == 1)
        world.order("run")  # the receiver has recorded it and wants it no more
        world.write(6)
        await world.until(lambda: world.equal)
        assert world.report.epoch == 1
        assert set(world.receiver.committed) == {1}

    play(case)


def test_a_refused_checkpoint_is_said_again_when_nobody_may_have_heard() -> None:
    async def case(world: World) -> None:
        world.order("run")
        await world.synced()
        hook = world.directory / "hooks" / "pre-freeze.d" / "fails"
        hook.parent.mkdir(parents=True)
        hook.write_text("#!/bin/sh\nexit 3\n")
        hook.chmod(0o700)
        wanted = CheckpointOrder(request="a")
        world.order("run", checkpoint=wanted)
        await world.until(lambda: len(world.receiver.failed) == 1)
        assert world.receiver.failed[0].error.code == "RPL-6005"
        world.lose()
        await world.until(lambda: world.report.reconnects == 1)
        world.order("run", checkpoint=wanted)
        await world.until(lambda: len(world.receiver.failed) == 2)
        assert not world.receiver.committed

    play(case)


def test_a_disk_that_shrank_waits_for_a_person_and_goes_on_after_retry() -> None:
    async def case(world: World) -> None:
        world.order("run")
        await world.synced()
        os.truncate(world.disk, (GRANULES - 1) * GRANULE)
        world.write(1)
        await world.state("error")
        assert world.report.error.code == "RPL-5002"
        os.truncate(world.disk, GRANULES * GRANULE)
        world.write(GRANULES - 1)
        world.order("run")  # retry
        await world.until(lambda: world.equal)
        assert world.report.error is None

    play(case)


def test_a_tracker_that_began_anew_compares_and_goes_on() -> None:
    async def case(world: World) -> None:
        world.order("run")
        await world.synced()
        world.tracker.write(world.disk, 20, os.urandom(GRANULE), seen=False)
        world.tracker.token = "t1"
        await world.until(lambda: world.equal)
        assert world.report.error is None
        assert "since the compare pass" in world.report.disks[0].trust

    play(case)


def test_a_refusal_because_the_order_is_old_is_no_error_of_the_job() -> None:
    async def case(world: World) -> None:
        request = world.played.request
        refusals = [JOB_STATE.peer(job="job", state="paused", action="synced")]

        async def refusing(*arguments: Any) -> Any:
            if refusals:
                raise refusals.pop()
            return await request(*arguments)

        world.played.request = refusing  # type: ignore[method-assign, assignment]
        world.order("run")
        await world.synced()
        assert world.report.error is None

    play(case)


def test_the_fault_of_one_order_does_not_stop_the_next() -> None:
    async def case(world: World) -> None:
        os.truncate(world.disk, (GRANULES + 1) * GRANULE)
        request = world.played.request

        async def failing(*arguments: Any) -> Any:
            if world.revision == 1:
                os.truncate(world.disk, GRANULES * GRANULE)
                world.order("run")  # 'retry' arrives while the first attempt fails
                fault: Fault = JOB_STATE.fault(job="job", state="x", action="y")
                fault.code = "RPL-4108"
                raise fault
            return await request(*arguments)

        world.played.request = failing  # type: ignore[method-assign, assignment]
        world.order("run")
        await world.synced()
        assert world.report.error is None

    play(case)


def test_maps_and_tracking_of_other_jobs_go(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(GRANULE))
    for name in ("old-0.map", "old-1.map.new", "job-0.map", "frozen.json"):
        (tmp_path / name).touch()
    tracker = Tracker()
    tracker.track("/dev/null")
    remove_leftovers(tmp_path, tracker, "job", [str(disk)])
    assert {path.name for path in tmp_path.iterdir()} == {"disk", "job-0.map", "frozen.json"}
    remove_leftovers(tmp_path, tracker, "", ())
    assert tracker.untracked[-1] == "/dev/null"
    assert not (tmp_path / "job-0.map").exists()
