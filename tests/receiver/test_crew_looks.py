"""The crew looks whom a disk keeps as long as somebody waits, and only then."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from receiver.crew import KEPT_SECONDS, Crew, Service, SessionLane
from tests.receiver.test_crew import MOST, PATIENCE, Busy, Disk, quick, reached, threads

__all__ = ["threads"]


class Looks:
    """Counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        look = Crew._look

        def counted(crew: Crew) -> None:
            self.count += 1
            look(crew)

        monkeypatch.setattr(Crew, "_look", counted)


def test_who_waits_is_found_a_thread_when_another_gave_its_place_back(
    threads: ThreadPoolExecutor,
) -> None:
    """One place. Its holder sleeps, so somebody else is served; then it comes back, is one too many
    and has to wait, and the other one is kept by a disk."""
    back = threading.Event()

    async def serve() -> None:
        crew, disk = Crew(threads, MOST, 1), Disk()
        came: list[str] = []

        def sleeper(service: Service) -> bool:
            came.append("again" if came else "first")
            if came == ["first"]:
                service.sleep(KEPT_SECONDS / 4)
                assert back.wait(PATIENCE)
                return True
            return False

        slept = SessionLane(crew).serve(sleeper)
        kept = SessionLane(crew).serve(disk)
        await reached(disk)
        await asyncio.sleep(3 * KEPT_SECONDS)  # nobody waits, nobody looks
        back.set()
        await asyncio.wait_for(slept, PATIENCE)
        assert came == ["first", "again"]
        assert not kept.done()
        disk.free.set()
        await asyncio.wait_for(kept, PATIENCE)

    asyncio.run(serve())


def test_nobody_looks_while_nobody_waits(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(monkeypatch)

    async def serve() -> None:
        crew, busy, disks = Crew(threads, MOST, 2), Busy(), (Disk(), Disk())
        counted, kept = SessionLane(crew).serve(busy), SessionLane(crew).serve(disks[0])
        await reached(disks[0])
        await asyncio.sleep(10 * KEPT_SECONDS)
        assert looks.count == 0
        busy.ending = True
        await asyncio.wait_for(counted, PATIENCE)
        both = kept, SessionLane(crew).serve(disks[1])
        await reached(disks[1])
        # It does when somebody comes whom only a look can find a place, for both are kept.
        await asyncio.wait_for(SessionLane(crew).serve(quick), PATIENCE)
        assert looks.count > 0
        await asyncio.sleep(KEPT_SECONDS)
        before = looks.count
        await asyncio.sleep(10 * KEPT_SECONDS)
        assert looks.count == before
        for disk in disks:
            disk.free.set()
        await asyncio.wait_for(asyncio.gather(*both), PATIENCE)

    asyncio.run(serve())
