"""What is said on the control socket: calls, streams, errors; real sockets and the real client.

The synchronous client runs in a thread, as it would in another process.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from protocol.admin.client import AdminClient
from protocol.admin.method import Method
from protocol.admin.server import AdminServer
from protocol.errors import PeerFault
from tests.protocol.admin.stand_in import METHODS, Hanging, ask, request

if TYPE_CHECKING:
    from pathlib import Path

    from tests.protocol.admin.stand_in import Run


def test_a_call_and_its_result(run: Run, path: Path) -> None:
    async def scenario() -> None:
        async with AdminServer(path, METHODS):
            with AdminClient(path, "replicad") as client:
                assert await asyncio.to_thread(client.call, "add", left=2, right=3) == {"sum": 5}
                assert await asyncio.to_thread(client.call, "add", left=2) == {"sum": 3}

    run(scenario)


def test_requests_of_one_connection_are_answered_in_order(run: Run, path: Path) -> None:
    async def scenario() -> None:
        async with AdminServer(path, METHODS):
            answers = await ask(
                path,
                request("add", 1, left=1),
                b"\n",
                request("add", "two", left=2),
                request("add", None, left=3).rstrip(b"\n"),  # without its newline
            )
            assert [(answer["id"], answer["result"]["sum"]) for answer in answers] == [
                (1, 2),
                ("two", 3),
                (None, 4),
            ]

    run(scenario)


def test_a_stream_is_updates_and_then_a_result(run: Run, path: Path) -> None:
    async def scenario() -> None:
        async with AdminServer(path, METHODS):
            answers = await ask(path, request("count", 7, left=2))
            assert answers == [
                {"jsonrpc": "2.0", "method": "count.update", "params": {"id": 7, "value": 0}},
                {"jsonrpc": "2.0", "method": "count.update", "params": {"id": 7, "value": 1}},
                {"jsonrpc": "2.0", "result": "done", "id": 7},
            ]
            with AdminClient(path, "replicad") as client:
                stream = client.stream("count", left=3)
                assert await asyncio.to_thread(list, stream) == [0, 1, 2]
                assert stream.result == "done"
                assert await asyncio.to_thread(client.call, "count", left=3) == "done"

    run(scenario)


def test_a_fault_comes_back_with_its_code_and_exit_code(run: Run, path: Path) -> None:
    async def scenario() -> None:
        async with AdminServer(path, METHODS):
            (answer,) = await ask(path, request("refuse"))
            assert answer["error"]["code"] == -32000
            assert answer["error"]["data"] == {
                "code": "RPL-4005",
                "message": "job j1 is paused: it cannot be paused now",
                "remedy": "See 'receiver job show' for what the job is doing.",
                "exit": 3,
            }
            with AdminClient(path, "replicad") as client:
                with pytest.raises(PeerFault, match="RPL-4005: job j1 is paused") as caught:
                    await asyncio.to_thread(client.call, "refuse")
                assert caught.value.exit_code == 3
                # The connection is still good.
                assert await asyncio.to_thread(client.call, "add", left=1) == {"sum": 2}

    run(scenario)


@pytest.mark.parametrize(
    ("line", "number", "problem"),
    [
        (b"{nonsense\n", -32700, "the line is not JSON"),
        (b"\xff\xfe\n", -32700, "the line is not JSON"),
        (b"[" * 100_000 + b"\n", -32700, "nested too deeply"),
        (b"[" + request("add", left=1).strip() + b"]\n", -32600, "batches are not taken"),
        (b"3\n", -32600, "a request is an object"),
        (b'{"id": 1, "method": "add"}\n', -32600, '"jsonrpc" must be "2.0"'),
        (b'{"jsonrpc": "2.0", "id": 1, "method": 3}\n', -32600, '"method" must be text'),
        (b'{"jsonrpc": "2.0", "id": true, "method": "add"}\n', -32600, '"id" must be'),
        (
            b'{"jsonrpc": "2.0", "id": 1, "method": "add", "params": [1]}\n',
            -32602,
            '"params" must be',
        ),
        (request("sub"), -32601, "there is no method 'sub'"),
        (request("add", lefft=1), -32602, "no parameter lefft; it takes left, right"),
        (request("refuse", x=1), -32602, "no parameter x; it takes none"),
        (request("add"), -32602, "missing required field `left`"),
        (request("add", left="1"), -32602, "Expected `int`, got `str`"),
    ],
)
def test_requests_that_are_none(
    run: Run, path: Path, line: bytes, number: int, problem: str
) -> None:
    async def scenario() -> None:
        async with AdminServer(path, METHODS):
            (answer, after) = await ask(path, line, request("add", 2, left=1))
            assert answer["error"]["code"] == number
            assert problem in answer["error"]["message"]
            assert answer["error"]["data"]["code"] == "RPL-1103"
            assert answer["error"]["data"]["exit"] == 2
            assert after["result"] == {"sum": 2}

    run(scenario)


@pytest.mark.parametrize("method", ["fail", "unencodable"])
def test_a_mistake_of_ours_is_one_answer_not_the_end(run: Run, path: Path, method: str) -> None:
    async def scenario() -> None:
        async with AdminServer(path, METHODS):
            answers = await ask(path, request(method), request("add", 2, left=1))
            assert answers[0]["error"]["code"] == -32603
            assert answers[0]["error"]["data"]["code"] == "RPL-1900"
            assert answers[1]["result"] == {"sum": 2}

    run(scenario)


def test_notifications_are_not_run(run: Run, path: Path) -> None:
    async def scenario() -> None:
        hanging = Hanging()
        async with AdminServer(path, {**METHODS, "hang": Method(hanging.wait)}):
            line = b'{"jsonrpc": "2.0", "method": "hang"}\n'
            assert [a["id"] for a in await ask(path, line, request("add", 5, left=1))] == [5]
            assert not hanging.began.is_set()

    run(scenario)


def test_the_list_of_methods(run: Run, path: Path) -> None:
    async def scenario() -> None:
        async with AdminServer(path, METHODS):
            with AdminClient(path, "replicad") as client:
                listed = await asyncio.to_thread(client.call, "rpc.methods")
            by_name = {entry["method"]: entry for entry in listed}
            assert set(by_name) == {*METHODS, "rpc.methods"}
            assert by_name["add"] == {
                "method": "add",
                "doc": "Adds two numbers.",
                "params": [
                    {"name": "left", "type": "int", "required": True},
                    {"name": "right", "type": "int", "required": False, "default": 1},
                ],
            }

    run(scenario)
