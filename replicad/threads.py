"""Cancellation that waits: for a thread's end, for a task's end.

Cancelling a task does not end the thread that it waits for. Where that thread freezes, takes
from a dirty map or reads into memory, what comes after the cancellation (thaw, give back, free)
must wait for it; otherwise both happen at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

Answer = TypeVar("Answer")
Given = TypeVarTuple("Given")


async def to_end(
    executor: Executor | None, function: Callable[[*Given], Answer], *given: *Given
) -> Answer:
    """Run ``function`` in a thread. When cancelled meanwhile, it ends first, whatever it raises."""
    work = asyncio.get_running_loop().run_in_executor(executor, function, *given)
    if await _wait(work):
        if not work.cancelled():
            work.exception()
        raise asyncio.CancelledError
    return work.result()


async def ended(task: asyncio.Task[Any]) -> BaseException | None:
    """Cancel a task and wait for its end; what it raised, if that was not the cancellation."""
    task.cancel()
    cancelled = await _wait(task)
    found = None if task.cancelled() else task.exception()
    if cancelled:
        raise asyncio.CancelledError
    return found


async def all_ended(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait for the end of all; what they raised is forgotten."""
    for task in tasks:
        task.cancel()
    if await _wait(asyncio.gather(*tasks, return_exceptions=True)):
        raise asyncio.CancelledError


async def _wait(work: asyncio.Future[Any]) -> bool:
    """Wait for the end; whether somebody has cancelled us meanwhile, any number of times."""
    cancelled = False
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            cancelled = True
    return cancelled
