"""Who is dead, who is slow, and who only seems to speak."""

from __future__ import annotations

import pytest

from protocol.errors import PeerFault
from protocol.wire.alive import CRAWL_BYTES, Alive

BEAT = 10.0


def test_three_heartbeats_of_nothing_are_the_end() -> None:
    alive = Alive(BEAT, 100.0)
    alive.check(0, True, 129.9)
    with pytest.raises(PeerFault, match=r"RPL-3005.*30 s"):
        alive.check(0, True, 130.0)


def test_any_byte_is_a_sign_of_life_between_frames() -> None:
    alive = Alive(BEAT, 0.0)
    for beat in range(1, 100):
        alive.check(31 * beat, True, beat * BEAT)


def test_a_frame_that_only_heartbeats_fill_is_dead() -> None:
    """As after a flipped bit in its length."""
    alive = Alive(BEAT, 0.0)
    alive.check(31, False, BEAT)
    alive.check(62, False, 2 * BEAT)
    with pytest.raises(PeerFault, match="RPL-3005"):
        alive.check(93, False, 3 * BEAT)


def test_a_slow_line_is_not_dead() -> None:
    alive = Alive(BEAT, 0.0)
    for beat in range(1, 1000):
        alive.check(beat * CRAWL_BYTES // 2, False, beat * BEAT)


def test_while_we_are_busy_nobody_is_silent() -> None:
    alive = Alive(BEAT, 0.0)
    for beat in range(100):
        alive.busy(beat * BEAT)
    alive.check(0, False, 1019.0)
    with pytest.raises(PeerFault, match="RPL-3005"):
        alive.check(0, False, 1021.0)
