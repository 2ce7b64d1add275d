"""How fast: the bandwidth limit, the measured speed and the remaining time.

Pure arithmetic on a clock that is passed in, so tests need no waiting. The limit is a token
bucket (RFC 2697's idea of a committed rate with a burst); the speed is measured over a short
sliding window, because an average since the start hides a stall and the last second is noise.
"""

from __future__ import annotations

import threading
from collections import deque

BURST_SECONDS = 0.1
"""A bucket holds what may be sent in this time; shorter bursts cost throughput on coarse timers."""

WINDOW_SECONDS = 5.0
"""Speed is what was acknowledged in this time."""


class Pacer:
    """A token bucket that several sender threads share.

    Args:
        rate: bytes per second on the wire; 0 for unlimited.
    """

    def __init__(self, rate: int = 0) -> None:
        self._lock = threading.Lock()
        self._rate = rate
        self._level = 0.0
        self._at: float | None = None

    @property
    def rate(self) -> int:
        """Bytes per second, 0 for unlimited."""
        return self._rate

    def set_rate(self, rate: int) -> None:
        """Change the limit; takes effect with the next batch."""
        with self._lock:
            self._rate = max(0, rate)
            self._at = None
            self._level = 0.0

    def spend(self, amount: int, now: float) -> float:
        """Account for ``amount`` bytes that are about to be sent.

        Returns the seconds that the caller should wait before sending them. The level may go
        below zero: who comes next waits longer, so the long-run rate holds exactly.
        """
        with self._lock:
            if self._rate <= 0:
                return 0.0
            burst = self._rate * BURST_SECONDS
            if self._at is None:
                self._at, self._level = now, burst
            self._level = min(burst, self._level + (now - self._at) * self._rate)
            self._at = now
            self._level -= amount
            return max(0.0, -self._level / self._rate)


class Speedometer:
    """Bytes per second over the last :data:`WINDOW_SECONDS`."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def sample(self, now: float, total: int) -> None:
        """Record that ``total`` bytes have been acknowledged since the beginning, at ``now``."""
        if self._samples and total < self._samples[-1][1]:
            # Another job began to count from nothing.
            self._samples.clear()
        self._samples.append((now, total))
        while len(self._samples) > 2 and self._samples[1][0] <= now - WINDOW_SECONDS:
            self._samples.popleft()

    def restart(self) -> None:
        """Forget the past: after a pause the old samples would count as a stall."""
        self._samples.clear()

    @property
    def speed(self) -> float:
        """Bytes per second; 0.0 before there are two samples."""
        if len(self._samples) < 2:
            return 0.0
        (start, first), (end, last) = self._samples[0], self._samples[-1]
        return (last - first) / (end - start) if end > start else 0.0


def remaining_seconds(total: int, transferred: int, speed: float) -> float | None:
    """Seconds until a pass ends at this speed; None when nobody can say."""
    left = max(0, total - transferred)
    if left == 0:
        return 0.0
    return left / speed if speed > 0 else None
