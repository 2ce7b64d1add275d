"""What the receiver is told of a job, and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from protocol.errors import INTERNAL
from protocol.wire.jobs import JobOrder, JobReport
from protocol.wire.messages import Inventory
from replicad import daemon as module
from replicad.bell import Bell
from replicad.config import Config, RuntimeHere, State
from replicad.convergence import Outlook
from replicad.daemon import NEWS_SECONDS, REPORT_SECONDS, Daemon
from replicad.engine.standing import Standing
from replicad.tracker import NoTracker

RUN = JobOrder(revision=1, want="run", job="j")


class Told:
    """A control link that keeps what is sent on it, and when."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, Any]] = []

    def send(self, message: Any) -> None:
        self.sent.append((time.monotonic(), message))

    @property
    def reports(self) -> list[tuple[float, JobReport]]:
        return [(at, said) for at, said in self.sent if isinstance(said, JobReport)]


@pytest.fixture
def tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Told]:
    """Runs a function beside a daemon that tells, and says what was told."""
    monkeypatch.setattr(module, "present_disks", lambda _: ())

    def run(function: Callable[[Daemon], Awaitable[None]], *, obeyed: bool = True) -> Told:
        async def both() -> Told:
            link = Told()
            daemon = Daemon(
                Config(
                    state=State(directory=tmp_path / "state"),
                    runtime=RuntimeHere(directory=tmp_path / "run"),
                ),
                NoTracker("not here"),
            )
            if obeyed:
                daemon._obeyed = True
                daemon.engine.obey(RUN)
            daemon.engine.standing.speak_of(RUN)
            task = asyncio.create_task(daemon._tell(cast(Any, link)))
            await asyncio.sleep(2 * NEWS_SECONDS)
            await function(daemon)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled(), task.exception()
            return link

        return asyncio.run(both())

    return run


def test_news_is_told_at_once(tell: Callable[..., Told]) -> None:
    changed = []

    async def change(daemon: Daemon) -> None:
        for state in ("checkpointing", "syncing"):
            await asyncio.sleep(2 * NEWS_SECONDS)
            daemon.engine.standing.state = cast(Any, state)
            changed.append(time.monotonic())
        await asyncio.sleep(2 * NEWS_SECONDS)

    reports = tell(change).reports
    assert [said.state for _, said in reports] == ["preparing", "checkpointing", "syncing"]
    waited = [at - when for (at, _), when in zip(reports[1:], changed, strict=True)]
    assert max(waited) < NEWS_SECONDS / 2


def test_news_that_comes_all_the_time_is_not_told_as_often(tell: Callable[..., Told]) -> None:
    """Delta passes of milliseconds; the last word is told all the same."""

    async def change(daemon: Daemon) -> None:
        for number in range(100):
            daemon.engine.standing.error = INTERNAL.fault(detail=str(number))
            await asyncio.sleep(0.005)
        await asyncio.sleep(2 * NEWS_SECONDS)

    reports = tell(change).reports
    gaps = [after - before for (before, _), (after, _) in pairwise(reports)]
    assert 3 < len(reports) < 20
    assert min(gaps) > NEWS_SECONDS / 2
    assert reports[-1][1].error is not None
    assert reports[-1][1].error.message.endswith("99")


def test_progress_is_told_once_a_second(tell: Callable[..., Told]) -> None:
    async def wait(_: Daemon) -> None:
        await asyncio.sleep(2.5 * REPORT_SECONDS)

    reports = tell(wait).reports
    assert 3 <= len(reports) <= 4
    assert reports[2][0] - reports[1][0] == pytest.approx(REPORT_SECONDS, rel=0.2)


def test_a_bell_rung_for_nothing_is_not_told(tell: Callable[..., Told]) -> None:
    async def ring(daemon: Daemon) -> None:
        for _ in range(5):
            daemon.engine.standing.bell.ring()
            await asyncio.sleep(NEWS_SECONDS)

    assert len(tell(ring).reports) == 1


