"""How connections use what is shared: threads by turns, and the time until a sync."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

import receiver.datapath
from protocol.wire.frames import Ping, Ready
from protocol.wire.messages import OpenDisk, OpenSession
from receiver.crew import Crew, Service, SessionLane
from receiver.session import Session
from tests.receiver.test_crew import Endless
from tests.support.datalink import GRANULE, Harness, Link
from tests.support.office import SIZE, office

pytestmark = pytest.mark.timeout(60)


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await work()

    asyncio.run(bounded())


async def eventually(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110 - threads set it
        await asyncio.sleep(0.001)


class ScriptedLane:
    """Instead of a session's lane: the test is the thread."""

    def __init__(self) -> None:
        self.works: list[Callable[[Any], bool]] = []
        self._ended: asyncio.Future[None] | None = None

    def serve(self, work: Callable[[Any], bool]) -> asyncio.Future[None]:
        self.works.append(work)
        self._ended = asyncio.get_running_loop().create_future()
        return self._ended

    def end(self) -> None:
        """There was no more."""
        assert self._ended is not None
        if not self._ended.done():
            self._ended.set_result(None)

    def withdraw(self, work: Callable[[Any], bool]) -> None:
        assert work == self.works[-1]
        self.end()


class ScriptedService:
    """What a thread knows of its work; makes way after ``frames``."""

    def __init__(self, frames: int, *, others_wait: bool) -> None:
        self.others_wait = others_wait
        self.marks: list[str] = []
        self.slept: list[float] = []
        self._frames = frames

    def frame_begins(self) -> None:
        self.marks.append("begins")

    def frame_ended(self) -> None:
        self.marks.append("ended")

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    @property
    def over(self) -> bool:
        return self.marks.count("ended") >= self._frames


@contextlib.asynccontextmanager
async def scripted() -> AsyncIterator[tuple[Harness, Link, ScriptedLane]]:
    harness, lane = Harness(), ScriptedLane()
    session = harness.session(lane=cast("SessionLane", lane))
    link = Link(session, 0)
    assert isinstance((await link.frame())[0], Ready)
    try:
        yield harness, link, lane
    finally:
        if lane.works:
            lane.end()
        await session.close()
        link.sock.close()
        harness.close()


def test_a_connection_makes_way_and_goes_on_where_it_was() -> None:
    async def work() -> None:
        async with scripted() as (harness, link, lane):
            for number in range(5):
                await link.write(number * GRANULE)
            await eventually(lambda: lane.works)
            (pump,) = lane.works
            written = harness.disks[0].written
            for frames in (2, 4):
                service = ScriptedService(2, others_wait=True)
                assert pump(service) is True
                assert service.marks == ["begins", "ended"] * 2
                assert written == {number * GRANULE for number in range(frames)}
            service = ScriptedService(2, others_wait=True)
            assert pump(service) is False
            assert len(written) == 5

    run(work)


@pytest.mark.parametrize("others_wait", [True, False])
def test_it_waits_for_more_only_while_nobody_else_waits(
    others_wait: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver.datapath, "LINGER_MS", 300)

    async def work() -> None:
        async with scripted() as (_, link, lane):
            await link.write(0)
            await eventually(lambda: lane.works)
            begun = time.monotonic()
            assert lane.works[0](ScriptedService(9, others_wait=others_wait)) is False
            assert (time.monotonic() - begun < 0.25) is others_wait

    run(work)


def test_too_many_pings_wait_without_a_place() -> None:
    async def work() -> None:
        async with scripted() as (_, link, lane):
            for number in range(60):
                await link.send(Ping(number))
            await eventually(lambda: lane.works)
            service = ScriptedService(60, others_wait=True)
            assert lane.works[0](service) is True
            assert max(service.slept) > 0

    run(work)


class Stuck(Endless):
    """Work that takes until the test has seen enough."""

    def __call__(self, service: Service) -> bool:
        service.frame_begins()
        while self.goes_on:
            time.sleep(0.01)
        service.frame_ended()
        return False


def test_a_fence_does_not_wait_for_a_thread() -> None:
    """All threads are kept by others' disks, and what came has not been looked at."""

    async def work() -> None:
        harness, stuck = Harness(workers=2), Stuck()
        others = [SessionLane(harness.crew).serve(stuck) for _ in range(2)]
        session = harness.session()
        link = Link(session, 0)
        await link.write(0)
        await eventually(lambda: harness.crew.waiting == 1)
        async with asyncio.timeout(5):
            await session.close()
        stuck.ending = True
        await asyncio.gather(*others)
        assert harness.disks[0].written == set()
        assert harness.groups.forming == 0
        link.sock.close()
        harness.close()

    run(work)


def test_a_group_forms_while_something_is_not_yet_synced() -> None:
    async def work() -> None:
        harness = Harness()
        session = harness.session()
        link = Link(session, 0)
        session.grouping._alone = 30.0
        await link.write(0)
        await eventually(lambda: harness.groups.forming == 1)
        await link.fence()
        await link.frame()
        await link.acks(1)  # at once, however long a group may form
        await eventually(lambda: harness.groups.forming == 0)
        await link.write(GRANULE)
        await eventually(lambda: harness.groups.forming == 1)
        await session.close()
        assert harness.groups.forming == 0
        link.sock.close()
        harness.close()

    run(work)


def test_each_session_has_a_lane_of_its_own_in_one_crew(tmp_path: Path) -> None:
    async def work() -> None:
        async with office(tmp_path) as it:
            sessions: list[Session] = []
            await it.enrol("web02")
            for source in ("web01", "web02"):
                job = await it.job(source)
                disks = (OpenDisk(path="/dev/vda", size=SIZE),)
                await it.sessions.open(source, OpenSession(id=1, job=job, disks=disks), 8703)
                found = it.sessions.of_job(job)
                assert found is not None
                sessions.append(found)
            first, second = (each._lane for each in sessions)
            assert first is not second
            assert isinstance(first._crew, Crew)
            assert first._crew is second._crew
            assert sessions[0].grouping._groups is sessions[1].grouping._groups

    run(work)
