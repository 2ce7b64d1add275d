"""Who waits for a checkpoint, until it is committed or will not be; or for a verification.

Whatever clears a job's wanted checkpoint must say so here, or somebody waits for ever: a
commit (:meth:`Waiting.done`), or anything else (:meth:`Waiting.failed`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Generic, TypeVar

from protocol.errors import Fault

Result = TypeVar("Result")


class Waiting(Generic[Result]):
    """Futures by job and request. Lives on the loop."""

    def __init__(self) -> None:
        self._waiters: dict[tuple[str, str], list[asyncio.Future[Result]]] = {}

    def __len__(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiters.values()))

    @contextlib.contextmanager
    def waiter(self, job: str, request: str) -> Iterator[asyncio.Future[Result]]:
        """A future that is told, as long as the block lasts.

        Enter it first and look at the catalog afterwards: what happens before the look is seen
        there, what happens after it is told here.
        """
        waiter: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        here = self._waiters.setdefault((job, request), [])
        here.append(waiter)
        try:
            yield waiter
        finally:
            here.remove(waiter)
            if not here:
                self._waiters.pop((job, request), None)
            if not waiter.cancel() and not waiter.cancelled():
                waiter.exception()  # nobody need hear of it any more

    def done(self, job: str, request: str, result: Result) -> None:
        """It is done: the checkpoint was committed."""
        for waiter in self._waiters.get((job, request), ()):
            if not waiter.done():
                waiter.set_result(result)

    def failed(self, job: str, fault: Fault, request: str | None = None) -> None:
        """It will not be done; ``request`` None: whichever was wanted of the job."""
        for (waited, asked), waiters in self._waiters.items():
            if waited == job and request in {None, asked}:
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_exception(fault)
