"""How long a group forms follows how long a sync takes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.grouping import FIRST_SECONDS, LEAST_SECONDS, MOST_SECONDS, Grouping, Groups


def test_before_anything_is_known() -> None:
    assert (Grouping().seconds, Grouping().sync_seconds) == (FIRST_SECONDS, 0.0)


@pytest.mark.parametrize(
    ("took", "forms"), [(0.0001, LEAST_SECONDS), (0.02, 0.08), (0.05, 0.2), (3.0, MOST_SECONDS)]
)
def test_a_fifth_of_the_time_goes_to_syncs(took: float, forms: float) -> None:
    grouping = Grouping()
    for _ in range(50):
        grouping.synced(took)
    assert grouping.seconds == pytest.approx(forms)
    assert grouping.sync_seconds == pytest.approx(took)


def test_one_late_sync_changes_little_and_many_do() -> None:
    grouping = Grouping()
    for _ in range(20):
        grouping.synced(0.01)
    grouping.synced(0.1)
    assert grouping.seconds < 0.12
    for _ in range(20):
        grouping.synced(0.1)
    assert grouping.seconds > 0.38


@given(st.lists(st.floats(0, 1000), max_size=50))
def test_it_is_bounded(syncs: list[float]) -> None:
    grouping = Grouping()
    for took in syncs:
        grouping.synced(took)
        assert LEAST_SECONDS <= grouping.seconds <= MOST_SECONDS


def test_groups_form_longer_the_more_of_them_there_are() -> None:
    groups = Groups()
    sessions = [Grouping(groups) for _ in range(5)]
    for each in sessions:
        each.synced(0.005)
    alone = sessions[0].seconds
    with contextlib.ExitStack() as stack:
        for number, each in enumerate(sessions, 1):
            stack.enter_context(each.forming())
            assert sessions[0].seconds == pytest.approx(alone * number)
        for each in sessions:
            each.synced(1.0)
        for _ in range(50):
            sessions[0].synced(1.0)
        assert sessions[0].seconds == MOST_SECONDS
    with pytest.raises(ValueError, match="gone"), sessions[1].forming():
        raise ValueError("gone")
    assert groups.forming == 0
