"""A clock, event loops and threads that stand still until a test moves them.

Two loops (the two daemons) share one :class:`Clock`. A loop never waits: :meth:`SteppedLoop.settle`
runs what is ready and returns. What a daemon hands to a pool of threads lies in a
:class:`ManualExecutor` until the test runs it, so any order of threads can be played, and replayed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from typing import Any

from protocol.errors import Fault


class Clock:
    """Seconds. Stands in for the module ``time`` too."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


class SteppedLoop(asyncio.SelectorEventLoop):
    """An event loop on a :class:`Clock`. Its default executor runs everything at once."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def time(self) -> float:
        return self._clock.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Any, *args: Any
    ) -> Any:
        """In this thread, at once, unless a pool is named."""
        if executor is not None:
            return super().run_in_executor(executor, func, *args)
        found = self.create_future()
        try:
            found.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - as a pool would
            found.set_exception(error)
        return found

    def settle(self) -> bool:
        """Run until nothing is ready; whether anything was."""
        busy = False
        while self._ready or self._due() or self._selector.select(0):  # type: ignore[attr-defined]
            busy = True
            self.call_soon(self.stop)
            self.run_forever()
        return busy

    def _due(self) -> bool:
        timers = self._scheduled  # type: ignore[attr-defined]
        return bool(timers) and timers[0]._when <= self._clock.now

    def do(self, work: Callable[[], Any]) -> Any:
        """Call ``work`` on the loop."""

        async def call() -> Any:
            return work()

        return self.run_until_complete(call())

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task; see :meth:`settle`."""
        return self.create_task(work)

    def kill(self) -> None:
        """End every task; none of them may do anything any more."""
        for _ in range(20):
            if not (tasks := asyncio.all_tasks(self)):
                break
            for task in tasks:
                task.cancel()
            self.settle()
        for task in asyncio.all_tasks(self):
            raise AssertionError(f"{task} does not end")
        self.close()


class ManualExecutor(Executor):
    """Calls that wait for the test. ``on_bug`` is told of what is no documented fault."""

    def __init__(self, on_bug: Callable[[BaseException], None]) -> None:
        self.waiting: list[tuple[Future[Any], Callable[[], Any]]] = []
        self._on_bug = on_bug

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        found: Future[Any] = Future()
        self.waiting.append((found, lambda: fn(*args, **kwargs)))
        return found

    def run(self, which: int) -> None:
        """Run the call at this place of the queue."""
        found, call = self.waiting.pop(which)
        if not found.set_running_or_notify_cancel():
            return
        try:
            result = call()
        except Fault as fault:
            found.set_exception(fault)
        except Exception as error:  # noqa: BLE001 - reported, and handed on as a pool would
            self._on_bug(error)
            found.set_exception(error)
        else:
            found.set_result(result)


class SteppedService:
    """A thread's view of its work: it makes way after two frames."""

    others_wait = False

    def __init__(self) -> None:
        self._frames = 0

    def frame_begins(self) -> None:
        self._frames += 1

    def frame_ended(self) -> None:
        pass

    def sleep(self, seconds: float) -> None:
        """The test's clock goes on by itself."""

    @property
    def over(self) -> bool:
        return self._frames >= 2


class SteppedLane:
    """Instead of :class:`receiver.crew.SessionLane`: the test says which piece is next."""

    def __init__(self, jobs: ManualExecutor) -> None:
        self._jobs = jobs

    def serve(self, work: Callable[[Any], bool]) -> asyncio.Future[None]:
        ended: Future[None] = Future()
        ended.set_running_or_notify_cancel()

        def some() -> None:
            try:
                more = work(SteppedService())
            except BaseException as error:
                ended.set_exception(error)
                raise
            if more:
                self._jobs.submit(some)
            else:
                ended.set_result(None)

        self._jobs.submit(some)
        return asyncio.wrap_future(ended)

    def withdraw(self, work: Callable[[Any], bool]) -> None:
        """What waits is done when the test says so: a fence has to wait for it."""
