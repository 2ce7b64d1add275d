"""The forecast grows with what is dirty, and says plainly when the writer wins."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicad.forecast import (
    Costs,
    Rates,
    after_settling,
    capped,
    fits,
    freeze_seconds,
    judge,
    sentence,
)

RATE = st.floats(1e5, 1e10)


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.floats(1e6, 1e10))
def test_more_dirt_never_means_a_shorter_freeze(a: int, b: int, rate: float) -> None:
    less, more = sorted((a, b))
    rates = Rates(read=rate)
    assert freeze_seconds(less, 0, rates) <= freeze_seconds(more, 0, rates)


@given(st.integers(0, 1 << 40), RATE, RATE)
def test_passes_never_leave_more_than_there_was(dirty: int, write: float, send: float) -> None:
    left = after_settling(dirty, Rates(write=write, send=send))
    assert 0 <= left <= dirty
    if write >= send:
        assert left == pytest.approx(dirty)


def test_passes_over_a_fast_line_leave_what_the_shortest_pass_leaves() -> None:
    assert after_settling(10**9, Rates(write=20e6, send=1e9)) == pytest.approx(2e6)
    assert after_settling(10**9, Rates(write=40e6, send=20e6)) == 10**9
    assert after_settling(10**9, Rates(write=20e6)) == 10**9


def test_a_forecast_at_the_budget_does_not_fit() -> None:
    assert not fits(2.0, 2.0)
    assert fits(1.0, 2.0)


def test_what_is_not_measured_is_not_judged() -> None:
    assert judge(Rates(write=1e9)) == "unknown"
    assert judge(Rates(send=1e9)) == "unknown"
    assert judge(Rates(write=2e6, send=1e6)) == "not converging"
    assert judge(Rates(write=0.0, send=1e6)) == "converging"


@given(st.lists(st.floats(0.86, 1.0), max_size=50))
def test_near_the_border_it_does_not_flap(shares: list[float]) -> None:
    state = judge(Rates(write=1.01e7, send=1e7))
    for share in shares:
        assert judge(Rates(write=1e7 * share, send=1e7), "converging") == "converging"
        state = judge(Rates(write=1e7 * share, send=1e7), state)
        assert state == "not converging"
    assert judge(Rates(write=0.8e7, send=1e7), state) == "converging"


def test_divergence_names_the_bandwidth_needed_and_the_freeze() -> None:
    text = sentence("not converging", Rates(read=1e9, send=1e6, write=2e6), 1.05, 0.5)
    assert "16 Mbit/s" in text
    assert "2.0 MB/s are newly written and 1.0 MB/s can be sent" in text
    assert "a freeze now would take 1.05 s, 0.50 s are allowed" in text


def test_what_compresses_needs_less_of_the_line() -> None:
    rates = Rates(read=1e9, send=1e6, write=2e6, wire_ratio=0.25)
    assert rates.needed == 0.5e6
    assert "4.0 Mbit/s" in sentence("not converging", rates, None, 0.5)


def test_a_local_limit_is_named_when_it_is_the_smaller_one() -> None:
    assert capped(2.0, 2.0) == capped(2.0, 10.0) == ""
    assert "30s" in capped(30.0, 10.0)
    assert "10s" in capped(30.0, 10.0)
    assert "[freeze] longest" in capped(30.0, 10.0)


def test_what_freezes_cost_is_learned_slowly() -> None:
    costs = Costs().after(1.05, 3.0, 2.0, 0.5)
    assert costs.fixed == pytest.approx(0.55)
    assert (costs.reading, costs.hooks) == (2.0, 1.0)
    assert freeze_seconds(10**9, 0, Rates(read=1e9), costs) == pytest.approx(2.55)
