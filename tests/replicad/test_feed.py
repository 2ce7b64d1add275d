"""The feed: nothing is lost, nothing is handed out twice, whenever it is stopped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicad.dirtymap import Batch
from replicad.feed import Feed, Work
from replicad.inflight import Stopped

pytestmark = pytest.mark.timeout(60)


def work(number: int) -> Work:
    batch = Batch(0, "data", ((number, 1),), 1, slice(0, 1), np.ones(1, np.uint64))
    return Work(cast(Any, None), batch, "data", [(number * 4096, 4096)])


class Source:
    """What refill takes from: works in groups."""

    def __init__(self, groups: Sequence[int]) -> None:
        self.made: list[Work] = []
        self._groups = list(groups)

    def refill(self) -> Sequence[Work]:
        if not self._groups:
            return ()
        count = self._groups.pop()
        more = [work(len(self.made) + index) for index in range(count)]
        self.made += more
        return more


def sender(
    feed: Feed, loop: asyncio.AbstractEventLoop, got: list[Work], answer: bool, number: int = 0
) -> None:
    """Takes work and has the loop answer it, as the receiver's acks do."""
    wait = True
    try:
        while True:
            taken = feed.next(wait, number)
            wait = taken is None
            if taken is not None:
                got.append(taken)
                if answer:
                    loop.call_soon_threadsafe(feed.answered, taken)
    except Stopped:
        return


def started(
    feed: Feed, count: int, *, answer: bool = True
) -> tuple[list[list[Work]], list[threading.Thread]]:
    """So many senders at work: what each has taken, and their threads."""
    got: list[list[Work]] = [[] for _ in range(count)]
    loop = asyncio.get_running_loop()
    running = [
        threading.Thread(target=sender, args=(feed, loop, mine, answer, number))
        for number, mine in enumerate(got)
    ]
    for each in running:
        each.start()
    return got, running


groups = st.lists(st.integers(1, 5), max_size=12)


@given(groups, st.integers(1, 4))
def test_a_drive_ends_when_all_was_handed_out_once_and_answered(
    parts: list[int], threads: int
) -> None:
    async def run() -> None:
        feed, source = Feed(), Source(parts)
        got, running = started(feed, threads)
        await feed.drive(source.refill)
        assert feed.outstanding == 0
        assert feed.stop() == []
        for each in running:
            each.join()
        handed = [id(one) for mine in got for one in mine]
        assert sorted(handed) == sorted(id(one) for one in source.made)

    asyncio.run(run())


@given(groups, st.integers(1, 4), st.lists(st.integers(1, 4), max_size=12))
def test_a_drive_ends_however_many_are_let_work(
    parts: list[int], threads: int, limits: list[int]
) -> None:
    async def run() -> None:
        feed, source = Feed(), Source(parts)
        feed.let_work(1)
        got, running = started(feed, threads)
        drive = asyncio.ensure_future(feed.drive(source.refill))
        for limit in limits:
            feed.let_work(limit)
            await asyncio.sleep(0)
        await drive
        feed.stop()
        for each in running:
            each.join()
        assert sum(map(len, got)) == len(source.made)

    asyncio.run(run())


def test_who_may_not_work_is_given_nothing_until_he_may() -> None:
    async def run() -> None:
        feed, source = Feed(), Source([2])
        drive = asyncio.ensure_future(feed.drive(source.refill))
        await asyncio.sleep(0)
        feed.let_work(1)
        assert feed.next(wait=False, sender=1) is None
        first = feed.next(wait=True, sender=0)
        loop = asyncio.get_running_loop()
        waiting = loop.run_in_executor(None, feed.next, True, 1)
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
        feed.let_work(2)
        second = await asyncio.wait_for(waiting, 10)
        assert first is not None
        assert second is not None
        feed.answered(first)
        feed.answered(second)
        await asyncio.wait([drive], timeout=0.05)
        assert feed.next(wait=False) is None
        await drive

    asyncio.run(run())


@given(groups, st.integers(1, 3), st.integers(0, 12), st.booleans())
def test_stopped_at_any_time_everything_taken_is_accounted_for(
    parts: list[int], threads: int, turns: int, answer: bool
) -> None:
    async def run() -> None:
        feed, source = Feed(), Source(parts)
        got, running = started(feed, threads, answer=answer)
        loop = asyncio.get_running_loop()
        drive = asyncio.ensure_future(feed.drive(source.refill))
        for _ in range(turns):
            await asyncio.sleep(0)
        drive.cancel()
        await asyncio.wait([drive])
        unsent = feed.stop()
        for each in running:
            await loop.run_in_executor(None, each.join)
        await asyncio.sleep(0)  # answers that the threads had asked for
        left = feed.abandon()
        begun = {id(one) for mine in got for one in mine}
        answered = begun - {id(one) for one in left}
        ends = [id(one) for one in unsent] + [id(one) for one in left] + list(answered)
        assert sorted(ends) == sorted(id(one) for one in source.made)
        assert answer or not answered

    asyncio.run(run())


def test_finer_work_keeps_the_drive_open_until_it_is_answered() -> None:
    async def run() -> None:
        feed, source = Feed(), Source([1])
        drive = asyncio.ensure_future(feed.drive(source.refill))
        await asyncio.sleep(0)
        coarse = feed.next(wait=True)
        assert coarse is not None
        assert feed.next(wait=False) is None
        fine = Work(coarse.disk, coarse.batch, "fine", coarse.ranges)
        feed.push(fine)
        assert feed.next(wait=False) is fine
        await asyncio.sleep(0)
        assert not drive.done()
        assert feed.find(coarse.batch) is fine
        feed.answered(fine)
        await drive

    asyncio.run(run())
