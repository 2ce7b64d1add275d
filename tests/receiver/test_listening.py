"""A source that compares faster than it listens is not read from meanwhile, and loses nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from protocol.errors import CONNECTION_LOST, Fault
from protocol.wire.frames import Ack, Diff, Digests, Fence, Frame, Ready, Segment
from protocol.wire.limits import BLOCK, DIGEST_SIZE, FINE_BLOCK, REPLY_FRAME_MAX
from receiver.datapath import OWED_MAX, REPLIES_MAX
from tests.support.datalink import Harness, Link

pytestmark = pytest.mark.timeout(60)

DISK = 1 << 20
FRAMES = 4 * REPLIES_MAX // (DISK // FINE_BLOCK * DIGEST_SIZE)
ASKED = Digests(0, BLOCK, (Segment(0, DISK),))
NOT_OURS = bytes(DISK // BLOCK * DIGEST_SIZE)


async def ask(link: Link) -> None:
    """Digests that all differ: each makes the receiver say 256 times as much as one that fits."""
    for _ in range(FRAMES):
        await link.send(ASKED, NOT_OURS)
    await link.send(Fence())


async def hears(link: Link) -> Frame:
    """The next answer."""
    return (await link.frame())[0]


async def at_rest(link: Link) -> int:
    """Waits until nothing of it is read any more; how many frames were."""
    count = -1
    while count != link.connection.written or count < 0:
        count = link.connection.written
        await asyncio.sleep(0.2)
    return count


def test_answers_that_nobody_reads_stop_the_reading_and_come_when_they_are_read() -> None:
    async def work() -> None:
        harness = Harness()
        session = harness.session()
        try:
            link = Link(session, 0)
            assert isinstance((await link.frame())[0], Ready)
            asking = asyncio.create_task(ask(link))
            carried_out = await at_rest(link)
            assert carried_out < FRAMES - 1
            assert not link.over.is_set()
            used = time.process_time()
            await asyncio.sleep(0.3)
            assert time.process_time() - used < 0.1, "it asks again and again instead of waiting"
            assert len(link.connection._replies) <= OWED_MAX + 2 * REPLY_FRAME_MAX
            heard: list[int] = []
            acked = -1
            while acked < FRAMES:
                frame, payload = await link.frame()
                if isinstance(frame, Diff):
                    heard.append(frame.sequence)
                    assert len(payload) == 2 + DISK // FINE_BLOCK * DIGEST_SIZE
                elif isinstance(frame, Ack):
                    acked = frame.sequence
            await asking
            assert heard == list(range(FRAMES))
            link.sock.close()
        finally:
            await session.close()
            harness.close()

    uvloop.run(work())


BEAT = 0.2


async def with_deaf_source(work: Callable[[Harness, Link], Awaitable[None]]) -> None:
    """A connection that is held back, with a short heartbeat."""
    harness = Harness(heartbeat=BEAT)
    session = harness.session()
    link = Link(session, 0)
    assert isinstance(await hears(link), Ready)
    asking = asyncio.create_task(ask(link))
    try:
        async with asyncio.timeout(20):
            while not link.connection._held_back:  # noqa: ASYNC110 - a worker sets it
                await asyncio.sleep(0.01)
        await work(harness, link)
    finally:
        asking.cancel()
        await asyncio.wait([asking])
        link.sock.close()
        await session.close()
        harness.close()


def test_who_listens_slowly_is_kept() -> None:
    """One answer in every heartbeat, for longer than a silent one is waited for."""

    async def work(_: Harness, link: Link) -> None:
        for _number in range(8):
            await asyncio.sleep(BEAT)
            for _answer in range(20):
                await hears(link)
            assert not link.over.is_set()
        assert link.connection._held_back

    uvloop.run(with_deaf_source(work))


def test_who_does_not_listen_at_all_is_ended_and_it_is_said_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends: list[Fault] = []

    async def work(_: Harness, link: Link) -> None:
        end = link.connection._end

        def noted(fault: Fault) -> None:
            ends.append(fault)
            end(fault)

        monkeypatch.setattr(link.connection, "_end", noted)
        async with asyncio.timeout(20 * BEAT):
            await link.over.wait()

    uvloop.run(with_deaf_source(work))
    assert [end.code for end in ends] == [CONNECTION_LOST.code]
    assert "reads no answers" in ends[0].sentence
