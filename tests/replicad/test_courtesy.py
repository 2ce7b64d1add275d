"""Reading steps back where others suffer, comes back when they do not, and never stops."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicad.courtesy import LEAST, OTHERS_LEAST, TOLERATED_SECONDS, Courtesy, Looked
from replicad.latency import Counters, counters

FAST, SLOW = (0.0002, 0.0003, 0.0002), (0.004, 0.005, 0.003)


def test_whoever_makes_others_wait_steps_back() -> None:
    ours = Courtesy()
    ours.looked(Looked(FAST, SLOW, 500.0))
    assert ours.share == pytest.approx(0.6)
    assert ours.because == "others wait 4.0 ms for the disk, 0.2 without us"
    # For each second of reading so much waiting that it was 60 % of the time.
    assert ours.owed(0.6, 100.0, 100.0) == pytest.approx(0.4)
    assert ours.owed(0.6, 100.0, 100.3) == pytest.approx(0.1)
    assert ours.owed(0.6, 100.0, 101.0) == 0.0


def test_it_never_stops() -> None:
    ours = Courtesy()
    for _ in range(50):
        ours.looked(Looked(FAST, SLOW, 500.0))
    assert ours.share == LEAST


@pytest.mark.parametrize(
    ("without", "beside", "others"),
    [
        pytest.param(FAST, FAST, 500.0, id="nobody waits longer"),
        pytest.param(FAST, SLOW, OTHERS_LEAST / 2, id="nobody else is there"),
        pytest.param(SLOW, SLOW, 500.0, id="a slow disk is slow without us"),
        pytest.param((1e-5,), (1e-5 + TOLERATED_SECONDS,), 500.0, id="nobody notices"),
    ],
)
def test_nobody_steps_back_for_nothing(
    without: tuple[float, ...], beside: tuple[float, ...], others: float
) -> None:
    ours = Courtesy()
    ours.looked(Looked(without, beside, others))
    assert (ours.share, ours.because) == (1.0, "")


def test_it_comes_back_when_the_others_have_gone() -> None:
    ours = Courtesy()
    for _ in range(50):
        ours.looked(Looked(FAST, SLOW, 500.0))
    for _ in range(9):
        assert ours.share < 1.0
        ours.looked(Looked(FAST, FAST, 500.0))
        assert ours.because.startswith("others wait") or ours.share == 1.0
    assert (ours.share, ours.because) == (1.0, "")


def test_nobody_reads_while_others_are_looked_at() -> None:
    ours = Courtesy()
    ours.hold(100.12)
    assert ours.owed(0.001, 100.0, 100.02) == pytest.approx(0.1)
    assert ours.owed(0.001, 100.0, 100.13) == 0.0


def test_nobody_steps_back_while_something_is_frozen() -> None:
    ours = Courtesy()
    ours.looked(Looked(FAST, SLOW, 500.0))
    ours.hold(101.0)
    ours.hurry(begin=True)
    assert ours.owed(1.0, 100.0, 100.0) == 0.0
    ours.hurry(begin=False)
    assert ours.owed(1.0, 100.0, 100.0) >= 1.0


@given(
    st.lists(
        st.builds(
            Looked,
            st.lists(st.floats(0, 10), max_size=5),
            st.lists(st.floats(0, 10), max_size=5),
            st.floats(0, 1e6),
        ),
        max_size=50,
    ),
    st.floats(0, 60),
)
def test_whatever_is_seen_the_wait_is_bounded(looks: list[Looked], spent: float) -> None:
    ours = Courtesy()
    for look in looks:
        ours.looked(look)
        assert LEAST <= ours.share <= 1.0
        assert bool(ours.because) <= (ours.share < 1.0)
    assert 0.0 <= ours.owed(spent, 1.0, 1.0) <= spent * (1 / LEAST - 1) + 1e-9


def test_the_kernels_counters() -> None:
    text = "  12 3 456 7 89 1 2 3 0 4 5 6 7 8 9 10 11\n"
    assert counters(text) == Counters(reads=12, writes=89)
