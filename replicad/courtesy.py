"""The server's own work comes first: reading steps back where others have to wait for the disk.

A copy that reads as fast as it can fills the queue of a disk, and whoever else reads or syncs
waits behind it. The kernel can order that where it has a scheduler with an idle class (see
:func:`replicad.latency.step_back`); most disks of today have none. So we look: now and then nobody
of us reads for a tenth of a second, and small reads of our own tell what others wait for
the disk then, and what they wait while we read. Where that is much more, and somebody else really
uses the disk, we read for a smaller share of the time; where it is not, for a larger one (additive
increase, multiplicative decrease: Chiu and Jain 1989, as TCP does).

What the source was told to be slow (``--bandwidth``) stays the upper bound. While filesystems are
frozen nobody steps back: then others wait for us to be done.

This module is the arithmetic; :mod:`replicad.latency` looks at the clock and the disk.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

LEAST: Final = 0.1
"""Share of the time that we read at least: a copy must come to its end."""

MORE: Final = 0.1
LESS: Final = 0.6
"""What is added to the share when nobody suffers, and what it is multiplied with otherwise."""

TOLERATED: Final = 1.5
TOLERATED_SECONDS: Final = 0.0005
"""Others suffer when they wait more than this many times as long as without us, and longer by so
much: a fast disk may double a few microseconds without anybody noticing."""

OTHERS_LEAST: Final = 20.0
"""Reads and writes of others per second below which nobody uses the disk."""


class Looked(NamedTuple):
    """One look at a disk.

    Attributes:
        without: seconds that our small reads took while we read nothing else.
        beside: the same while we did.
        others: reads and writes of others per second, counted while we read nothing.
    """

    without: Sequence[float]
    beside: Sequence[float]
    others: float


@dataclass(slots=True)
class Courtesy:
    """How we read one disk. Thread-safe; seconds are CLOCK_MONOTONIC.

    Attributes:
        share: of the time that we may read, from :data:`LEAST` to 1.
        because: why, in words; empty while we do not step back.
    """

    share: float = 1.0
    because: str = ""
    _held_until: float = 0.0
    _urgent: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def hold(self, until: float) -> None:
        """Nobody of us reads until then: others are looked at."""
        self._held_until = until

    def hurry(self, *, begin: bool) -> None:
        """Something is frozen, from ``begin`` until the same with False: others wait for us."""
        with self._lock:
            self._urgent += 1 if begin else -1

    @property
    def urgent(self) -> bool:
        """Whether something is frozen."""
        return self._urgent > 0

    def owed(self, spent: float, ended: float, now: float) -> float:
        """Seconds to wait before the next read, after one that took ``spent`` and ended then:
        what was done meanwhile was a pause, too."""
        if self._urgent:
            return 0.0
        pause = spent * (1 / self.share - 1)
        return max(ended + pause - now, self._held_until - now, 0.0)

    def looked(self, found: Looked) -> None:
        """Think again after a look."""
        if found.others < OTHERS_LEAST or not found.without or not found.beside:
            self._step(self.share + MORE, "")
            return
        alone, beside = statistics.median(found.without), statistics.median(found.beside)
        if beside > TOLERATED * alone and beside > alone + TOLERATED_SECONDS:
            waits = f"others wait {beside * 1e3:.1f} ms for the disk, {alone * 1e3:.1f} without us"
            self._step(self.share * LESS, waits)
        else:
            self._step(self.share + MORE, self.because)

    def _step(self, share: float, because: str) -> None:
        self.share = min(1.0, max(LEAST, round(share, 3)))
        self.because = because if self.share < 1.0 else ""
