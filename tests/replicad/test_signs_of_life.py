"""A session whose receiver says nothing any more ends, also when there is nothing to send."""

from __future__ import annotations

import asyncio

import pytest

from protocol.wire.frames import Frame, Ping
from replicad.engine.passes import JobSweep
from tests.replicad.test_transfer import Answers
from tests.support.copying import Bench, in_bench

pytestmark = pytest.mark.timeout(60)

BEAT = 0.2


def test_a_silent_receiver_ends_an_idle_session() -> None:
    async def case(made: Bench) -> None:
        async with await made.transfer(BEAT) as transfer:
            with pytest.raises(Exception, match="RPL-3005"):
                await asyncio.wait_for(asyncio.shield(transfer.failure), 20)

    in_bench(case)


def test_answers_that_never_come_end_a_pass() -> None:
    async def case(made: Bench) -> None:
        made.receiver.answer = lambda *_: []
        async with await made.transfer(BEAT) as transfer:
            with pytest.raises(Exception, match="RPL-3005"):
                await asyncio.wait_for(transfer.send(JobSweep(made.disks).refill), 20)

    in_bench(case)


def test_the_source_says_that_it_is_here() -> None:
    heard: list[Frame] = []

    async def case(made: Bench) -> None:
        def answer(frame: Frame, answers: Answers) -> Answers:
            heard.append(frame)
            return answers

        made.receiver.answer = answer
        async with await made.transfer(BEAT):
            await asyncio.sleep(4 * BEAT)

    in_bench(case)
    assert Ping(0) in heard
