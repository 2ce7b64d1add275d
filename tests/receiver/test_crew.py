"""Threads are shared out: a few at a time, each session its part, and no disk keeps the others."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from protocol.errors import CORRUPT, PeerFault
from receiver.crew import QUANTUM_SECONDS, Crew, Service, SessionLane

MOST = 6
PATIENCE = 20.0


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(MOST) as made:
        yield made


def compute(seconds: float) -> None:
    """Have so much processor time."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


class Endless:
    """Work that goes on until it is told to end, or until its test, which may have failed, must be
    over: whoever waits for the threads would wait for ever."""

    def __init__(self) -> None:
        self.ending = False
        self._until = time.monotonic() + 3 * PATIENCE

    @property
    def goes_on(self) -> bool:
        return not self.ending and time.monotonic() < self._until


class Busy(Endless):
    """Always has more to do, in steps that take so long."""

    def __init__(self, seconds: float = QUANTUM_SECONDS / 4) -> None:
        super().__init__()
        self.seconds = seconds
        self.steps = 0

    def __call__(self, service: Service) -> bool:
        while self.goes_on:
            service.frame_begins()
            compute(self.seconds)
            service.frame_ended()
            self.steps += 1
            if service.over:
                return True
        return False


def test_each_session_has_its_part_however_many_connections_it_has(
    threads: ThreadPoolExecutor,
) -> None:
    """One session with four connections beside five with one."""

    async def work() -> list[int]:
        crew = Crew(threads, MOST, 2)
        sessions = [[Busy() for _ in range(4)], *([Busy()] for _ in range(5))]
        ended = []
        for connections in sessions:
            lane = SessionLane(crew)
            ended += [lane.serve(each) for each in connections]
        await asyncio.sleep(3.0)
        steps = [sum(each.steps for each in connections) for connections in sessions]
        for connections in sessions:
            for each in connections:
                each.ending = True
        await asyncio.wait_for(asyncio.gather(*ended), PATIENCE)
        return steps

    steps = asyncio.run(work())
    assert min(steps) > 0
    assert max(steps) < 1.5 * min(steps), steps


def test_what_is_shared_out_is_time_and_not_pieces(threads: ThreadPoolExecutor) -> None:
    """One whose frames cost four times what a piece should, beside four with small ones."""

    async def work() -> list[float]:
        crew = Crew(threads, MOST, 1)
        sessions = [Busy(4 * QUANTUM_SECONDS), *(Busy() for _ in range(4))]
        ended = [SessionLane(crew).serve(each) for each in sessions]
        await asyncio.sleep(2.0)
        had = [each.steps * each.seconds for each in sessions]
        for each in sessions:
            each.ending = True
        await asyncio.wait_for(asyncio.gather(*ended), PATIENCE)
        return had

    heavy, *light = asyncio.run(work())
    assert heavy < 2 * min(light), (heavy, light)


def test_who_was_alone_has_its_part_when_others_come(threads: ThreadPoolExecutor) -> None:
    """What it had while nobody waited is nobody's loss: it need not make it good."""

    async def work() -> tuple[int, list[int]]:
        crew = Crew(threads, MOST, 1)
        first, others = Busy(), [Busy() for _ in range(6)]
        ended = [SessionLane(crew).serve(first)]
        await asyncio.sleep(1.0)
        ended += [SessionLane(crew).serve(each) for each in others]
        before = first.steps
        await asyncio.sleep(1.5)
        first.ending = True
        begun = time.monotonic()
        await asyncio.wait_for(ended[0], PATIENCE)
        assert time.monotonic() - begun < 0.5  # a fence waits for it
        for each in others:
            each.ending = True
        await asyncio.wait_for(asyncio.gather(*ended), PATIENCE)
        return first.steps - before, [each.steps for each in others]

    first, others = asyncio.run(work())
    assert first > 0.5 * min(others), (first, others)


def test_no_more_at_a_time_than_may(threads: ThreadPoolExecutor) -> None:
    lock, now, most = threading.Lock(), 0, 0

    def work(service: Service) -> bool:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.001)  # much less than what counts as kept
        with lock:
            now -= 1
        return False

    async def serve() -> None:
        crew = Crew(threads, MOST, 2)
        lanes = [SessionLane(crew) for _ in range(20)]
        await asyncio.wait_for(asyncio.gather(*(lane.serve(work) for lane in lanes)), PATIENCE)

    asyncio.run(serve())
    assert most == 2


