"""The control socket's connections and its file: who comes, who leaves, what is left behind."""

from __future__ import annotations

import asyncio
import grp
import json
import os
import socket
import stat
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import msgspec
import pytest

from protocol.admin import access
from protocol.admin.client import AdminClient
from protocol.admin.method import Method
from protocol.admin.server import AdminServer
from protocol.errors import LocalFault, PeerFault
from tests.protocol.admin.stand_in import METHODS, Hanging, connect, request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.protocol.admin.stand_in import Run


class Size(msgspec.Struct):
    size: int


def test_a_line_without_end_is_refused_before_it_is_held(run: Run, path: Path) -> None:
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
def test_a_client_that_goes_away_cancels_what_runs_for_it(run: Run, path: Path, kind: str) -> None:
    async def scenario() -> None:
        hanging = Hanging()
        async with AdminServer(path, {"hang": Method(getattr(hanging, kind))}):
            _reader, writer = await connect(path)
            writer.write(request("hang"))
            await hanging.began.wait()
            writer.transport.abort()
            await hanging.cancelled.wait()

    run(scenario)


def test_a_client_that_only_stops_talking_still_gets_its_answer(run: Run, path: Path) -> None:
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


def test_closing_cancels_what_runs_and_removes_the_socket(run: Run, path: Path) -> None:
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


def test_an_idle_connection_is_closed(run: Run, path: Path) -> None:
    async def scenario() -> None:
        async with AdminServer(path, METHODS, idle_seconds=0.01):
            reader, writer = await connect(path)
            assert await reader.read() == b""
            writer.close()

    run(scenario)


def test_a_client_that_does_not_read_is_closed(run: Run, path: Path) -> None:
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


def test_a_last_answer_that_is_not_read_leaves_nothing_behind(run: Run, path: Path) -> None:
    begun, everybody = 0, asyncio.Event()

    async def answer(params: Size) -> object:
        nonlocal begun
        begun += 1
        if begun == 10:
            everybody.set()
        await everybody.wait()
        return "x" * params.size

    async def scenario() -> None:
        server = AdminServer(path, {"answer": Method(answer, Size)}, stalled_seconds=0.05)
        async with server:
            with ExitStack() as clients:
                # Around what a socket holds, so that some answers end up partly with us.
                for size in range(150_000, 350_000, 20_000):
                    client = clients.enter_context(socket.socket(socket.AF_UNIX))
                    client.connect(str(path))
                    client.send(request("answer", size=size))
                    client.shutdown(socket.SHUT_WR)
                await everybody.wait()
                await asyncio.gather(*server._tasks)

    run(scenario)


def test_connections_beyond_the_limit_are_told_so(run: Run, path: Path) -> None:
    """When all others have something that runs for them."""

    async def scenario() -> None:
        hanging = Hanging()
        methods = {**METHODS, "hang": Method(hanging.wait)}
        async with AdminServer(path, methods, most_connections=1):
            _reader, writer = await connect(path)
            writer.write(request("hang"))
            await hanging.began.wait()
            with AdminClient(path, "replicad") as second:
                with pytest.raises(PeerFault, match="RPL-3010"):
                    await asyncio.to_thread(second.call, "add", left=1)
            assert not hanging.cancelled.is_set()
            writer.transport.abort()

    run(scenario)


def test_a_flood_of_idle_connections_keeps_nobody_out(run: Run, path: Path) -> None:
    """The one that asked nothing for longest makes room, and only that one."""

    async def scenario() -> None:
        async with AdminServer(path, METHODS, most_connections=3):
            idle = [await connect(path) for _ in range(3)]
            await asyncio.sleep(0.05)
            with AdminClient(path, "replicad") as client:
                await asyncio.to_thread(client.call, "add", left=1)
            assert await idle[0][0].read() == b""
            idle[1][1].write(request("add", left=1))
            assert b"result" in await idle[1][0].readline()
            for _, writer in idle:
                writer.close()

    run(scenario)


def test_mode_and_directory(run: Run, path: Path) -> None:
    async def scenario() -> None:
        async with AdminServer(path, METHODS):
            found = path.stat()
            assert stat.S_ISSOCK(found.st_mode)
            assert stat.S_IMODE(found.st_mode) == 0o660
            assert found.st_gid == os.getegid()
            assert stat.S_IMODE(path.parent.stat().st_mode) & 0o027 == 0

    run(scenario)


def test_the_socket_of_a_dead_daemon_is_replaced_and_of_a_living_one_is_not(
    run: Run, path: Path
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


def test_closing_leaves_the_socket_of_a_successor(run: Run, path: Path) -> None:
    async def scenario() -> None:
        first = AdminServer(path, METHODS)
        await first.start()
        path.unlink()
        async with AdminServer(path, METHODS):
            await first.close()
            assert path.exists()
        assert not path.exists()

    run(scenario)


def test_a_file_that_is_no_socket_is_left_alone(run: Run, path: Path) -> None:
    async def scenario() -> None:
        path.parent.mkdir(0o750)
        path.write_text("precious")
        with pytest.raises(LocalFault, match="no socket is there"):
            await AdminServer(path, METHODS).start()
        assert path.read_text() == "precious"

    run(scenario)


def test_paths_longer_than_a_socket_address(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / ("d" * 100) / ("e" * 100) / "control.sock"
        async with AdminServer(path, METHODS):
            with AdminClient(path, "replicad") as client:
                assert await asyncio.to_thread(client.call, "add", left=1) == {"sum": 2}

    run(scenario)


@pytest.mark.root
def test_a_named_group_gets_through_the_directory_to_the_socket(run: Run, path: Path) -> None:
    async def scenario() -> None:
        async with AdminServer(path, METHODS, "daemon"):
            group = grp.getgrnam("daemon").gr_gid
            assert group != os.getegid()
            assert (path.parent.stat().st_gid, path.stat().st_gid) == (group, group)

    run(scenario)


def test_an_unknown_group_is_a_configuration_error(run: Run, path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(LocalFault, match="no group named") as caught:
            await AdminServer(path, METHODS, "no-such-group").start()
        assert caught.value.exit_code == 2

    run(scenario)


def test_who_may_not_use_it_is_told_and_nothing_runs(
    run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
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
