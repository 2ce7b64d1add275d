"""Who is served next: start-time fair queueing. Pure.

Each session has a lane. What its work costs moves the *start* of its next work back, and the work
with the earliest start is served next. A lane that was empty begins at the start that is being
served now: it has not saved up for later, nor need it make good what others had before it came. So
lanes that always have work get equal parts of whatever is counted, to within what one piece of work
costs on each, and nobody waits longer than one piece of every other lane takes.

Source: Goyal, Vin and Cheng, "Start-time Fair Queuing" (SIGCOMM 1996). What a piece costs is known
when it has been done. Until then it counts as if it cost what is expected, so that a lane's second
piece does not start beside its first while others wait.
"""

from __future__ import annotations

import heapq
from collections import deque
from itertools import count
from typing import Generic, TypeVar

Work = TypeVar("Work")


class Lane(Generic[Work]):
    """What of one session waits. Its owner's; a queue knows it only while something waits.

    Attributes:
        start: when the next piece is due, in the unit of what is spent.
        waiting: pieces, in the order in which they came.
        entry: number of its valid entry in a queue's heap.
    """

    def __init__(self) -> None:
        self.start = 0.0
        self.waiting: deque[Work] = deque()
        self.entry = -1


class FairQueue(Generic[Work]):
    """Pieces of work of several lanes. ``len()``: how many wait.

    Args:
        expected: what a piece is thought to cost until :meth:`spent` says it.
    """

    def __init__(self, expected: float) -> None:
        self._expected = expected
        self._entries: list[tuple[float, int, Lane[Work]]] = []
        self._numbers = count()
        self._now = 0.0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, lane: Lane[Work], work: Work) -> None:
        """Work waits, behind what of its lane waits already."""
        lane.waiting.append(work)
        self._size += 1
        if len(lane.waiting) == 1:
            lane.start = max(lane.start, self._now)
            self._enter(lane)

    def pop(self) -> Work:
        """The next piece. :meth:`spent` is to be called when it has been done.

        Raises IndexError when nothing waits.
        """
        while True:
            _, number, lane = heapq.heappop(self._entries)
            if number == lane.entry and lane.waiting:
                break
        work = lane.waiting.popleft()
        self._size -= 1
        self._now = max(self._now, lane.start)
        self._move(lane, self._expected)
        return work

    def spent(self, lane: Lane[Work], cost: float) -> None:
        """What a piece has cost that was popped."""
        self._move(lane, cost - self._expected)

    def withdraw(self, lane: Lane[Work], work: Work) -> bool:
        """Take back what waits; False when it does not."""
        if work not in lane.waiting:
            return False
        lane.waiting.remove(work)
        self._size -= 1
        return True

    def _move(self, lane: Lane[Work], by: float) -> None:
        lane.start += by
        if lane.waiting:
            self._enter(lane)

    def _enter(self, lane: Lane[Work]) -> None:
        """At its start, and nowhere else: an earlier entry is no longer valid. Of two lanes with
        the same start the one that entered first is next."""
        lane.entry = next(self._numbers)
        heapq.heappush(self._entries, (lane.start, lane.entry, lane))
