"""What the receiver should know at once is seen in the news, and nothing else is news."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from protocol.errors import CONNECTION_LOST, INTERNAL
from protocol.wire.jobs import JobOrder, VerifyOrder
from replicad.convergence import Outlook
from replicad.engine.standing import Standing

ORDER = JobOrder(revision=1, want="run", job="j")


def scene() -> tuple[Standing, Any]:
    standing = Standing(Outlook(longest=60.0))
    standing.speak_of(ORDER)
    standing.state = "syncing"
    standing.error = INTERNAL.fault(detail="one")
    disk = SimpleNamespace(kind="idle", passed=1, pass_done=0)
    return standing, SimpleNamespace(disks=(disk,))


def _kind(_: Standing, disks: Any) -> None:
    disks.disks[0].kind = "delta"


def _passed(_: Standing, disks: Any) -> None:
    disks.disks[0].passed += 1


def _state(standing: Standing, _: Any) -> None:
    standing.state = "error"


def _error(standing: Standing, _: Any) -> None:
    standing.error = CONNECTION_LOST.fault(peer="it", detail="gone")


def _no_error(standing: Standing, _: Any) -> None:
    standing.error = None


@pytest.mark.parametrize("change", [_kind, _passed, _state, _error, _no_error])
def test_it_is_news(change: Callable[[Standing, Any], None]) -> None:
    standing, disks = scene()
    before = standing.news(ORDER, disks)
    assert before == standing.news(ORDER, disks)
    change(standing, disks)
    assert standing.news(ORDER, disks) != before


def test_a_verification_that_begins_is_news() -> None:
    standing, disks = scene()
    order = JobOrder(revision=2, want="run", job="j", verify=VerifyOrder(request="v"))
    before = standing.news(order, disks)
    standing.verification = SimpleNamespace()  # type: ignore[assignment]
    assert standing.news(order, disks) != before


def test_progress_and_the_same_error_again_are_none() -> None:
    standing, disks = scene()
    before = standing.news(ORDER, disks)
    disks.disks[0].pass_done += 1 << 20
    standing.error = INTERNAL.fault(detail="one")
    assert standing.news(ORDER, disks) == before


def test_without_a_job_there_is_none() -> None:
    standing, disks = scene()
    assert standing.news(JobOrder(revision=1, want="none"), disks) is None


def test_of_a_job_whose_standing_is_not_known_there_is_none() -> None:
    standing, disks = scene()
    other = JobOrder(revision=1, want="run", job="k")
    assert standing.news(other, disks) is None
    assert standing.report(other, None, None) is None
    standing.speak_of(other)
    assert standing.news(other, disks) is not None
    assert (standing.state, standing.error) == ("preparing", None)


def test_the_same_job_ordered_again_keeps_its_standing() -> None:
    standing, _ = scene()
    standing.speak_of(JobOrder(revision=2, want="pause", job="j"))
    assert standing.state == "syncing"
    assert standing.error is not None
