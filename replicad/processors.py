"""Looking at what the processors give to the sender threads, while they have something to send.

:mod:`replicad.concurrency` decides how many of them work; here the kernel is asked
(``/proc/self/task/*/schedstat``: nanoseconds on a processor, and nanoseconds ready to run without
one; Documentation/scheduler/sched-stats.rst) and the feed is told. A kernel that does not say
leaves all of them at work.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from typing import Final

from replicad.concurrency import Concurrency, Spent
from replicad.feed import Feed

_NS: Final = 1e-9
_LINE: Final = 128
"""Bytes: three numbers take fewer."""

Times = Callable[[int], Spent | None]


def processor_times(thread: int) -> Spent | None:
    """What a thread of ours, by its kernel's number, has had since it began; None: not known."""
    try:
        fd = os.open(f"/proc/self/task/{thread}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            ran, waited, _ = os.read(fd, _LINE).split()
        finally:
            os.close(fd)
        return Spent(int(ran) * _NS, int(waited) * _NS)
    except (OSError, ValueError):  # it has ended; or another form
        return None


class Processors:
    """Watches the senders of one session and tells their feed how many of them work.

    Args:
        threads: the kernel's numbers of the senders' threads, by index.
        most: how many there are.
        fixed: how many work, whatever is measured; 0 when it follows that.
    """

    def __init__(
        self,
        feed: Feed,
        most: int,
        threads: Callable[[], Sequence[int]],
        times: Times = processor_times,
        clock: Callable[[], float] = time.monotonic,
        fixed: int = 0,
    ) -> None:
        self.concurrency = Concurrency(most, min(fixed, most))
        self._fixed = fixed > 0
        self._feed = feed
        self._threads = threads
        self._times = times
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._before: tuple[float, list[Spent | None]] | None = None
        self._urgent = 0

    @property
    def at_work(self) -> int:
        """How many senders work now."""
        return self.concurrency.most if self._urgent else self.concurrency.at_work

    @property
    def because(self) -> str:
        """Why not all of them, in words; '' while all do."""
        if self._urgent or self.at_work == self.concurrency.most:
            return ""
        return "fixed by the configuration" if self._fixed else self.concurrency.because

    def begin(self) -> None:
        """There is something to send: look, until :meth:`end`."""
        self._start_anew()
        if self.concurrency.most > 1 and not self._fixed and self._timer is None:
            self._look()

    def end(self) -> None:
        """Nothing is sent any more; what was found stays for the next time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def hurry(self, *, begin: bool) -> None:
        """Something is frozen, from ``begin`` until the same with False: all work, and nobody
        asks whether that is too many."""
        self._urgent += 1 if begin else -1
        self._start_anew()

    def _look(self) -> None:
        now = self._clock()
        if not self._urgent:
            self._ask(now)
        self._timer = self._loop.call_later(self.concurrency.pause(now), self._look)

    def _ask(self, now: float) -> None:
        at_work = self._threads()[: self.concurrency.at_work]
        have = [self._times(thread) for thread in at_work]
        before, self._before = self._before, (now, have)
        if before is None or len(before[1]) != len(have):
            return
        spent = [
            Spent(new.ran - old.ran, new.waited - old.waited)
            for new, old in zip(have, before[1], strict=True)
            if new is not None and old is not None
        ]
        self.concurrency.looked(spent, now - before[0], now)
        self._feed.let_work(self.at_work)

    def _start_anew(self) -> None:
        self._before = None
        self.concurrency.interrupted()
        self._feed.let_work(self.at_work)
