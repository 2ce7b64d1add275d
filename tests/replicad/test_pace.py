"""The bandwidth limit holds in the long run; speed and remaining time are plain arithmetic."""

from hypothesis import given
from hypothesis import strategies as st

from replicad.pace import BURST_SECONDS, Pacer, Speedometer, remaining_seconds


@given(
    rate=st.integers(1_000, 10**9),
    amounts=st.lists(st.integers(1, 1 << 20), min_size=2, max_size=60),
)
def test_the_long_run_rate_never_exceeds_the_limit(rate: int, amounts: list[int]) -> None:
    pacer, now = Pacer(rate), 100.0
    for amount in amounts:
        now += pacer.spend(amount, now)
    assert sum(amounts) <= rate * (now - 100.0) + rate * BURST_SECONDS + 1


def test_no_limit_never_waits() -> None:
    pacer = Pacer(0)
    assert [pacer.spend(1 << 30, 1.0) for _ in range(3)] == [0.0, 0.0, 0.0]


def test_a_changed_limit_counts_from_then_on() -> None:
    pacer = Pacer(1000)
    assert pacer.spend(10_000, 0.0) > 9
    pacer.set_rate(0)
    assert pacer.spend(10_000, 0.1) == 0.0


def test_a_long_pause_does_not_save_up_more_than_a_burst() -> None:
    pacer = Pacer(1000)
    pacer.spend(100, 0.0)
    assert pacer.spend(1100, 1_000.0) == 1.0


def test_speed_is_that_of_the_window_not_of_the_whole_run() -> None:
    meter = Speedometer()
    for second in range(11):
        meter.sample(float(second), second * 1000)
    for second in range(11, 31):
        meter.sample(float(second), 10_000)
    assert meter.speed == 0.0


def test_remaining_time() -> None:
    assert remaining_seconds(100, 100, 0.0) == 0.0
    assert remaining_seconds(100, 40, 0.0) is None
    assert remaining_seconds(100, 40, 20.0) == 3.0
