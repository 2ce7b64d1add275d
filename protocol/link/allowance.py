"""How much a peer may say: who says more is read more slowly, and in nobody's way but his own.

A refusal would have to know what is too much of what; not reading needs no such knowledge. TCP
carries it back to the peer, whose own writes then wait. The loop that serves all peers spends at
most a bounded share of its time on one of them.

Pure arithmetic on a clock that is passed in: a token bucket (RFC 2697's committed rate and burst).
"""

from __future__ import annotations


class Allowance:
    """A budget that fills at ``rate`` a second up to ``burst``. Its unit is the caller's."""

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._at = now

    def spend(self, amount: float, now: float) -> float:
        """Take ``amount`` and return the seconds to wait before going on. The level may go below
        zero, so the long-run rate holds exactly, whatever the amounts are."""
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now
        self._level -= amount
        return max(0.0, -self._level / self._rate)
