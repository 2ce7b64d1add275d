"""The budget of a peer: never more than the burst at once, never more than the rate for long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.link.allowance import Allowance


def test_a_burst_is_free_and_what_follows_waits() -> None:
    budget = Allowance(rate=10.0, burst=40.0, now=0.0)
    assert [budget.spend(10, 0.0) for _ in range(4)] == [0.0] * 4
    assert budget.spend(10, 0.0) == pytest.approx(1.0)
    assert budget.spend(10, 1.0) == pytest.approx(1.0)
    assert budget.spend(10, 1000.0) == 0.0


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 5)), max_size=60))
def test_who_waits_as_told_never_exceeds_the_rate(said: list[tuple[float, float]]) -> None:
    budget = Allowance(rate=10.0, burst=40.0, now=0.0)
    now = total = 0.0
    for amount, idle in said:
        now += idle
        now += budget.spend(amount, now)
        total += amount
        assert total <= 40.0 + 10.0 * now + 1e-6 * (1 + total)
