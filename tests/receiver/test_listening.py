"""A source that compares faster than it listens is not read from meanwhile, and loses nothing."""

from __future__ import annotations

import asyncio
import time

import pytest
import uvloop

from protocol.wire.frames import Ack, Diff, Digests, Fence, Ready, Segment
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
