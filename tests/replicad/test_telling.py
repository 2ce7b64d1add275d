"""What the receiver is told of a job, and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest

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
            daemon._obeyed = obeyed
            daemon.engine.obey(RUN)
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
        for state in ("preparing", "syncing"):
            await asyncio.sleep(2 * NEWS_SECONDS)
            daemon.engine.standing.state = cast(Any, state)
            changed.append(time.monotonic())
        await asyncio.sleep(2 * NEWS_SECONDS)

    reports = tell(change).reports
    assert [said.state for _, said in reports] == ["ready", "preparing", "syncing"]
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


def test_before_the_receiver_has_said_what_it_wants_it_hears_of_disks_only(
    tell: Callable[..., Told],
) -> None:
    async def order(daemon: Daemon) -> None:
        daemon.engine.standing.state = "preparing"
        await asyncio.sleep(2 * NEWS_SECONDS)

    sent = tell(order, obeyed=False).sent
    assert [type(said) for _, said in sent] == [Inventory]


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
