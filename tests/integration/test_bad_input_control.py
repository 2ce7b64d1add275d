"""Bad input to the control sockets, and commands that find no daemon behind theirs.

The same requests go to both daemons: whatever a stranger or a broken script says is answered with
one error, and the next request is served as if nothing had happened.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.pair import Pair, Process, pair, until
from tests.support.serving import Serving, fails, said_once, serving

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

LONGEST_REQUEST = 1 << 20
MOST_CONNECTIONS = 64
PROGRAMS = ("receiver", "replicad")

AS_NOBODY = """
import os, sys
import protocol.admin.client, protocol.admin.command, unicodedata
import protocol.local.config, receiver.config, replicad.config
from receiver import cli as receiver
from replicad import cli as replicad
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[2]))
program = {"receiver": receiver, "replicad": replicad}[sys.argv[3]]
sys.argv[:] = sys.argv[3:]
program.main()
"""
"""A command of ours run by a stranger; loaded first, because he may not be able to read it."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("control")) as made:
        yield made


@pytest.fixture
def it(running: Serving) -> Iterator[Serving]:
    """The running pair, which must be as before, and serve on, after the test."""
    before = running.world()
    yield running
    assert running.world() == before
    running.still_serves()


def process_of(it: Serving, program: str) -> Process:
    return it.both.receiver if program == "receiver" else it.both.source


def socket_of(it: Serving, program: str) -> Path:
    return it.both.directory / ("rr" if program == "receiver" else "sr") / "control.sock"


