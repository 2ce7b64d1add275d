"""The forecast grows with what is dirty, and says plainly when the writer wins."""

from hypothesis import given
from hypothesis import strategies as st

from replicad.forecast import Rates, converges, fits, freeze_seconds, sentence


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.floats(1e6, 1e10))
def test_more_dirt_never_means_a_shorter_freeze(a: int, b: int, rate: float) -> None:
    less, more = sorted((a, b))
    rates = Rates(read=rate)
    assert freeze_seconds(less, 0, rates) <= freeze_seconds(more, 0, rates)


def test_a_forecast_at_the_budget_does_not_fit() -> None:
    assert not fits(2.0, 2.0)
    assert fits(1.0, 2.0)


def test_an_unknown_send_rate_is_not_called_divergent() -> None:
    assert converges(Rates(write=1e9))
    assert not converges(Rates(write=2e6, send=1e6))


def test_divergence_names_the_bandwidth_needed() -> None:
    text = sentence(10**9, Rates(read=1e9, send=1e6, write=2e6), 1.05, 0.5)
    assert "16 Mbit/s" in text
    assert "1.05 s of 0.50 s" in text
