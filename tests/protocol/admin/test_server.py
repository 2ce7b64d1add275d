"""The control socket end to end: a real socket, the real client, and raw lines.

The synchronous client runs in a thread, as it would in another process.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from protocol.admin import access
from protocol.admin.client import AdminClient
from protocol.admin.method import Final, Method
from protocol.admin.server import AdminServer
from protocol.errors import JOB_STATE, LocalFault, PeerFault

Scenario = Callable[[], Coroutine[Any, Any, None]]


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


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
    factory = uvloop.new_event_loop if request.param == "uvloop" else None

    def run_scenario(scenario: Scenario) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(20):
                await scenario()

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())

    return run_scenario


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


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


def test_a_call_and_its_result(run: Callable[[Scenario], None], path: Path) -> None:
    async def scenario() -> None:
        async with AdminServer(path, METHODS):
            with AdminClient(path, "replicad") as client:
                assert await asyncio.to_thread(client.call, "add", left=2, right=3) == {"sum": 5}
                assert await asyncio.to_thread(client.call, "add", left=2) == {"sum": 3}

    run(scenario)


def test_requests_of_one_connection_are_answered_in_order(
    run: Callable[[Scenario], None], path: Path
) -> None:
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


def test_a_stream_is_updates_and_then_a_result(run: Callable[[Scenario], None], path: Path) -> None:
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


def test_a_fault_comes_back_with_its_code_and_exit_code(
    run: Callable[[Scenario], None], path: Path
) -> None:
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
    run: Callable[[Scenario], None], path: Path, line: bytes, number: int, problem: str
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
def test_a_mistake_of_ours_is_one_answer_not_the_end(
    run: Callable[[Scenario], None], path: Path, method: str
) -> None:
    async def scenario() -> None:
        async with AdminServer(path, METHODS):
            answers = await ask(path, request(method), request("add", 2, left=1))
            assert answers[0]["error"]["code"] == -32603
            assert answers[0]["error"]["data"]["code"] == "RPL-1900"
            assert answers[1]["result"] == {"sum": 2}

    run(scenario)


def test_notifications_are_not_run(run: Callable[[Scenario], None], path: Path) -> None:
    async def scenario() -> None:
        hanging = Hanging()
        async with AdminServer(path, {**METHODS, "hang": Method(hanging.wait)}):
            line = b'{"jsonrpc": "2.0", "method": "hang"}\n'
            assert [a["id"] for a in await ask(path, line, request("add", 5, left=1))] == [5]
            assert not hanging.began.is_set()

    run(scenario)


def test_a_line_without_end_is_refused_before_it_is_held(
    run: Callable[[Scenario], None], path: Path
) -> None:
    def send_without_end() -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(path))
            sent = 0
            with suppress(BrokenPipeError):
                while sent < 64 << 20:
                    sent += client.send(b"x" * (1 << 18))
            # Two limits' worth is read ahead at most; the rest is what the kernel holds.
            assert sent < 4 << 20
            return client.recv(1 << 16)

    async def scenario() -> None:
        async with AdminServer(path, METHODS):
            answer = json.loads(await asyncio.to_thread(send_without_end))
            assert "longer than 1048576 bytes" in answer["error"]["message"]

    run(scenario)


@pytest.mark.parametrize("kind", ["wait", "watch"])
def test_a_client_that_goes_away_cancels_what_runs_for_it(
    run: Callable[[Scenario], None], path: Path, kind: str
) -> None:
    async def scenario() -> None:
        hanging = Hanging()
        async with AdminServer(path, {"hang": Method(getattr(hanging, kind))}):
            _reader, writer = await connect(path)
            writer.write(request("hang"))
            await hanging.began.wait()
            writer.transport.abort()
            await hanging.cancelled.wait()

    run(scenario)


def test_a_client_that_only_stops_talking_still_gets_its_answer(
    run: Callable[[Scenario], None], path: Path
) -> None:
    async def scenario() -> None:
        release = asyncio.Event()

        async def slow(_params: object) -> object:
            await release.wait()
            return "late"

        async with AdminServer(path, {"slow": Method(slow)}):
            reader, writer = await connect(path)
            writer.write(request("slow"))
            writer.write_eof()
            with AdminClient(path, "replicad") as other:
                await asyncio.to_thread(other.call, "rpc.methods")
            release.set()
            assert json.loads(await reader.readline())["result"] == "late"
            writer.close()
            await writer.wait_closed()

    run(scenario)


def test_closing_cancels_what_runs_and_removes_the_socket(
    run: Callable[[Scenario], None], path: Path
) -> None:
    async def scenario() -> None:
        hanging = Hanging()
        async with AdminServer(path, {"hang": Method(hanging.wait)}):
            reader, writer = await connect(path)
            writer.write(request("hang"))
            await hanging.began.wait()
        assert hanging.cancelled.is_set()
        assert await reader.read() == b""
        assert list(path.parent.iterdir()) == []
        writer.close()

    run(scenario)


def test_an_idle_connection_is_closed(run: Callable[[Scenario], None], path: Path) -> None:
    async def scenario() -> None:
        async with AdminServer(path, METHODS, idle_seconds=0.01):
            reader, writer = await connect(path)
            assert await reader.read() == b""
            writer.close()

    run(scenario)


def test_a_client_that_does_not_read_is_closed(run: Callable[[Scenario], None], path: Path) -> None:
    ended = asyncio.Event()

    async def flood(_params: object) -> AsyncIterator[object]:
        try:
            while True:
                yield "x" * 100_000
        finally:
            ended.set()

    async def scenario() -> None:
        async with AdminServer(path, {"flood": Method(flood)}, stalled_seconds=0.05):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.connect(str(path))
                client.send(request("flood"))
                await ended.wait()

    run(scenario)


def test_connections_beyond_the_limit_are_told_so(
    run: Callable[[Scenario], None], path: Path
) -> None:
    async def scenario() -> None:
        async with AdminServer(path, METHODS, most_connections=1):
            with AdminClient(path, "replicad") as first, AdminClient(path, "replicad") as second:
                await asyncio.to_thread(first.call, "add", left=1)
                with pytest.raises(PeerFault, match="RPL-3010"):
                    await asyncio.to_thread(second.call, "add", left=1)
                await asyncio.to_thread(first.call, "add", left=1)

    run(scenario)


def test_the_list_of_methods(run: Callable[[Scenario], None], path: Path) -> None:
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


def test_mode_and_directory(run: Callable[[Scenario], None], path: Path) -> None:
    async def scenario() -> None:
        async with AdminServer(path, METHODS):
            found = path.stat()
            assert stat.S_ISSOCK(found.st_mode)
            assert stat.S_IMODE(found.st_mode) == 0o660
            assert found.st_gid == os.getegid()
            assert stat.S_IMODE(path.parent.stat().st_mode) & 0o027 == 0

    run(scenario)


def test_the_socket_of_a_dead_daemon_is_replaced_and_of_a_living_one_is_not(
    run: Callable[[Scenario], None], path: Path
) -> None:
    async def scenario() -> None:
        path.parent.mkdir(0o750)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
            dead.bind(str(path))
        async with AdminServer(path, METHODS):
            with pytest.raises(LocalFault, match="RPL-1105"):
                await AdminServer(path, METHODS).start()
            with AdminClient(path, "replicad") as client:
                await asyncio.to_thread(client.call, "add", left=1)

    run(scenario)


def test_closing_leaves_the_socket_of_a_successor(
    run: Callable[[Scenario], None], path: Path
) -> None:
    async def scenario() -> None:
        first = AdminServer(path, METHODS)
        await first.start()
        path.unlink()
        async with AdminServer(path, METHODS):
            await first.close()
            assert path.exists()
        assert not path.exists()

    run(scenario)


def test_a_file_that_is_no_socket_is_left_alone(
    run: Callable[[Scenario], None], path: Path
) -> None:
    async def scenario() -> None:
        path.parent.mkdir(0o750)
        path.write_text("precious")
        with pytest.raises(LocalFault, match="no socket is there"):
            await AdminServer(path, METHODS).start()
        assert path.read_text() == "precious"

    run(scenario)


def test_paths_longer_than_a_socket_address(
    run: Callable[[Scenario], None], tmp_path: Path
) -> None:
    async def scenario() -> None:
        path = tmp_path / ("d" * 100) / ("e" * 100) / "control.sock"
        async with AdminServer(path, METHODS):
            with AdminClient(path, "replicad") as client:
                assert await asyncio.to_thread(client.call, "add", left=1) == {"sum": 2}

    run(scenario)


def test_an_unknown_group_is_a_configuration_error(
    run: Callable[[Scenario], None], path: Path
) -> None:
    async def scenario() -> None:
        with pytest.raises(LocalFault, match="no group named") as caught:
            await AdminServer(path, METHODS, "no-such-group").start()
        assert caught.value.exit_code == 2

    run(scenario)


def test_who_may_not_use_it_is_told_and_nothing_runs(
    run: Callable[[Scenario], None], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        hanging = Hanging()
        stranger = access.Peer(pid=1, uid=12345, groups=frozenset({54321}))
        monkeypatch.setattr(access, "peer_of", lambda _connection: stranger)
        async with AdminServer(path, {"hang": Method(hanging.wait)}):
            with AdminClient(path, "replicad") as client:
                with pytest.raises(PeerFault, match="RPL-1102: user id 12345") as caught:
                    await asyncio.to_thread(client.call, "hang")
            assert caught.value.exit_code == 3
            assert not hanging.began.is_set()

    run(scenario)
