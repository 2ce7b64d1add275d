"""The level follows what is measured: up while the line is waited for and it pays, else down."""

from __future__ import annotations

import pytest

from replicad.compression import (
    FIRST,
    LADDER,
    PERIOD_FRAMES,
    PROBE_FRAMES,
    PROBES,
    SELDOM,
    TIRED,
    Choice,
    Tuner,
    level_of,
)

RAW = 1 << 20
RATIO = {None: 1.0, -1: 0.60, 1: 0.50, 3: 0.45, 6: 0.41, 9: 0.408}
"""Compressed size over raw size, by level; the last step saves next to nothing."""

SPEED = {None: 1e15, -1: 1.7e9, 1: 1.2e9, 3: 0.9e9, 6: 0.1e9, 9: 0.06e9}
"""Raw bytes a second."""


def play(tuner: Tuner, line: float, seconds: float, begun: float = 0.0) -> list[int | None]:
    """One sender behind a line of ``line`` wire bytes a second, from ``begun`` on; the levels it
    went through."""
    now, levels, other = begun, [tuner.level], 0.0005
    while now < begun + seconds:
        assert tuner.worth_a_look()
        level = tuner.level
        wire, spent = RAW * RATIO[level], RAW / SPEED[level]
        if (above := tuner.next_level()) is not None:
            tuner.tried(RAW, int(wire), int(RAW * RATIO[above]), RAW / SPEED[above])
            spent += RAW / SPEED[above]
        tuner.looked(shrank=True)
        waited = max(0.0, wire / line - spent - other)
        now += spent + other + waited
        tuner.sent(int(wire), spent, waited, other, now)
        if tuner.level != levels[-1]:
            levels.append(tuner.level)
    return levels


def test_a_slow_line_raises_the_level_as_far_as_it_pays() -> None:
    tuner = Tuner()
    assert play(tuner, 2e6, 600) == [-1, 1, 3, 6]
    assert "level 9 would save" in tuner.choice.because


def test_it_does_not_take_more_than_half_of_the_senders_time() -> None:
    tuner = Tuner()
    # Level 6 gives 0.1 GB/s: at 100 MB/s of wire it would be what everybody waits for.
    assert play(tuner, 100e6, 300) == [-1, 1, 3]
    assert "of the senders' time" in tuner.choice.because


def test_a_line_that_nobody_waits_for_lowers_it() -> None:
    tuner = Tuner()
    assert play(tuner, 1e12, 60) == [-1, None]
    assert "waited for" in tuner.choice.because


def test_it_begins_again_when_the_line_gets_slower() -> None:
    tuner = Tuner()
    play(tuner, 1e12, 60)
    assert play(tuner, 100e6, 300, begun=60) == [None, -1, 1, 3]


def test_a_fast_line_is_found_out_while_it_still_matters() -> None:
    tuner = Tuner()
    assert play(tuner, 1e12, 0.4) == [-1, None]


def test_it_comes_down_when_the_line_gets_faster() -> None:
    tuner = Tuner()
    play(tuner, 2e6, 600)
    assert play(tuner, 1e12, 60, begun=600) == [6, 3, 1, -1, None]


@pytest.mark.parametrize("line", [5e6, 20e6, 50e6, 200e6, 500e6, 1e9, 2e9, 1e10])
def test_it_comes_to_rest(line: float) -> None:
    tuner = Tuner()
    play(tuner, line, 300)
    assert len(play(tuner, line, 300, begun=300)) == 1


def test_nothing_is_decided_on_a_few_frames() -> None:
    tuner = Tuner()
    for frame in range(PERIOD_FRAMES - 1):
        tuner.sent(1, 0.0, 0.0, 1.0, 10.0 * frame)
    assert tuner.level == FIRST
    tuner.sent(1, 0.0, 0.0, 1.0, 10.0 * PERIOD_FRAMES)
    assert tuner.level == LADDER[0]


def test_trials_are_rare_and_only_while_the_line_is_waited_for() -> None:
    tuner = Tuner()
    assert all(tuner.next_level() is None for _ in range(10 * PROBE_FRAMES))
    for frame in range(PERIOD_FRAMES + 1):
        tuner.sent(1, 0.0, 1.0, 0.1, float(frame))
    asked = [tuner.next_level() for _ in range(PROBES * PROBE_FRAMES)]
    assert asked.count(LADDER[LADDER.index(FIRST) + 1]) == PROBES
    assert asked.count(None) == len(asked) - PROBES


def test_what_never_shrinks_is_seldom_looked_at_until_something_does() -> None:
    tuner = Tuner()
    for _ in range(TIRED):
        assert tuner.worth_a_look()
        tuner.looked(shrank=False)
    looks = 0
    for _ in range(10 * SELDOM):
        if tuner.worth_a_look():
            looks += 1
            tuner.looked(shrank=False)
    assert 8 <= looks <= 12
    while not tuner.worth_a_look():
        pass
    tuner.looked(shrank=True)
    assert all(tuner.worth_a_look() for _ in range(SELDOM))


def test_the_level_of_a_mode() -> None:
    choice = Choice(6, "why")
    assert level_of("auto", choice) == (6, "why")
    assert level_of("none", choice)[0] is None
    assert level_of("12", choice)[0] == 12