class Disk:
    """Keeps who comes until it is let go."""

    def __init__(self) -> None:
        self.reached = threading.Semaphore(0)
        self.free = threading.Event()

    def __call__(self, service: Service) -> bool:
        service.frame_begins()
        self.reached.release()
        self.free.wait(PATIENCE)
        service.frame_ended()
        return False


def quick(_: Service) -> bool:
    return False


async def reached(disk: Disk, times: int = 1) -> None:
    for _ in range(times):
        assert await asyncio.to_thread(disk.reached.acquire, True, PATIENCE)


def test_a_disk_that_keeps_a_thread_does_not_keep_the_others(threads: ThreadPoolExecutor) -> None:
    async def serve() -> None:
        crew, disk = Crew(threads, MOST, 1), Disk()
        bad = SessionLane(crew)
        kept = bad.serve(disk)
        await reached(disk)
        for _ in range(3):  # each has to wait until it is seen that the thread is kept, if at all
            await asyncio.wait_for(SessionLane(crew).serve(quick), PATIENCE)
        assert not kept.done()
        disk.free.set()
        await asyncio.wait_for(kept, PATIENCE)
        await _settled(lambda: crew._running == 0)
        assert bad.frame_seconds > 0
        # All of it is as before: one at a time, and there is one.
        await asyncio.wait_for(SessionLane(crew).serve(quick), PATIENCE)
        await _settled(lambda: crew._running == 0)
        assert (crew.waiting, crew._uncounted, crew._places) == (0, 0, 1)

    asyncio.run(serve())


class Slow(Endless):
    """Frames that take some milliseconds of its disk, and no processor."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.frames = 0

    def __call__(self, service: Service) -> bool:
        while self.goes_on:
            service.frame_begins()
            time.sleep(self.seconds)
            service.frame_ended()
            self.frames += 1
            if service.over:
                return True
        return False


def test_slow_disks_are_written_at_the_same_time() -> None:
    """Each frame takes less than what is noticed, and more than what would be good."""
    many = 20

    async def work() -> int:
        with ThreadPoolExecutor(many) as threads:
            crew = Crew(threads, many, 2)
            all_of_them = [Slow(0.008) for _ in range(many)]
            ended = [SessionLane(crew).serve(each) for each in all_of_them]
            await asyncio.sleep(1.0)
            before = sum(each.frames for each in all_of_them)
            await asyncio.sleep(1.0)
            after = sum(each.frames for each in all_of_them)
            for each in all_of_them:
                each.ending = True
            await asyncio.wait_for(asyncio.gather(*ended), PATIENCE)
            return after - before

    assert asyncio.run(work()) > 2 * 2 / 0.008


def test_who_holds_places_without_computing_has_no_more_than_some(
    threads: ThreadPoolExecutor,
) -> None:
    """Four connections whose frames take a little less than what makes a session a slow one."""

    async def work(beside: int) -> int:
        crew = Crew(threads, MOST, 1)
        honest = [Busy() for _ in range(4)]
        slow = [Slow(0.003) for _ in range(beside)]
        ended = [SessionLane(crew).serve(each) for each in honest]
        lane = SessionLane(crew)
        ended += [lane.serve(each) for each in slow]
        await asyncio.sleep(1.5)
        steps = min(one.steps for one in honest)
        works: list[Busy | Slow] = [*honest, *slow]
        for each in works:
            each.ending = True
        await asyncio.wait_for(asyncio.gather(*ended), PATIENCE)
        return steps

    alone, beside = asyncio.run(work(0)), asyncio.run(work(4))
    assert beside > alone / 4, (alone, beside)


def test_who_sleeps_gives_its_place_up(threads: ThreadPoolExecutor) -> None:
    slept = threading.Event()

    def pings(service: Service) -> bool:
        slept.set()
        service.sleep(1.0)
        return False

    async def serve() -> float:
        crew = Crew(threads, MOST, 1)
        sleeping = SessionLane(crew).serve(pings)
        await asyncio.to_thread(slept.wait, PATIENCE)
        begun = time.monotonic()
        await asyncio.wait_for(SessionLane(crew).serve(quick), PATIENCE)
        took = time.monotonic() - begun
        await sleeping
        return took

    assert asyncio.run(serve()) < 0.5


def test_what_waits_can_be_withdrawn(threads: ThreadPoolExecutor) -> None:
    """A fence need not wait for a thread."""

    async def serve() -> None:
        crew, disk = Crew(threads, 2, 1), Disk()
        kept = [SessionLane(crew).serve(disk) for _ in range(2)]
        await reached(disk, 2)
        lane = SessionLane(crew)
        mine, other = Busy(), Busy()
        waiting, others = lane.serve(mine), lane.serve(other)
        lane.withdraw(mine)
        await asyncio.wait_for(waiting, PATIENCE / 2)
        assert not others.done()
        other.ending = True
        disk.free.set()
        await asyncio.wait_for(asyncio.gather(others, *kept), PATIENCE)
        lane.withdraw(mine)  # which is not there: nothing
        assert (mine.steps, crew.waiting) == (0, 0)

    asyncio.run(serve())


class NoThreads(ThreadPoolExecutor):
    """Cannot start a thread for its first calls, but keeps what was submitted, as Python does."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.failures = 2
        self._kept: list[Any] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.failures:
            self.failures -= 1
            self._kept.append(fn)
            raise RuntimeError("can't start new thread")
        while self._kept:
            super().submit(self._kept.pop())
        return super().submit(fn, *args, **kwargs)


