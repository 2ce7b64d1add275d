"""Verifications as the receiver sees them: who asks, who waits, and what a job remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import Fault
from protocol.wire.jobs import DiskRange, ErrorInfo
from protocol.wire.messages import Verified, VerifyFailed
from receiver.verification import mended
from tests.support.office import Office, office

WRONG = (DiskRange(path="/dev/vda", offset=4096, length=8192),)


def play(tmp_path: Path, case: Callable[[Office, str], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with office(tmp_path) as made:
            await case(made, await made.job())

    asyncio.run(run())


def answer(job: str, request: str, *, repair: bool = False, wrong: bool = True) -> Verified:
    return Verified(
        job=job,
        request=request,
        repair=repair,
        when="2026-11-22T05:10:00Z",
        bytes_compared=1 << 20,
        differing_bytes=8192 if wrong else 0,
        ranges=WRONG if wrong else (),
        repaired=repair and wrong,
        differing=WRONG if wrong and not repair else (),
    )


def test_asking_twice_is_asking_once_and_a_repair_joins(tmp_path: Path) -> None:
    async def case(made: Office, job: str) -> None:
        first = await made.manager.verify(job, repair=False)
        again = await made.manager.verify(job, repair=False)
        assert first[1] == again[1]
        assert len(made.orders["web01"]) == 2, "creation, and the first of the two"
        joined = await made.manager.verify(job, repair=True)
        assert joined[1] == first[1]
        order = made.orders["web01"][-1].verify
        assert order is not None
        assert order.repair
        # The answer to the order before is old news.
        told = made.manager.happenings.verifications
        await told.verified("web01", answer(job, first[1]))
        assert (await made.manager.resolve(job)).verify == order

    play(tmp_path, case)


def test_what_differs_is_remembered_until_it_was_sent(tmp_path: Path) -> None:
    async def case(made: Office, job: str) -> None:
        row, request = await made.manager.verify(job, repair=False)
        waiting = asyncio.ensure_future(made.manager.verified(row, request))
        await asyncio.sleep(0.05)
        told = made.manager.happenings.verifications
        await told.verified("other", answer(job, request))
        assert not waiting.done(), "another source's word was taken"
        await told.verified("web01", answer(job, request))
        result = await waiting
        assert (result.ranges, result.repaired) == (WRONG, False)
        assert await made.manager.verified(row, request) == result, "who comes late"
        order = made.orders["web01"][-1]
        assert (order.verify, order.differing) == (None, WRONG)
        view = await made.manager.view(await made.manager.resolve(job))
        assert view.error is not None
        assert view.error.code == "RPL-6008"
        assert "4096+8192" in view.error.message
        _, request = await made.manager.verify(job, repair=True)
        await told.verified("web01", answer(job, request, repair=True))
        assert made.orders["web01"][-1].differing == ()
        assert (await made.manager.view(await made.manager.resolve(job))).error is None

    play(tmp_path, case)


@pytest.mark.parametrize("action", ["pause", "cancel"])
def test_who_waits_is_told_when_the_job_goes_another_way(tmp_path: Path, action: Any) -> None:
    async def case(made: Office, job: str) -> None:
        row, request = await made.manager.verify(job, repair=False)
        waiting = asyncio.ensure_future(made.manager.verified(row, request))
        await asyncio.sleep(0.05)
        await made.manager.act(job, action)
        with pytest.raises(Fault, match="RPL-6009"):
            await waiting
        assert made.orders["web01"][-1].verify is None
        with pytest.raises(Fault, match="RPL-4005"):
            await made.manager.verify(job, repair=False)

    play(tmp_path, case)


def test_a_refusal_of_the_source_reaches_who_waits(tmp_path: Path) -> None:
    async def case(made: Office, job: str) -> None:
        row, request = await made.manager.verify(job, repair=False)
        waiting = asyncio.ensure_future(made.manager.verified(row, request))
        await asyncio.sleep(0.05)
        error = ErrorInfo(code="RPL-6007", message="not tracked")
        said = VerifyFailed(job=job, request=request, error=error)
        await made.manager.happenings.verifications.failed("web01", said)
        with pytest.raises(Fault, match="RPL-6007") as raised:
            await waiting
        assert raised.value.exit_code == 3

    play(tmp_path, case)


def test_a_checkpoint_mends() -> None:
    wrong = answer("j", "r")
    assert mended(None) is None
    after = mended(wrong)
    assert after is not None
    assert (after.differing, after.repaired) == ((), True)
    clean = answer("j", "r", wrong=False)
    assert mended(clean) is clean
