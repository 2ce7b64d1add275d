"""What the sender threads do next, and what of it has not been answered yet.

A :class:`Feed` hands pieces of work to sender threads. It is *driven*: the engine gives it a
function that takes more from the dirty maps, and waits until that function has nothing more
and everything handed out has come back as a durable answer. Work exists from the moment its
batch is in flight until it is answered or lost, so the outstanding set is the only list of
what a lost connection takes with it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from replicad.comparison import Answer
from replicad.inflight import Stopped

if TYPE_CHECKING:
    from replicad.dirtymap import Batch
    from replicad.jobdisk import JobDisk

Stage = Literal["data", "coarse", "fine"]
Refill = Callable[[], Sequence["Work"]]


@dataclass(slots=True, eq=False)
class Work:
    """One batch on its way. ``ranges`` are bytes (offset, length) of the disk, ``size`` how many
    they are: what counts against the window.

    ``frozen``: the content, when it was read while the source was frozen; let go of as soon as
    nobody can want it, for it holds all that was reserved for the freeze. ``zeros``: bytes of
    the content that turned out to be zero. ``answer``: the receiver's, to digests, once it has
    come. ``verdict``: of a verification, who is told which ranges differ; the dirty map is not.
    """

    disk: JobDisk
    batch: Batch
    stage: Stage
    ranges: Sequence[tuple[int, int]]
    frozen: memoryview | None = field(default=None, repr=False)
    zeros: int = 0
    answer: Answer | None = field(default=None, repr=False)
    verdict: Callable[[Work, Sequence[tuple[int, int]]], None] | None = field(
        default=None, repr=False
    )
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.narrow(self.batch, self.ranges)

    def narrow(self, batch: Batch, ranges: Sequence[tuple[int, int]]) -> None:
        """From now on it is this batch and these ranges."""
        self.batch, self.ranges = batch, ranges
        self.size = ranges[0][1] if len(ranges) == 1 else sum(length for _, length in ranges)

    def closer(self, answer: Answer) -> Work:
        """What comes next for it: to compare the small blocks of what differs."""
        ranges = answer.ranges
        return Work(self.disk, self.batch, "fine", ranges, answer=answer, verdict=self.verdict)

    def lost(self) -> None:
        """No answer will come. What is being verified lacks nothing because of that."""
        if self.verdict is None:
            self.disk.live_map.lost(self.batch)


class Feed:
    """Work for sender threads. Threads call :meth:`next`; everything else is the loop's."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        # Taken for each frame: a lock is one call in C, its condition a dozen in Python.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._ready: deque[Work] = deque()
        self._refill: Refill | None = None
        self._outstanding: dict[Batch, Work] = {}
        self._idle: asyncio.Future[None] | None = None
        self._stopped = False
        self._at_work = 1 << 30

    @property
    def outstanding(self) -> int:
        """Pieces of work that were taken from the maps and not answered."""
        return len(self._outstanding)

    # --- the loop's side --------------------------------------------------------------------

    async def drive(self, refill: Refill) -> None:
        """Hand out what ``refill`` gives until it gives nothing and all of it is answered."""
        with self._lock:
            self._refill = refill
            self._idle = self._loop.create_future()
            self._changed.notify_all()
        try:
            await self._idle
        finally:
            with self._lock:
                self._refill = None
                self._idle = None

    def push(self, work: Work) -> None:
        """More to do for a batch that is outstanding already: to look closer at what differs."""
        with self._lock:
            self._ready.append(work)
            self._outstanding[work.batch] = work
            self._changed.notify_all()  # one of them may not be at work

    def let_work(self, senders: int) -> None:
        """So many senders work from now on, those with the lowest numbers; the others finish what
        they have and then wait."""
        with self._lock:
            more, self._at_work = senders > self._at_work, senders
            if more:
                self._changed.notify_all()

    def find(self, batch: Batch) -> Work:
        """The work that a batch belongs to."""
        return self._outstanding[batch]

    def shrink(self, work: Work, batch: Batch | None, ranges: Sequence[tuple[int, int]]) -> None:
        """A sender could not read all of it: from now on it is this batch and these ranges; with
        None there is nothing left of it, and nothing to wait for."""
        with self._lock:
            del self._outstanding[work.batch]
            if batch is None:
                self._settle()
                return
            work.narrow(batch, ranges)
            self._outstanding[batch] = work

    def answered(self, work: Work) -> None:
        """The receiver's durable answer has been carried into the map."""
        with self._lock:
            del self._outstanding[work.batch]
            work.frozen = None
            self._settle()

    def stop(self) -> list[Work]:
        """Wake and end all senders; returns the work that no sender had begun."""
        with self._lock:
            self._stopped = True
            self._refill = None
            unsent = list(self._ready)
            self._ready.clear()
            for work in unsent:
                del self._outstanding[work.batch]
            self._changed.notify_all()
        return unsent

    def forget_content(self) -> None:
        """After the senders have ended: nothing is sent any more, so no content is needed."""
        with self._lock:
            for work in self._outstanding.values():
                work.frozen = None

    def abandon(self) -> list[Work]:
        """After the senders have ended: everything that was sent and not answered."""
        with self._lock:
            left = list(self._outstanding.values())
            self._outstanding.clear()
        return left

    def _settle(self) -> None:
        """With the lock held: is the drive over?"""
        if self._refill is None and not self._outstanding and self._idle is not None:
            self._loop.call_soon_threadsafe(_finish, self._idle)

    # --- the senders' side ------------------------------------------------------------------

    def next(self, wait: bool, sender: int = 0) -> Work | None:
        """The next piece of work. None: there is none now (``wait`` false), which is the
        moment to ask the receiver to sync.

        Args:
            sender: number of the sender that asks, from 0.

        Raises:
            Stopped: the feed has been stopped.
        """
        with self._lock:
            while not self._stopped:
                if sender < self._at_work:
                    if not self._ready and self._refill is not None:
                        self._take_more()
                    if self._ready:
                        return self._ready.popleft()
                if not wait:
                    return None
                self._changed.wait()
            raise Stopped

    def _take_more(self) -> None:
        assert self._refill is not None
        taken = self._refill()
        if not taken:
            self._refill = None
            self._settle()
            return
        self._ready.extend(taken)
        self._outstanding.update((work.batch, work) for work in taken)
        if len(taken) > 1:
            self._changed.notify_all()


def _finish(idle: asyncio.Future[None]) -> None:
    if not idle.done():
        idle.set_result(None)
