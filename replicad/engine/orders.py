"""The receiver's order as it stands, and the wait for another one.

An order that is said again after a reconnection counts as another one: whoever waits looks
again. Nobody can miss one: a waiter names the order that it has seen.
"""

from __future__ import annotations

import asyncio
import contextlib

from protocol.wire.jobs import JobOrder


class Orders:
    """The newest order.

    Attributes:
        now: what is wanted.
    """

    def __init__(self) -> None:
        self.now = JobOrder(revision=0, want="none")
        self._changed = asyncio.Event()

    def put(self, order: JobOrder) -> None:
        """A newer order, or the same again."""
        self.now = order
        self._changed.set()
        self._changed = asyncio.Event()

    async def newer(self, seen: JobOrder, seconds: float | None = None) -> None:
        """Until there is another order than ``seen``, or ``seconds`` have passed."""
        if self.now is not seen:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def wants(self, job: str) -> bool:
        """Whether this job is to run."""
        return self.now.want == "run" and self.now.job == job