def test_an_order_is_answered_at_once(tell: Callable[..., Told]) -> None:
    """Until the receiver has said what it wants it hears of disks only."""
    ordered = []

    async def order(daemon: Daemon) -> None:
        daemon.engine.standing.state = "syncing"
        await asyncio.sleep(2 * NEWS_SECONDS)
        daemon._obeyed = True
        daemon.engine.obey(RUN)
        ordered.append(time.monotonic())
        await asyncio.sleep(2 * NEWS_SECONDS)

    told = tell(order, obeyed=False)
    assert [type(said) for _, said in told.sent] == [Inventory, JobReport]
    assert 0 <= told.reports[0][0] - ordered[0] < NEWS_SECONDS / 2


def test_disks_are_looked_at_again_at_once_after_an_error(
    tell: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be about one of them: the receiver must know what is there now."""
    looks: list[float] = []
    failed: list[float] = []

    def look(_: object) -> tuple[object, ...]:
        looks.append(time.monotonic())
        return ()

    async def fail(daemon: Daemon) -> None:
        monkeypatch.setattr(module, "present_disks", look)
        failed.append(time.monotonic())
        daemon.engine.standing.error = INTERNAL.fault(detail="gone")
        await asyncio.sleep(3 * NEWS_SECONDS)

    tell(fail)
    assert len(looks) == 1
    assert looks[0] - failed[0] < 2 * NEWS_SECONDS


def test_what_another_job_failed_of_is_not_told_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs whose disks are not there; the receiver's next order may be about another one, and it
    takes the engine a moment to have done with the old one."""
    monkeypatch.setattr(module, "present_disks", lambda _: ())

    async def orders() -> list[tuple[int, JobReport]]:
        daemon = Daemon(
            Config(state=State(directory=tmp_path), runtime=RuntimeHere(directory=tmp_path)),
            NoTracker("not here"),
        )
        link = Told()
        daemon._link = cast(Any, link)
        daemon._obeyed = True
        tasks = [
            asyncio.create_task(daemon.engine.run()),
            asyncio.create_task(daemon._tell(cast(Any, link))),
        ]
        told: list[tuple[int, JobReport]] = []
        for number in range(12):
            link.sent.clear()
            daemon.engine.obey(
                JobOrder(revision=1, want="run", job=f"j{number}", disks=(f"/dev/gone{number}-",))
            )
            await asyncio.sleep(2.5 * NEWS_SECONDS)
            told += [(number, said) for _, said in link.reports]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return told

    told = uvloop.run(orders())
    failed = {number for number, said in told if said.error is not None}
    assert failed == set(range(12))
    for number, said in told:
        assert said.job == f"j{number}"
        assert said.error is None or f"gone{number}-" in said.error.message
        assert (said.state == "error") == (said.error is not None)


def test_what_is_set_to_what_it_was_rings_no_bell() -> None:
    async def hear() -> list[bool]:
        standing = Standing(Outlook(longest=60.0))
        await standing.bell.heard(0)
        heard = []
        for state in ("ready", "syncing", "syncing", "error"):
            standing.state = cast(Any, state)
            begun = time.monotonic()
            await standing.bell.heard(0.05)
            heard.append(time.monotonic() - begun < 0.04)
        return heard

    assert asyncio.run(hear()) == [False, True, False, True]


def test_a_bell_is_heard_once_however_often_it_rang() -> None:
    async def hear() -> None:
        bell = Bell()
        bell.ring()
        bell.ring()
        async with asyncio.timeout(5):
            await bell.heard(60)
            begun = time.monotonic()
            await bell.heard(0.05)
            assert time.monotonic() - begun > 0.04
            asyncio.get_running_loop().call_later(0.05, bell.ring)
            await bell.heard(60)
            await bell.heard(-1)

    asyncio.run(hear())
