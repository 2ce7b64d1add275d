"""Who may use a control socket: the rule as a table, and what the kernel says of real peers."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from protocol.admin import access
from protocol.errors import LocalFault


@pytest.mark.parametrize(
    ("uid", "groups", "allowed"),
    [
        (0, {7}, True),  # root
        (500, {7}, True),  # the daemon's user
        (1000, {7, 50}, True),  # a member of the socket's group
        (1000, {50}, True),
        (1000, {7}, False),
        (1000, set(), False),
    ],
)
def test_the_rule(uid: int, groups: set[int], allowed: bool) -> None:
    assert access.Peer(1, uid, frozenset(groups)).may_use(owner=500, group=50) is allowed


def test_the_kernel_tells_a_peer_of_ourselves() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = access.peer_of(ours)
    assert (peer.pid, peer.uid) == (os.getpid(), os.geteuid())
    assert peer.groups == {os.getegid(), *os.getgroups()}


CONNECT_AS_ANOTHER_USER = """
import os, socket, sys
os.setgroups([4321, 4322]); os.setgid(1234); os.setuid(1235)
connection = socket.socket(socket.AF_UNIX)
connection.connect("\\0" + sys.argv[1])
connection.recv(1)
"""


@pytest.mark.root
def test_the_kernel_tells_the_supplementary_groups_of_another_user() -> None:
    # In the abstract namespace no directory is in another user's way.
    name = f"replicad-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind("\0" + name)
        listener.listen()
        with subprocess.Popen([sys.executable, "-c", CONNECT_AS_ANOTHER_USER, name]):
            connection, _ = listener.accept()
            with connection:
                peer = access.peer_of(connection)
    assert peer.uid == 1235
    assert peer.groups == {1234, 4321, 4322}


class Scripted:
    """A socket whose group list does not fit."""

    def __init__(self, uid: int) -> None:
        self.uid = uid

    def getsockopt(self, _level: int, option: int, _length: int, /) -> bytes:
        if option == access.SO_PEERGROUPS:
            raise OSError(errno.ERANGE, "too many")
        return struct.pack("=iII", 1, self.uid, 77)


def test_more_groups_than_fit_are_looked_up() -> None:
    assert access.peer_of(Scripted(os.geteuid())).groups >= {77}


def test_an_unknown_user_with_more_groups_than_fit_has_only_its_own() -> None:
    assert access.peer_of(Scripted(4_000_000)).groups == {77}


def test_a_daemon_that_is_too_busy_to_accept_lives(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as busy, ExitStack() as clients:
        busy.bind(str(path))
        busy.listen(0)
        with suppress(BlockingIOError):
            for _ in range(10):
                client = clients.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(str(path))
        with pytest.raises(LocalFault, match="RPL-1105"):
            access.listen(path, os.getegid(), 1)


def test_a_failed_listen_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(LocalFault, match=r"cannot be made \(Operation not permitted\)"):
        access.listen(tmp_path / "control.sock", 0, 1)
    assert list(tmp_path.iterdir()) == []
