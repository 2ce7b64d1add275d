"""The client against daemons that are absent, slow, gone or not ours."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from protocol.admin import rpc
from protocol.admin.client import AdminClient
from protocol.errors import CONTROL_DENIED, LocalFault, PeerFault

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def daemon(path: Path, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """One connection, served in a thread by ``serve``."""

    def accept() -> None:
        connection, _ = listener.accept()
        with connection:
            serve(connection)

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield
        finally:
            thread.join(10)
            assert not thread.is_alive()


def answering(*lines: bytes) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        for line in lines:
            connection.sendall(line)

    return serve


def test_nothing_is_there(tmp_path: Path) -> None:
    client = AdminClient(tmp_path / "control.sock", "receiver")
    with pytest.raises(LocalFault, match="RPL-1101: no receiver daemon answers on") as caught:
        client.call("status")
    assert caught.value.exit_code == 4


def test_the_directory_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LocalFault, match="RPL-1101"):
        AdminClient(tmp_path / "none" / "control.sock", "receiver").call("status")


def test_the_daemon_died(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    with pytest.raises(LocalFault, match=r"RPL-1101.*Connection refused"):
        AdminClient(path, "receiver").call("status")


def test_the_daemon_goes_away_before_it_answers(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with daemon(path, answering(b'{"half')), AdminClient(path, "receiver") as client:
        with pytest.raises(LocalFault, match=r"RPL-1101.*before it answered"):
            client.call("status")


def test_a_call_that_takes_too_long(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    ticks = itertools.chain([0.0, 1.0, 2.0], itertools.repeat(31.0))
    slow = answering(rpc.update_line("wait", 1, "still"))
    with daemon(path, slow), AdminClient(path, "r", 30.0, ticks.__next__) as client:
        with pytest.raises(LocalFault, match="RPL-1104: wait did not end within 30 s") as caught:
            client.call("wait")
        assert caught.value.exit_code == 5


def test_a_silent_daemon_is_left_when_the_time_is_over(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    over = threading.Event()

    def silent(connection: socket.socket) -> None:
        assert over.wait(10)

    with daemon(path, silent), AdminClient(path, "r", 0.01) as client:
        with pytest.raises(LocalFault, match="RPL-1104"):
            client.call("wait")
        over.set()


def test_a_refusal_is_read_although_the_daemon_closed_at_once(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    ready = threading.Event()

    def deny(connection: socket.socket) -> None:
        connection.sendall(rpc.error_line(None, CONTROL_DENIED.fault(uid=7)))
        connection.close()
        ready.set()

    with daemon(path, deny), AdminClient(path, "r") as client:
        client._connected()
        assert ready.wait(10)
        with pytest.raises(PeerFault, match="RPL-1102: user id 7"):
            client.call("status")


def test_an_abandoned_stream_does_not_answer_the_next_call(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    lines = rpc.update_line("watch", 1, "a") + rpc.update_line("watch", 1, "b")
    with daemon(path, answering(lines)), AdminClient(path, "r") as client:
        stream = client.stream("watch")
        updates = iter(stream)
        assert next(updates) == "a"
        updates.close()  # type: ignore[attr-defined]
        assert client._socket is None
        assert client._received == b""


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense\n",
        b"[]\n",
        b'{"jsonrpc":"2.0","id":99,"result":1}\n',
        b'{"jsonrpc":"2.0","id":1,"error":"no"}\n',
        b'{"jsonrpc":"2.0"}\n',
        b"[" * 100_000 + b"\n",
    ],
)
def test_answers_that_are_none(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "control.sock"
    with daemon(path, answering(line)), AdminClient(path, "r") as client:
        with pytest.raises(PeerFault, match="RPL-1103"):
            client.call("status")


def test_an_answer_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "LONGEST_ANSWER", 1000)
    path = tmp_path / "control.sock"
    with daemon(path, answering(b"x" * 5000)), AdminClient(path, "r") as client:
        with pytest.raises(PeerFault, match="longer than 1000 bytes"):
            client.call("status")
