"""How many senders work at once, from what the processors give them. Pure.

There is one sender for each data connection, and while they wait for the line, for a disk or for
an answer, all of them should: then what one waits for hides behind what another does. But when
they wait for a *processor*, they take turns with each other, push each other's content out of the
caches, and one fewer gets as much done. (Of ``n`` senders that wait a share ``w`` of their time,
``n - 1`` do as much without waiting when ``w`` is ``1 / n``.) So then one stops, and it is looked
whether the others have taken over its time; if not, it was somebody else who had the processors,
and it comes back. Now and then one more is tried, at growing intervals; at once when nobody
computes.

The idea of asking how long threads have waited for a processor, and not how busy it is, is that of
the kernel's pressure stall information (Documentation/accounting/psi.rst).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

CROWDED: Final = 0.9
"""Of ``1 / n``: the share of waiting from which one fewer is tried. It need not be exact, for it is
looked what comes of it."""

KEPT: Final = 0.9
"""Of the processor time that they had together before, what the others must have when one has
stopped. Measured shares of a tenth of a second differ by some per cent."""

FREE: Final = 0.1
"""Share of waiting below which there are processors for one more."""

COMPUTING: Final = 0.5
"""Share of the time below which a sender does not wait for a processor, but for something else."""

AGAIN_SECONDS: Final = 2.0
AGAIN_MOST: Final = 60.0
"""Until what did not help is tried again: doubled each time."""


class Spent(NamedTuple):
    """What a thread has done in a period: seconds on a processor, and seconds ready to run without
    having one."""

    ran: float
    waited: float


@dataclass(slots=True)
class Concurrency:
    """Of one session.

    Attributes:
        most: senders that there are.
        at_work: senders that work now; 1 to ``most``.
        because: why not all, in words; '' while all do.
    """

    most: int
    at_work: int = 0
    because: str = ""
    _had: float | None = None
    _waited: float = 0.0
    _fewer_at: float = 0.0
    _more_at: float = 0.0
    _pause: float = AGAIN_SECONDS

    def __post_init__(self) -> None:
        self.at_work = self.at_work or self.most

    def looked(self, spent: Sequence[Spent], seconds: float, now: float) -> None:
        """Think again after a period.

        Args:
            spent: by each sender that was at work in all of it.
            seconds: how long it was.
            now: seconds of a clock that does not go back.
        """
        if len(spent) != self.at_work or seconds <= 0:
            return
        ran = sum(each.ran for each in spent) / seconds
        waited = sum(each.waited for each in spent) / seconds / len(spent)
        if self._had is not None:
            had, self._had = self._had, None
            if ran < KEPT * had:
                self._fewer_at = self._later(now)
                self._set(self.at_work + 1)
                return
            self._more_at = self._later(now)
        if self.at_work > 1 and waited * self.at_work >= CROWDED and now >= self._fewer_at:
            self._had, self._waited = ran, waited
            self._set(self.at_work - 1)
        elif self.at_work < self.most and waited < FREE:
            if ran < COMPUTING * self.at_work:
                self._pause = AGAIN_SECONDS
                self._set(self.most)
            elif now >= self._more_at:
                self._set(self.at_work + 1)

    def _later(self, now: float) -> float:
        pause, self._pause = self._pause, min(AGAIN_MOST, 2 * self._pause)
        return now + pause

    def _set(self, at_work: int) -> None:
        self.at_work = at_work
        crowded = f"{at_work + 1} waited {self._waited:.0%} of the time for a processor"
        self.because = crowded if at_work < self.most else ""
