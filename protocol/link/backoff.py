"""When to try again: exponential, capped, with full jitter.

Many sources lose the same receiver at the same instant; without jitter they would all come
back at the same instant too (Brooker, "Exponential Backoff and Jitter", AWS, 2015).
"""

from __future__ import annotations

import random

FIRST_SECONDS = 0.25
LONGEST_SECONDS = 10.0
"""A receiver that is back after a night is found within this time: a hundred sources that look for
it cost ten attempts a second, which is nothing."""


class Backoff:
    """Seconds to wait before each new attempt; :meth:`reset` after a success."""

    def __init__(
        self,
        first: float = FIRST_SECONDS,
        longest: float = LONGEST_SECONDS,
        rng: random.Random | None = None,
    ) -> None:
        self._first = first
        self._longest = longest
        self._rng = rng or random.Random()  # noqa: S311 - it spreads attempts, it hides nothing
        self._attempts = 0

    def reset(self) -> None:
        """The last attempt worked: begin small again."""
        self._attempts = 0

    def next(self) -> float:
        """Seconds until the next attempt: between half and all of the current step."""
        step: float = min(self._longest, self._first * 2 ** min(self._attempts, 16))
        self._attempts += 1
        return step * (0.5 + self._rng.random() / 2)