@pytest.mark.parametrize("pieces", [1, 5])
def test_where_no_thread_can_be_started_it_is_tried_again(pieces: int) -> None:
    async def serve() -> None:
        with NoThreads(MOST) as threads:
            crew = Crew(threads, MOST, 2)
            lanes = [SessionLane(crew) for _ in range(pieces)]
            await asyncio.wait_for(asyncio.gather(*(lane.serve(quick) for lane in lanes)), PATIENCE)
            await asyncio.to_thread(threads.shutdown)  # all that was submitted has run
            assert (crew.waiting, crew._running, crew._late) == (0, 0, 0)

    asyncio.run(serve())


def test_who_comes_back_from_a_disk_finds_no_more_places_than_there_were(
    threads: ThreadPoolExecutor,
) -> None:
    async def serve() -> None:
        crew, disk = Crew(threads, MOST, 1), Disk()
        kept = SessionLane(crew).serve(disk)
        await reached(disk)
        busy = [Busy() for _ in range(3)]
        ended = [SessionLane(crew).serve(each) for each in busy]
        await _settled(lambda: min(each.steps for each in busy) > 0)
        assert crew._running == 2
        disk.free.set()
        await asyncio.wait_for(kept, PATIENCE)
        await _settled(lambda: crew._running == 1)
        for each in busy:
            each.ending = True
        await asyncio.wait_for(asyncio.gather(*ended), PATIENCE)

    asyncio.run(serve())


def test_there_are_no_more_threads_than_there_are(threads: ThreadPoolExecutor) -> None:
    """Three of three are kept: who comes waits, and is served when one is free."""

    async def serve() -> None:
        crew, disk = Crew(threads, 3, 1), Disk()
        kept = [SessionLane(crew).serve(disk) for _ in range(3)]
        await reached(disk, 3)
        late = SessionLane(crew).serve(quick)
        await asyncio.sleep(0.2)
        assert not late.done()
        disk.free.set()
        await asyncio.wait_for(asyncio.gather(late, *kept), PATIENCE)
        await _settled(lambda: crew._running == 0)
        assert (crew.waiting, crew._uncounted, crew._places) == (0, 0, 1)

    asyncio.run(serve())


async def _settled(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_what_work_raises_reaches_who_waits_and_the_thread_goes_on(
    threads: ThreadPoolExecutor,
) -> None:
    def broken(_: Service) -> bool:
        raise CORRUPT.peer()

    async def serve() -> None:
        crew = Crew(threads, MOST, 1)
        lane = SessionLane(crew)
        with pytest.raises(PeerFault, match="digest"):
            await lane.serve(broken)
        await asyncio.wait_for(lane.serve(quick), PATIENCE)
        await _settled(lambda: crew._running == 0)

    asyncio.run(serve())
