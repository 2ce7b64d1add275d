"""What counts as written, and what a measurement of the line may be made of."""

from __future__ import annotations

import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicad import rates
from replicad.rates import HORIZON_SECONDS, SendMeter, Sent, Unique, WriteMeter

GRANULE = 4096
MB = 10**6


def words(granules: set[int]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    made = np.zeros(max(granules, default=0) // 64 + 1, np.uint64)
    for granule in granules:
        made[granule // 64] |= np.uint64(1 << granule % 64)
    return made


@given(st.lists(st.tuples(st.integers(0, 50), st.sets(st.integers(0, 5000))), max_size=20))
def test_the_union_is_what_a_set_says(parts: list[tuple[int, set[int]]]) -> None:
    kept, unique = rates.FOLD_WORDS, Unique()
    unique._fold_at = rates.FOLD_WORDS = 20
    try:
        for first, granules in parts:
            unique.add(first, words(granules))
    finally:
        rates.FOLD_WORDS = kept
    assert unique.count() == len({first * 64 + g for first, part in parts for g in part})


def measured(drains: list[tuple[float, set[int]]]) -> WriteMeter:
    meter = WriteMeter()
    for at, granules in drains:
        meter.add("/dev/vda", GRANULE, 0, words(granules))
        meter.drained(at)
    return meter


def test_what_was_written_before_the_first_drain_is_no_rate() -> None:
    assert measured([(0.0, set(range(9999)))]).rate is None
    drains = [(0.0, set(range(9999))), (2.0, set()), (4.0, set())]
    assert measured(drains).rate == 0.0


def test_one_period_may_be_a_burst() -> None:
    assert measured([(0.0, set()), (2.0, {1})]).rate is None


@pytest.mark.parametrize("pause", [0.1, 0.5, 1.0, 2.0])
def test_rewriting_the_same_blocks_counts_once_for_each_pass(pause: float) -> None:
    """However often it is drained: 100 granules that are always written anew."""
    hot = set(range(100))
    drains = [(n * pause, hot) for n in range(int(20 / pause))]
    assert measured(drains).rate == pytest.approx(100 * GRANULE / HORIZON_SECONDS, rel=0.06)


@pytest.mark.parametrize("pause", [0.1, 0.5, 1.0, 2.0, 5.0])
def test_new_blocks_count_as_fast_as_they_come(pause: float) -> None:
    step = int(1000 * pause)
    drains = [(n * pause, set(range(n * step, (n + 1) * step))) for n in range(int(30 / pause))]
    assert measured(drains).rate == pytest.approx(1000 * GRANULE, rel=0.01)


def test_an_old_rate_gives_way_and_a_gap_does_not_count() -> None:
    meter = measured([(n, {n * 100 + g for g in range(100)}) for n in range(30)])
    assert meter.rate == pytest.approx(100 * GRANULE)
    meter.add("/dev/vda", GRANULE, 0, words({1}))
    meter.drained(1000.0)
    assert meter.rate == pytest.approx(100 * GRANULE)
    for n in range(20):
        meter.drained(1001.0 + n)
    assert meter.rate == 0.0


def test_disks_add_up() -> None:
    meter = WriteMeter()
    for at in range(0, 10, 2):
        meter.add("/dev/vda", GRANULE, 0, words({1, 2}))
        meter.add("/dev/vdb", 4 * GRANULE, 0, words({1}))
        meter.drained(float(at))
    assert meter.rate == 3 * GRANULE


# --- sending ---------------------------------------------------------------------------------


def sweep(meter: SendMeter, begun: float, seconds: float, carried: Sent) -> None:
    meter.begin(begun, Sent())
    meter.end(begun + seconds, carried)


def test_short_sweeps_measure_latency_and_nothing_else() -> None:
    meter = SendMeter()
    sweep(meter, 0, 0.005, Sent(100_000, 0, 100_000))
    assert meter.measured is None
    sweep(meter, 1, 0.1, Sent(10 * MB, 0, 10 * MB))
    assert meter.measured == pytest.approx(100 * MB)
    sweep(meter, 2, 2.0, Sent(1 * MB, 0, 1 * MB))
    assert meter.measured == pytest.approx(11 * MB / 2.1)


def test_a_long_sweep_is_measured_while_it_goes_on() -> None:
    meter = SendMeter()
    meter.begin(0.0, Sent())
    done = 0
    for second in range(1, 40):
        done += 10 * MB if second < 20 else 2 * MB
        meter.sample(float(second), Sent(done, 0, done))
        meter.sample(second + 0.1, Sent(done, 0, done))
    assert meter.measured == pytest.approx(2 * MB)


def test_idle_time_between_sweeps_is_no_slowness() -> None:
    meter = SendMeter()
    for n in range(5):
        sweep(meter, n * 100.0, 1.0, Sent(50 * MB, 0, 50 * MB))
        meter.sample(n * 100.0 + 50, Sent())
    assert meter.measured == pytest.approx(50 * MB)


def test_zeros_and_comparisons_say_nothing() -> None:
    meter = SendMeter()
    sweep(meter, 0, 2.0, Sent(9000 * MB, 8000 * MB, 1000 * MB))
    sweep(meter, 9, 2.0, Sent(1 * MB, 0, 1 * MB, 500))
    assert meter.measured is None
    assert meter.capacity is None


def test_the_limit_is_one_of_the_wire() -> None:
    meter = SendMeter()
    meter.set_limit(5 * MB)
    assert meter.capacity == 5 * MB
    sweep(meter, 0, 2.0, Sent(20 * MB, 0, 10 * MB))
    assert meter.wire_ratio == 0.5
    assert meter.capacity == 10 * MB
    meter.set_limit(1 * MB)
    assert meter.capacity == 2 * MB


def test_what_was_measured_under_a_lower_limit_is_forgotten() -> None:
    meter = SendMeter()
    meter.set_limit(5 * MB)
    sweep(meter, 0, 2.0, Sent(10 * MB, 0, 10 * MB))
    meter.set_limit(50 * MB)
    assert meter.capacity == 50 * MB
    sweep(meter, 9, 2.0, Sent(60 * MB, 0, 60 * MB))
    assert meter.capacity == 30 * MB
    meter.set_limit(0)
    assert meter.capacity is None


def test_a_limit_that_is_lifted_within_a_pass_says_nothing_of_what_comes() -> None:
    meter = SendMeter()
    meter.set_limit(1 * MB)
    meter.begin(0.0, Sent())
    meter.sample(10.0, Sent(10 * MB, 0, 10 * MB))
    meter.set_limit(0)
    meter.sample(12.0, Sent(30 * MB, 0, 30 * MB))  # half of it was sent under the limit
    assert meter.capacity is None
    meter.end(13.0, Sent(130 * MB, 0, 130 * MB))
    assert meter.capacity == 100 * MB


def test_senders_may_ask_while_the_loop_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sender thread asks how large an extent should be; the deque that was here broke then."""
    monkeypatch.setattr(rates, "SEND_WINDOW_SECONDS", 300.0)
    meter, over = SendMeter(), threading.Event()

    def measure() -> None:
        now = content = 0
        meter.begin(0, Sent())
        while not over.is_set():
            now, content = now + 1, content + MB
            meter.sample(now, Sent(content, 0, content, 0))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    measuring = threading.Thread(target=measure)
    measuring.start()
    try:
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            assert meter.capacity in {None, float(MB)}
    finally:
        over.set()
        measuring.join()
        sys.setswitchinterval(before)