class Line:
    """A raw connection to a control socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("rb")

    def say(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> dict[str, Any]:
        line = self.lines.readline()
        assert line.endswith(b"\n"), "closed without an answer"
        found: dict[str, Any] = json.loads(line)
        return found

    def closed(self) -> bool:
        try:
            return self.lines.readline() == b""
        except ConnectionResetError:  # closed before all that we said was read
            return True

    def close(self) -> None:
        self.lines.close()
        self.socket.close()


@contextlib.contextmanager
def line_to(path: Path) -> Iterator[Line]:
    line = Line(path)
    try:
        yield line
    finally:
        line.close()


# --- strangers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_stranger_is_refused_by_the_daemon_itself(it: Serving, program: str) -> None:
    """Even where mode and directory would let him in: the daemon asks the kernel who he is."""
    path, process = socket_of(it, program), process_of(it, program)
    nobody = pwd.getpwnam("nobody")
    ask = ["source", "forget", "web01"] if program == "receiver" else ["pause"]
    stranger = [sys.executable, "-c", AS_NOBODY, str(nobody.pw_gid), str(nobody.pw_uid), program]
    mode = path.stat().st_mode & 0o777
    path.chmod(0o666)
    try:
        for how in ([], ["--json"]):
            done = subprocess.run(
                [*stranger, "--config", str(process.config), *ask, *how],
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            assert done.returncode == 3, done
            if how:
                error = json.loads(done.stdout)["error"]
                assert error["code"] == "RPL-1102"
                assert str(nobody.pw_uid) in error["message"]
            else:
                said_once(done.stderr, "RPL-1102")
    finally:
        path.chmod(mode)
    assert "control.refused" in process.log.read_text()
    assert mode == 0o660


# --- what is not a request ------------------------------------------------------------------------

GARBAGE = [
    pytest.param(b"\x00\xff\x16\x03\x01 hello\n", -32700, id="bytes"),
    pytest.param(b"GET / HTTP/1.1\r\n", -32700, id="http"),
    pytest.param(b'{"jsonrpc":"2.0","method":\n', -32700, id="half"),
    pytest.param(b"[" * 100_000 + b"\n", -32700, id="deep"),
    pytest.param(b'[{"jsonrpc":"2.0","method":"rpc.methods","id":1}]\n', -32600, id="batch"),
    pytest.param(b'"text"\n', -32600, id="text"),
    pytest.param(b'{"method":"rpc.methods","id":1}\n', -32600, id="no-version"),
    pytest.param(b'{"jsonrpc":"2.0","method":7,"id":1}\n', -32600, id="method-number"),
    pytest.param(b'{"jsonrpc":"2.0","method":"rpc.methods","id":1.5}\n', -32600, id="id-fraction"),
    pytest.param(b'{"jsonrpc":"2.0","method":"format.disks","id":1}\n', -32601, id="no-method"),
    pytest.param(
        b'{"jsonrpc":"2.0","method":"rpc.methods","params":[1],"id":1}\n', -32602, id="positional"
    ),
]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(("said", "number"), GARBAGE)
def test_what_is_no_request_gets_one_error(
    running: Serving, program: str, said: bytes, number: int
) -> None:
    """The error has our code, and the same connection serves the next request."""
    with line_to(socket_of(running, program)) as line:
        line.say(said)
        error = line.answer()["error"]
        assert error["code"] == number
        assert error["data"]["code"] == "RPL-1103"
        assert error["data"]["exit"] == 2
        assert error["data"]["remedy"]
        line.say(b'{"jsonrpc":"2.0","method":"rpc.methods","id":2}\n')
        assert line.answer()["result"]


@pytest.mark.parametrize(
    ("program", "method", "params"),
    [
        ("receiver", "job.show", {}),
        ("receiver", "job.show", {"job": 7}),
        ("receiver", "job.create", {"source": "web01", "keep": "many"}),
        ("receiver", "job.create", {"source": "web01", "start": {"kind": "someday"}}),
        ("receiver", "job.create", {"source": "web01", "every": "4h"}),
        ("receiver", "activation.create", {"uses": 1.5}),
        ("receiver", "source.list", {"colour": "blue"}),
        ("receiver", "job.show", {"job": "x", "colour": "blue"}),
        ("replicad", "limit", {"bandwidth": "200Mbit"}),
        ("replicad", "limit", {"bandwidth": 1, "colour": "blue"}),
        ("replicad", "checkpoint", {"wait": "yes"}),
        ("replicad", "status", {"colour": "blue"}),
    ],
)
def test_wrong_parameters_get_one_error(
    running: Serving, program: str, method: str, params: dict[str, Any]
) -> None:
    with line_to(socket_of(running, program)) as line:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        line.say(json.dumps(request).encode() + b"\n")
        error = line.answer()["error"]
        assert error["code"] == -32602
        assert error["data"]["code"] == "RPL-1103"


@pytest.mark.parametrize(
    "params",
    [
        {"source": "web01", "freeze_budget": -1.0},
        {"source": "web01", "bandwidth": -5},
        {"source": "web01", "keep": 0},
        {"source": "web01", "every": 1e9},
        {"source": "web01", "disks": ["../etc"]},
        {"source": "web01", "disks": ["/dev/a", "/dev/a"]},
        {"source": "web01", "start": {"kind": "at", "at": "garbage"}},
        {"source": "web01", "start": {"kind": "at"}},
    ],
)
def test_a_job_with_a_wrong_value_is_refused_by_the_daemon_too(
    running: Serving, params: dict[str, Any]
) -> None:
    """Who speaks to the socket itself meets the same limits as who uses the command."""
    before = running.world()
    with line_to(socket_of(running, "receiver")) as line:
        request = {"jsonrpc": "2.0", "id": 1, "method": "job.create", "params": params}
        line.say(json.dumps(request).encode() + b"\n")
        error = line.answer()["error"]
    assert error["data"]["code"] in {"RPL-1002", "RPL-4002"}, error
    assert running.world() == before


@pytest.mark.parametrize("program", PROGRAMS)
def test_abuse_of_a_socket_leaves_it_serving(it: Serving, program: str) -> None:
    """An over-long line, half a line and away, a request and away, and too many at once."""
    path = socket_of(it, program)
    with line_to(path) as line:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            line.say(b"x" * (LONGEST_REQUEST + 100_000))
        error = line.answer()["error"]
        assert error["data"]["code"] == "RPL-1103"
        assert str(LONGEST_REQUEST) in error["message"]
        assert line.closed()
    with line_to(path) as line:
        line.say(b'{"jsonrpc":"2.0",')
    stream = "status.watch" if program == "replicad" else "rpc.methods"
    for _ in range(20):
        with line_to(path) as line:
            line.say(b'{"jsonrpc":"2.0","method":"%s","id":1}\n' % stream.encode())
    with contextlib.ExitStack() as held:
        crowd = [held.enter_context(line_to(path)) for _ in range(MOST_CONNECTIONS)]
        one_more = held.enter_context(line_to(path))
        for line in (one_more, crowd[-1]):
            line.say(b'{"jsonrpc":"2.0","method":"rpc.methods","id":1}\n')
            assert line.answer()["result"]
        assert crowd[0].closed()  # the eldest that asked nothing made room
    until(lambda: _serves(path), 10, "room for the next command")


def _serves(path: Path) -> bool:
    with line_to(path) as line:
        with contextlib.suppress(BrokenPipeError):
            line.say(b'{"jsonrpc":"2.0","method":"rpc.methods","id":1}\n')
        return "result" in line.answer()


# --- no daemon ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped() -> Iterator[Pair]:
    """A pair whose daemons do not run."""
    with pair([], start=False) as both:
        yield both


@pytest.mark.parametrize(
    "arguments",
    [
        ("job", "list"),
        ("source", "list"),
        ("activation", "create"),
        ("job", "create", "--source", "web01"),
        ("job", "checkpoint", "main", "--wait"),
    ],
)
def test_without_a_receiver_commands_say_so(stopped: Pair, arguments: tuple[str, ...]) -> None:
    error = fails(stopped.receiver, "RPL-1101", 4, *arguments)
    assert "receiver" in error["message"]


@pytest.mark.parametrize("arguments", [("status",), ("pause",), ("checkpoint", "--wait")])
def test_without_a_source_commands_say_so(stopped: Pair, arguments: tuple[str, ...]) -> None:
    assert "replicad" in fails(stopped.source, "RPL-1101", 4, *arguments)["message"]


def test_a_socket_that_a_dead_daemon_left_is_no_daemon(stopped: Pair) -> None:
    path = stopped.directory / "rr" / "control.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    fails(stopped.receiver, "RPL-1101", 4, "job", "list")
    path.unlink()


def test_a_daemon_that_does_not_answer_is_not_waited_for(stopped: Pair) -> None:
    """Something listens and is silent: the command gives up at its own time."""
    path = stopped.directory / "sr" / "control.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        began = time.monotonic()
        fails(stopped.source, "RPL-1104", 5, "checkpoint", "--wait", "--timeout", "0.3")
        assert time.monotonic() - began < 20
    os.unlink(path)
