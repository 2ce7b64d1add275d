"""A daemon's methods for the tests of the control socket, and raw clients of it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import msgspec

from protocol.admin.method import Final, Method
from protocol.errors import JOB_STATE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    Scenario = Callable[[], Coroutine[Any, Any, None]]
    Run = Callable[[Scenario], None]


class Add(msgspec.Struct, frozen=True):
    left: int
    right: int = 1


class Hanging:
    """A method that never ends by itself, and says when it began and was cancelled."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def wait(self, _params: object) -> object:
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        return None

    async def watch(self, _params: object) -> AsyncIterator[object]:
        self.began.set()
        try:
            yield {"first": True}
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()


async def add(params: Add) -> object:
    """Adds two numbers."""
    return {"sum": params.left + params.right}


async def count(params: Add) -> AsyncIterator[object]:
    for number in range(params.left):
        yield number
    yield Final("done")


async def refuse(_params: object) -> object:
    raise JOB_STATE.fault(job="j1", state="paused", action="paused")


async def fail(_params: object) -> object:
    raise KeyError("x")


async def unencodable(_params: object) -> object:
    return object()


METHODS: dict[str, Method[Any]] = {
    "add": Method(add, Add),
    "count": Method(count, Add),
    "refuse": Method(refuse),
    "fail": Method(fail),
    "unencodable": Method(unencodable),
}


async def connect(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_unix_connection(str(path), limit=1 << 22)


async def ask(path: Path, *lines: bytes) -> list[dict[str, Any]]:
    """Send lines, say that there are no more, and read all answers."""
    reader, writer = await connect(path)
    writer.writelines(lines)
    writer.write_eof()
    answers = (await reader.read()).splitlines()
    writer.close()
    await writer.wait_closed()
    return [json.loads(answer) for answer in answers]


def request(method: str, id_: object = 1, **params: object) -> bytes:
    message = {"jsonrpc": "2.0", "id": id_, "method": method, "params": params}
    return json.dumps(message).encode() + b"\n"
