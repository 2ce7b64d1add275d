"""The threads that serve the sessions: a few at a time, and each session has its part.

Of dozens of connections that have something to receive a few are served at a time, each for some
milliseconds, and :mod:`receiver.fairness` says which is next. More at a time would not be faster,
for there are no more processors: they would wait for each other's locks and push each other's
content out of the caches, and the event loop, which opens sessions and obeys administrators, would
wait behind all of them (docs/decisions/0180).

What is shared out is the processor's time: bytes that compress, are zero or need only be compared
cost what they cost. But a thread that waits for its disk needs no processor. So a session whose
frames take long is not counted among the few, nor is anybody who takes long over one frame: another
thread takes the place, as long as there are threads. What neither computes nor is noticed as
waiting is charged a part of the time in which it holds a place.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Final

from protocol.local import log
from receiver.fairness import FairQueue, Lane

QUANTUM_SECONDS: Final = 0.002
"""Of processor time, after which work makes way: two or three extents. Of fifty sessions on two
processors each has its turn within a tenth of a second."""

WAITING: Final = 4.0
"""Seconds of holding a place that cost as much as one of computing. More than one: where all
processors are taken, work also waits for one of them, and that is not its doing."""

HOP_SECONDS: Final = 0.0001
"""What a piece costs besides: the loop's way to it and back."""

KEPT_SECONDS: Final = 0.01
"""With one frame, after which a thread is no longer counted. Where all processors are taken that
also happens to one piece of work in thirty that waits for no disk."""

SLOW_SECONDS: Final = 0.004
"""That a session's frames take lately, from which on it is not counted to begin with."""

WEIGHT: Final = 0.1
"""Of the newest frame in what frames take lately."""

_log = log.get("crew")

Serve = Callable[["Service"], bool]
"""Work: does some of it each time it is called; whether there may be more to do now."""


class Service:
    """A piece of work on its way through the crew, as its thread sees it."""

    def __init__(self, crew: Crew, lane: SessionLane, work: Serve) -> None:
        self.lane = lane
        self.work = work
        self.ended: Future[None] = Future()
        self.ended.set_running_or_notify_cancel()  # from now on nobody can cancel it
        self.counted = True
        self.since = math.inf
        self._crew = crew
        self._cpu = self._wall = 0.0

    def begin(self) -> None:
        """A thread has it now."""
        self.counted = True
        self._cpu, self._wall = time.thread_time(), time.monotonic()

    @property
    def cost(self) -> float:
        """What it has used since then, in seconds of processor time. In its thread only."""
        computed = time.thread_time() - self._cpu
        held = (time.monotonic() - self._wall) / WAITING if self.counted else 0.0
        # Not more: it may be somebody else who has kept it from the processor.
        return max(computed, min(held, QUANTUM_SECONDS))

    @property
    def over(self) -> bool:
        """It has had its part: to be left now, and taken up again. Also while nobody waits, so that
        it is always known how far everybody is."""
        return self.cost >= QUANTUM_SECONDS

    @property
    def others_wait(self) -> bool:
        """Somebody has work and no thread."""
        return self._crew.waiting > 0

    def frame_begins(self) -> None:
        """From here on it may be a disk that takes long."""
        self.since = time.monotonic()

    def frame_ended(self) -> None:
        """No more."""
        took, self.since = time.monotonic() - self.since, math.inf
        self.lane.frame_seconds += WEIGHT * (took - self.lane.frame_seconds)

    def sleep(self, seconds: float) -> None:
        """Let time pass; meanwhile others have the place."""
        if seconds > 0:
            self._crew.give_up_place(self)
            time.sleep(seconds)


class SessionLane(Lane[Service]):
    """Of one session.

    Attributes:
        frame_seconds: what its frames take lately.
    """

    def __init__(self, crew: Crew) -> None:
        super().__init__()
        self.frame_seconds = 0.0
        self._crew = crew

    def serve(self, work: Serve) -> asyncio.Future[None]:
        """Have a thread do ``work`` until it says that there is no more, or raises. On the loop."""
        return self._crew.serve(self, work)

    def withdraw(self, work: Serve) -> None:
        """If ``work`` waits for a thread it need not be done any more: it ends now, as if there
        were no more of it."""
        self._crew.withdraw(self, work)


