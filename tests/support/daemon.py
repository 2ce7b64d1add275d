"""A daemon that only answers: the real control socket with recorded answers behind it.

The methods take the parameters that the real daemons take, so a command that sends another one
is refused here as it would be there.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from protocol.admin.method import Final, Method
from protocol.admin.server import AdminServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

JOB = [("job", str)]
ORDER = [("wait", bool), ("hold", bool, False)]
VERIFY = [("wait", bool), ("repair", bool, False)]
CREATE = [
    ("source", str),
    ("name", str | None),
    ("disks", tuple[str, ...]),
    ("targets", tuple[dict[str, str], ...]),
    ("start", dict[str, str | None]),
    ("every", float | None),
    ("keep", int),
    ("bandwidth", int),
    ("compress", str),
    ("free_space", str),
    ("freeze_budget", float),
    ("valid_seconds", float | None),
]
RECEIVER: dict[str, list[Any]] = {
    "activation.create": [("uses", int), ("valid_seconds", float)],
    "activation.list": [],
    "source.list": [],
    "source.show": [("name", str)],
    "source.forget": [("name", str)],
    "job.create": CREATE,
    "job.list": [],
    **{f"job.{name}": JOB for name in ("show", "start", "pause", "resume", "retry", "cancel")},
    "job.delete": JOB,
    "job.set": [*JOB, ("changes", dict[str, Any])],
    "job.checkpoint": [*JOB, *ORDER],
    "job.cutover": [*JOB, ("wait", bool)],
    "job.verify": [*JOB, *VERIFY],
    "disk.list": [("job", str | None)],
    "disk.path": [*JOB, ("disk", str)],
}
REPLICAD: dict[str, list[Any]] = {
    "status": [],
    "status.watch": [],
    "pause": [],
    "resume": [],
    "limit": [("bandwidth", int)],
    "checkpoint": ORDER,
    "cutover": [("wait", bool)],
    "verify": VERIFY,
}


@dataclass(slots=True)
class Recorded:
    """``answers`` by method: a value, an exception to raise, or :class:`Updates`."""

    answers: dict[str, Any] = field(default_factory=dict)
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def method(self, name: str, params: list[Any]) -> Method[Any]:
        """The method that records its call and gives the recorded answer."""
        shape = msgspec.defstruct(f"Params_{name}", params, frozen=True)

        async def run(given: msgspec.Struct) -> AsyncIterator[object]:
            self.calls.append((name, msgspec.json.decode(msgspec.json.encode(given))))
            answer = self.answers[name]
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, Updates):
                for update in answer.updates:
                    yield update
                if answer.hangs:
                    await asyncio.Event().wait()
                answer = answer.result
            yield Final(answer)

        return Method(run, shape)


@dataclass(frozen=True, slots=True)
class Updates:
    """A streaming answer; ``hangs``: the result never comes."""

    updates: tuple[object, ...]
    result: object = None
    hangs: bool = False


@contextlib.contextmanager
def answering(socket: Path, methods: dict[str, list[Any]]) -> Iterator[Recorded]:
    """A daemon at ``socket`` for as long as the block runs."""
    recorded = Recorded()
    offered = {name: recorded.method(name, params) for name, params in methods.items()}
    ready, ended = threading.Event(), threading.Event()
    stop: list[Any] = []

    async def serve() -> None:
        until = asyncio.Event()
        stop.append((asyncio.get_running_loop(), until))
        async with AdminServer(socket, offered):
            ready.set()
            await until.wait()
        ended.set()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield recorded
    finally:
        loop, until = stop[0]
        loop.call_soon_threadsafe(until.set)
        thread.join(10)
        assert ended.is_set()
