"""The control sockets of both daemons, and what a command makes of the answers."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import msgspec
from hypothesis import strategies as st
from rich.console import Console

from protocol import views
from protocol.admin import rpc
from protocol.admin.method import Final, Method
from protocol.admin.server import AdminServer
from protocol.errors import Fault, PeerFault
from protocol.local import draw
from protocol.local.door import SHAPES
from receiver.control import Control
from receiver.jobs.spec import JobSpec, edited
from receiver.params import CreateJob, SetJob
from replicad.commands import Commands
from tests.fuzz.registry import target
from tests.fuzz.shapes import as_json, of_type

SPEC = JobSpec(source="web01", disks=("/dev/vda",))
ANYTHING: Any = None


async def _carried_out(params: Any) -> object:
    """In place of a method: what it would first do with its parameters."""
    if isinstance(params, CreateJob):
        params.spec()
    elif isinstance(params, SetJob):
        edited(SPEC, params.changes)
    return params


async def _streamed(params: Any) -> AsyncIterator[object]:
    yield params
    yield Final(params)


@functools.cache
def methods() -> dict[str, Method[Any]]:
    """The real methods of both daemons by name, their types kept and their work taken out."""
    real: dict[str, Method[Any]] = {
        **Control(ANYTHING, ANYTHING, ANYTHING).methods(),
        **Commands(ANYTHING).methods(),
    }
    return {
        name: Method(_streamed if name.endswith("watch") else _carried_out, each.params, "x")
        for name, each in real.items()
    }


@functools.cache
def _server() -> AdminServer:
    return AdminServer(Path("/nowhere/control.sock"), methods())


def _call(method: str, params: dict[str, Any]) -> bytes:
    return rpc.request_line(method, params, 1).rstrip(b"\n")


def _calls() -> list[bytes]:
    job = {"source": "web01", "disks": ["/dev/vda"], "start": {"kind": "now"}}
    return [
        *(_call(name, {}) for name in methods()),
        _call("job.create", job),
        _call("job.set", {"job": "j", "changes": {"bandwidth": 1, "every": None, "keep": 3}}),
        b"[]",
        b'[{"jsonrpc":"2.0","method":"status","id":1}]',
        b'{"jsonrpc":"2.0","method":"status"}',
        b"[" * 3000,
        b'{"jsonrpc":"2.0","method":"limit","params":{"bandwidth":1e400},"id":1}',
        b'{"jsonrpc":"2.0","method":"limit","params":{"bandwidth":' + b"9" * 5000 + b'},"id":1}',
        b'{"jsonrpc":"2.0","method":"x\\u0000\\ud800","params":{},"id":"\\u001b"}',
    ]


def _shaped_calls() -> st.SearchStrategy[bytes]:
    def call(name: str) -> st.SearchStrategy[bytes]:
        fixed = {"jsonrpc": st.just("2.0"), "method": st.just(name)}
        id_ = st.integers() | st.text(max_size=3) | st.none()
        rest = {"params": of_type(methods()[name].params), "id": id_}
        return st.fixed_dictionaries({**fixed, **rest}).map(as_json)

    return st.sampled_from(sorted(methods())).flatmap(call)


@target(seeds=_calls, shaped=_shaped_calls)
def admin_request(data: bytes) -> None:
    """A line of a client: one answer that is a line, never a bug of ours."""
    # Nothing in it waits, so it needs no loop; making one would be most of the work.
    with contextlib.suppress(StopIteration):
        _request(data.replace(b"\n", b" ")).send(None)
        raise AssertionError("a method without its work waited for something")


async def _request(line: bytes) -> None:
    async with contextlib.aclosing(_server()._answers(line)) as answers:
        async for answer in answers:
            assert answer.endswith(b"\n")
            assert answer.count(b"\n") == 1
            said = msgspec.json.decode(answer)
            error = said.get("error") or {}
            assert error.get("code") != rpc.INTERNAL_ERROR, error


@target(
    seeds=lambda: [
        rpc.result_line(1, {"a": [1]}),
        rpc.update_line("status", 1, {}),
        rpc.error_line(1, PeerFault("RPL-3001", "x", "y")),
        b'{"error":{"code":1,"message":"","data":{"code":"\\u001b","message":"","exit":9}},"id":1}',
    ]
)
def admin_answer(data: bytes) -> None:
    """A line of something that is not our daemon."""
    try:
        found = rpc.parse_answer(data, 1)
    except PeerFault as fault:
        assert fault.sentence.isprintable(), fault.sentence
        return
    assert isinstance(found, rpc.Update | rpc.Result)


def _shape(drawing: str) -> Any:
    # the shapes are written as they stand in an annotation
    from protocol.wire.jobs import DiskInfo

    return eval(SHAPES[drawing], {**vars(views), "DiskInfo": DiskInfo})


DRAWINGS = sorted(SHAPES)


def _shaped_views() -> st.SearchStrategy[bytes]:
    def view(number: int) -> st.SearchStrategy[bytes]:
        return of_type(_shape(DRAWINGS[number])).map(lambda it: bytes([number]) + as_json(it))

    return st.integers(0, len(DRAWINGS) - 1).flatmap(view)


@target(
    seeds=lambda: [bytes([number]) + b"[]" for number in range(len(DRAWINGS))], shaped=_shaped_views
)
def drawing(data: bytes) -> None:
    """An answer as a command draws it: whatever a peer put in, no terminal obeys it."""
    if not data or data[0] >= len(DRAWINGS):
        return
    name = DRAWINGS[data[0]]
    try:
        view = msgspec.json.decode(data[1:], type=_shape(name))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    out = io.StringIO()
    console = Console(file=out, width=200, highlight=False)
    with contextlib.suppress(Fault):
        console.print(cast(Any, getattr(draw, name))(view))
    printed = out.getvalue()
    assert not any((c < " " and c != "\n") or c == "\x7f" for c in printed), printed
