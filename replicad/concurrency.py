"""How many senders work at once, from what the processors give them. Pure.

There is one sender for each data connection, and while they wait for the line, for a disk or for
an answer, all of them should: then what one waits for hides behind what another does. But when
they wait for a *processor*, they take turns with each other, push each other's content out of the
caches, and one fewer gets as much done. (Of ``n`` senders that wait a share ``w`` of their time,
``n - 1`` do as much without waiting when ``w`` is ``1 / n``.) So then one stops, on trial: if the
others have not taken over its time, it was somebody else who had the processors, and it comes back.
Now and then one more is tried, and stays if they have more of the processors together then; at once
when nobody computes.

What the server's own work takes comes and goes, so a trial may find what is not so. A copy that is
too slow is worse than one that takes turns with itself: one more is tried every
:data:`MORE_MOST` seconds or sooner, one fewer ever more seldom once it has been wrong.

The idea of asking how long threads have waited for a processor, and not how busy it is, is that of
the kernel's pressure stall information (Documentation/accounting/psi.rst).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

PERIOD_SECONDS: Final = 0.1
"""Between looks that may decide something: some ten turns of a scheduler that has given out all its
processors. Shorter is noise, and a pass of a second should profit."""

CALM: Final = 5
"""Times as long it becomes by and by where nothing is seen that calls for a decision."""

FEWER_SECONDS: Final = 0.3
"""Between looks while some have stopped, and it is only asked whether they are needed again."""

LONGEST_SECONDS: Final = 1.0
"""A longer period says what was, not what is."""

LOOKS: Final = 2
"""Periods that a decision needs: of one a moment's work of somebody else is a large part."""

CROWDED: Final = 0.9
"""Of ``1 / n``: the share of waiting from which one fewer is tried. It need not be exact, for it is
looked what comes of it."""

KEPT: Final = 0.9
"""Of the processor time that they had together before, what the others must have when one has
stopped. Measured shares of a tenth of a second differ by some per cent."""

GAINED: Final = 1.1
"""Of the same, what they must have for one more to stay."""

FREE: Final = 0.1
"""Share of waiting below which processors are not what is waited for."""

COMPUTING: Final = 0.5
"""Share of the time below which a sender does not wait for a processor, but for something else."""

AGAIN_SECONDS: Final = 2.0
MORE_MOST: Final = 10.0
FEWER_MOST: Final = 60.0
"""Until what did not help is tried again: doubled each time, up to so many seconds."""


class Spent(NamedTuple):
    """What a thread has done in a period: seconds on a processor, and seconds ready to run without
    having one."""

    ran: float
    waited: float


@dataclass(slots=True)
class Again:
    """When something may be tried again; the pause doubles with each failure."""

    most: float
    at: float = 0.0
    _pause: float = AGAIN_SECONDS

    def later(self, now: float) -> None:
        """It did not help."""
        self.at, self._pause = now + self._pause, min(self.most, 2 * self._pause)


@dataclass(slots=True)
class Concurrency:
    """Of one session.

    Attributes:
        most: senders that there are.
        at_work: senders that work now; 1 to ``most``.
    """

    most: int
    at_work: int = 0
    _crowded: dict[int, float] = field(default_factory=dict)
    _looks: list[tuple[float, float]] = field(default_factory=list)
    _calm: int = 0  # looks since there was something to decide
    _trial: tuple[int, float] | None = None  # one fewer (-1) or more (1), and what all had before
    _fewer: Again = field(default_factory=lambda: Again(FEWER_MOST))
    _more: Again = field(default_factory=lambda: Again(MORE_MOST))

    def __post_init__(self) -> None:
        self.at_work = self.at_work or self.most

    @property
    def because(self) -> str:
        """Why not all work, in words; '' while all do."""
        if self.at_work == self.most:
            return ""
        waited = self._crowded.get(self.at_work + 1, 0.0)
        return f"{self.at_work + 1} waited {waited:.0%} of the time for a processor"

    def looked(self, spent: Sequence[Spent], seconds: float, now: float) -> None:
        """Think again after a period.

        Args:
            spent: by each sender that was at work in all of it.
            seconds: how long it was.
            now: seconds of a clock that does not go back.
        """
        if len(spent) != self.at_work or seconds <= 0:
            return
        if seconds > LONGEST_SECONDS:
            self._looks.clear()
            self._calm = 0
            return
        # The kernel books what was waited for when it is over: it may be more than the period.
        waited = sum(min(each.waited, seconds) for each in spent) / seconds / len(spent)
        self._looks.append((sum(each.ran for each in spent) / seconds, waited))
        self._calm = 0 if waited * self.at_work >= CROWDED else self._calm + 1
        if len(self._looks) < LOOKS:
            return
        ran = sum(look[0] for look in self._looks) / LOOKS
        waited = min(look[1] for look in self._looks)
        if self._trial is not None:
            self._judge(ran, now)
        elif self.at_work > 1 and waited * self.at_work >= CROWDED and now >= self._fewer.at:
            self._crowded[self.at_work] = waited
            self._try(-1, ran)
        elif self.at_work < self.most:
            if ran < COMPUTING * self.at_work and waited < FREE:
                self._fewer.later(now)
                self._set(self.most)
            elif now >= self._more.at:
                self._try(1, ran)
        del self._looks[: len(self._looks) - LOOKS + 1]

    def pause(self, now: float) -> float:
        """Seconds until the next look: asking costs time of the loop, and with dozens of sources on
        one machine that adds up. While nothing may be tried nothing need be known."""
        if self._trial is not None:
            return PERIOD_SECONDS
        if self.at_work < self.most:
            return FEWER_SECONDS
        return max(PERIOD_SECONDS * min(CALM, 1 + self._calm), self._fewer.at - now)

    def interrupted(self) -> None:
        """What is sent changes: nothing that is on trial can be judged. Who stopped comes back."""
        self._looks.clear()
        self._calm = 0
        if self._trial is not None:
            step, _ = self._trial
            self._set(self.at_work - min(step, 0))

    def _judge(self, ran: float, now: float) -> None:
        assert self._trial is not None
        step, had = self._trial
        if ran >= had * (KEPT if step < 0 else GAINED):
            # Whatever was done, the other way was not better, and need not be tried soon.
            (self._more if step < 0 else self._fewer).later(now)
            self._set(self.at_work)
        else:
            (self._fewer if step < 0 else self._more).later(now)
            self._set(self.at_work - step)

    def _try(self, step: int, ran: float) -> None:
        self._set(self.at_work + step)
        self._trial = step, ran

    def _set(self, at_work: int) -> None:
        self._trial = None
        self._looks.clear()
        self.at_work = at_work
