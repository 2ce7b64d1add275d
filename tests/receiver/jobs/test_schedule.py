"""When a sync is due and a job expires."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.jobs.schedule import EXPIRING, has_expired, is_due, next_sync
from receiver.jobs.states import STATES

HOUR = 3600.0


@pytest.mark.parametrize(
    ("anchor", "now", "expected"),
    [
        (0, 0, 4),
        (0, 3.99, 4),
        (0, 4, 8),
        (0, 4.01, 8),
        (0, 9, 12),  # two were missed: the grid stays
        (8, 7, 12),  # done early, or the clock was set back: never twice
        (8, 0, 12),
    ],
)
def test_syncs_lie_on_a_grid(anchor: float, now: float, expected: float) -> None:
    assert next_sync(anchor * HOUR, 4 * HOUR, now * HOUR) == expected * HOUR


@given(st.floats(0, 4e9), st.floats(1, 168 * HOUR), st.floats(0, 4e9))
def test_the_next_sync_is_after_now_and_not_later_than_one_period(
    anchor: float, every: float, now: float
) -> None:
    due = next_sync(anchor, every, now)
    assert due > now
    assert due > anchor
    assert due <= max(anchor, now) + every + 1e-6 * every + 1e-3


def test_no_period_is_an_error() -> None:
    with pytest.raises(ValueError, match="every"):
        next_sync(0, 0, 1)


def test_due() -> None:
    assert is_due(5, 5)
    assert not is_due(5, 4.9)
    assert not is_due(None, 1e12)


def test_a_checkpoint_that_is_being_made_is_finished_first() -> None:
    assert set(STATES) - EXPIRING == {"checkpointing", "imaging", "finished", "expired"}
    assert has_expired("syncing", 5, 5)
    assert not has_expired("checkpointing", 5, 5)
    assert not has_expired("syncing", None, 5)