class Crew:
    """Shares threads out among sessions.

    Args:
        threads: where they come from.
        most: of them, together.
        at_a_time: that serve while no disk keeps them; at most half of all.
    """

    def __init__(self, threads: Executor, most: int, at_a_time: int) -> None:
        self._threads = threads
        self._at_a_time = max(1, min(at_a_time, most // 2))
        self._spare = most - self._at_a_time
        self._lock = threading.Lock()
        self._queue: FairQueue[Service] = FairQueue(QUANTUM_SECONDS)
        self._serving: set[Service] = set()
        self._running = 0
        self._uncounted = 0
        self._late = 0
        self._loop = asyncio.get_running_loop()
        self._looking: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Pieces of work that have no thread."""
        return len(self._queue)

    # --- on the loop --------------------------------------------------------------------------

    def serve(self, lane: SessionLane, work: Serve) -> asyncio.Future[None]:
        """See :meth:`SessionLane.serve`."""
        service = Service(self, lane, work)
        with self._lock:
            self._queue.push(lane, service)
            waits = not self._engage()
        if waits:
            self._look_soon()
        return asyncio.wrap_future(service.ended)

    def withdraw(self, lane: SessionLane, work: Serve) -> None:
        """See :meth:`SessionLane.withdraw`."""
        with self._lock:
            gone = [each for each in lane.waiting if each.work == work]
            for service in gone:
                self._queue.withdraw(lane, service)
        for service in gone:
            service.ended.set_result(None)

    def _look_soon(self) -> None:
        if self._looking is None:
            self._looking = self._loop.call_later(KEPT_SECONDS / 2, self._look)

    def _look(self) -> None:
        """While anybody waits: whom of those who are served does a disk keep?"""
        self._looking = None
        late = time.monotonic() - KEPT_SECONDS
        with self._lock:
            if not self._queue:
                return
            for service in self._serving:
                if service.counted and service.since < late:
                    self._count_no_more(service)
            self._engage()  # if it could not be done before
        self._look_soon()

    # --- the places: all with the lock, but for the first -----------------------------------------

    def give_up_place(self, service: Service) -> None:
        """This thread waits for something now, and another may serve."""
        with self._lock:
            if service.counted:
                self._count_no_more(service)

    @property
    def _places(self) -> int:
        """That are free; fewer than none when some came back who had not been counted."""
        return self._at_a_time - (self._running - min(self._uncounted, self._spare))

    def _engage(self) -> bool:
        """One more thread, if there is work for it and a place; whether there is."""
        if not self._queue or self._places < 1:
            return False
        self._running += 1
        try:
            self._threads.submit(self._work)
        except RuntimeError as error:
            # No more threads for now (a limit of processes, memory). What was submitted waits, and
            # is done when there is one.
            self._running -= 1
            self._late += 1
            _log.warning("crew.no_thread", because=str(error))
            return False
        return True

    def _count_no_more(self, service: Service) -> None:
        service.counted = False
        self._uncounted += 1
        self._engage()

    def _next(self) -> Service | None:
        """What this thread does now; None: it is one too many."""
        if not self._queue or self._places < 0:
            self._running -= 1
            if self._queue:
                self._loop.call_soon_threadsafe(self._look_soon)
            return None
        service = self._queue.pop()
        self._serving.add(service)
        service.begin()
        if service.lane.frame_seconds > SLOW_SECONDS:
            self._count_no_more(service)
        return service

    def _done(self, service: Service, cost: float, *, more: bool) -> None:
        self._serving.discard(service)
        if not service.counted:
            self._uncounted -= 1
        self._queue.spent(service.lane, cost + HOP_SECONDS)
        if more:
            self._queue.push(service.lane, service)

    # --- the threads --------------------------------------------------------------------------

    def _work(self) -> None:
        with self._lock:
            if self._late:
                self._late -= 1
                self._running += 1
            service = self._next()
        while service is not None:
            more = self._carry_out(service)
            cost = service.cost
            with self._lock:
                self._done(service, cost, more=more)
                service = self._next()

    @staticmethod
    def _carry_out(service: Service) -> bool:
        """Whether there is more of it; otherwise it has ended, and who waits for it knows."""
        try:
            more = service.work(service)
        except BaseException as error:  # noqa: BLE001 - told to who waits, as an executor does
            service.since = math.inf
            service.ended.set_exception(error)
            return False
        if not more:
            service.ended.set_result(None)
        return more
