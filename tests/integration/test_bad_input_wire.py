"""Bad input on the two ports: nonsense, silence, lies about lengths, and tampered traffic.

Whoever is no source of ours is answered with one refusal or with nothing, and is gone. Traffic that
was changed, repeated or reordered on its way never reaches a disk: the connection ends with its
code, the source makes a new session by itself, and the next checkpoint is exact.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.identity import RECEIVER_NAME, fetching_context, load_identity
from protocol.wire.crypto import SessionKeys
from protocol.wire.data import HELLO_SIZE, DataHello
from protocol.wire.limits import HANDSHAKE_TIMEOUT
from tests.support.line import RECEIVER, Change, Line
from tests.support.pair import pair, until
from tests.support.serving import Serving, begin, logged, written_disk

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

STRANGERS = 6
"""``[limits] handshakes`` of this receiver."""


class Tapped(Serving):
    """A serving pair with a wire in between."""

    data: Line


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tapped]:
    with (
        written_disk(tmp_path_factory.mktemp("wire")) as (device, image),
        pair([device], start=False, receiver_host=RECEIVER) as both,
        contextlib.ExitStack() as wires,
    ):
        with both.receiver.config.open("a") as config:
            config.write(f"[limits]\nhandshakes = {STRANGERS}\n")
        control, data = Line(RECEIVER, both.control), Line(RECEIVER, both.data, framed=True)
        wires.callback(control.close)
        wires.callback(data.close)
        both.start()
        serving = begin(both, image)
        tapped = Tapped(both, serving.reference)
        tapped.data = data
        yield tapped


@pytest.fixture
def it(running: Tapped) -> Iterator[Tapped]:
    """The running pair, which must serve on after the test as before."""
    before = running.world()
    yield running
    until(lambda: running.both.receiver.run("source", "show", "web01")["connected"], 30, "return")
    epoch = before["jobs"][0].pop("epoch")
    now = running.world()
    assert now["jobs"][0].pop("epoch") == epoch
    assert now == before
    running.still_serves()


def refused_connections(it: Serving) -> float:
    """``receiver_refused_connections_total``, refreshed once a second."""
    total: float = it.both.metrics("receiver")["receiver_refused_connections_total"]
    return total


# --- the control port -----------------------------------------------------------------------------


def dial(port: int) -> socket.socket:
    sock = socket.create_connection((RECEIVER, port), 10)
    sock.settimeout(30)
    return sock


@contextlib.contextmanager
def as_source(it: Serving) -> Iterator[ssl.SSLSocket]:
    """A TLS connection with the enrolled source's own certificate."""
    context = load_identity(it.both.directory / "ss").client_context()
    with dial(it.both.control) as sock:
        with context.wrap_socket(sock, server_hostname=RECEIVER_NAME) as tls:
            yield tls


@contextlib.contextmanager
def as_stranger(it: Serving) -> Iterator[ssl.SSLSocket]:
    """A TLS connection without a certificate, as for an enrolment."""
    with dial(it.both.control) as sock:
        with fetching_context().wrap_socket(sock, server_hostname=RECEIVER_NAME) as tls:
            yield tls


def framed(message: dict[str, Any] | bytes) -> bytes:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return struct.pack(">I", len(body)) + body


def answers(tls: ssl.SSLSocket) -> list[dict[str, Any]]:
    """All that the receiver says until it closes."""
    data = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while more := tls.recv(1 << 16):
            data += more
    found = []
    while data:
        length = int.from_bytes(data[:4], "big")
        found.append(json.loads(data[4 : 4 + length]))
        data = data[4 + length :]
    return found


HELLO = {"type": "hello", "versions": [1], "name": "web01", "software": "test"}

SAID = [
    pytest.param(b"\xff\xff\xff\xff" + bytes(1000), "RPL-3004", "4294967295", id="4GiB"),
    pytest.param(struct.pack(">I", 100_000), "RPL-3004", "100000", id="long-for-a-greeting"),
    pytest.param(framed({"type": "format-disk"}), "RPL-3002", "format-disk", id="unknown-type"),
    pytest.param(framed(b"\xff\xfe"), "RPL-3002", "UTF-8", id="not-text"),
    pytest.param(framed(b"{"), "RPL-3002", "JSON", id="half"),
    pytest.param(framed(b"[" * 9000), "RPL-3002", "", id="deep"),
    pytest.param(framed({**HELLO, "versions": [99]}), "RPL-3003", "the receiver is", id="newer"),
    pytest.param(framed({**HELLO, "versions": []}), "RPL-3002", "versions", id="no-version"),
    pytest.param(framed({**HELLO, "name": "web99"}), "RPL-2006", "web99", id="other-name"),
    pytest.param(framed({"type": "heartbeat", "sent": 1}), "RPL-3002", "Heartbeat", id="too-early"),
    pytest.param(framed({"type": "welcome", "version": 1}), "RPL-3002", "Welcome", id="our-role"),
]


@pytest.mark.parametrize(("said", "code", "names"), SAID)
def test_a_broken_greeting_gets_one_refusal(
    running: Tapped, said: bytes, code: str, names: str
) -> None:
    """Even from whoever has a source's own certificate; the source itself is not disturbed."""
    before = running.world()
    with as_source(running) as tls:
        tls.sendall(said)
        found = answers(tls)
    assert [message["type"] for message in found] == ["refused"]
    assert found[0]["code"] == code
    assert names in found[0]["message"]
    assert found[0]["remedy"]
    assert running.world() == before


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "open-session", "id": 1, "job": "x", "disks": []}, "RPL-2008"),
        ({"type": "inventory", "disks": []}, "RPL-2008"),
        ({"type": "enrol", "id": 1, "secret": "zz", "name": "x", "request_pem": ""}, "RPL-3002"),
        ({"type": "enrol", "id": 1, "secret": "00" * 16, "name": "../x", "request_pem": ""}, None),
        ({"type": "enrol", "id": 1, "secret": "00" * 16, "name": "x", "request_pem": "a"}, None),
    ],
)
def test_a_stranger_can_only_enrol(
    running: Tapped, message: dict[str, Any], code: str | None
) -> None:
    before = running.world()
    with as_stranger(running) as tls:
        tls.sendall(framed({**HELLO, "name": "x"}) + framed(message))
        found = answers(tls)
    assert [each["type"] for each in found] == ["welcome", "refused"]
    assert found[1]["code"].startswith("RPL-")
    assert found[1]["code"] != "RPL-1900"
    assert code in {None, found[1]["code"]}
    assert running.world() == before


def test_a_frame_of_4_gib_from_a_greeted_source_ends_only_that_connection(it: Tapped) -> None:
    """Its own certificate and a right greeting: it takes the source's place, lies, and is out."""
    with as_source(it) as tls:
        tls.sendall(framed(HELLO) + b"\xff\xff\xff\xff" + bytes(100_000))
        found = answers(tls)
    assert found[0]["type"] == "welcome"
    assert found[-1]["type"] == "refused"
    assert found[-1]["code"] == "RPL-3004"


def test_nonsense_and_half_handshakes_are_shut_out(it: Tapped) -> None:
    for said in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), b"\x16\x03\x01\x00\x05\x01"):
        with dial(it.both.control) as sock:
            sock.sendall(said)
            sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while sock.recv(4096):
                    pass
    for said in (b"GET / HTTP/1.1\r\n" + bytes(100), os.urandom(4096), b"RPLD\x01" + bytes(52)):
        assert is_shut(it, said), "a stranger was answered on the data port"


# --- the data port --------------------------------------------------------------------------------


def is_shut(it: Serving, said: bytes) -> bool:
    """Whether the data port closes without a word on whoever says this."""
    with dial(it.both.data) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(said)
        return sock.recv(1) == b""
    return True


def test_a_hello_without_the_sessions_secret_is_shut_out(it: Tapped) -> None:
    """Unknown session; the session of now with another secret; another version; a used index."""
    before = refused_connections(it)
    stranger = SessionKeys(os.urandom(32), os.urandom(16))
    real = DataHello.parse(bytes(it.data.heard[:HELLO_SIZE]))
    guessed = SessionKeys(os.urandom(32), real.session)
    hellos = [
        DataHello(stranger.session, 0).encode(stranger),
        DataHello(real.session, 7).encode(guessed),
        b"RPLD\x02" + it.data.heard[5:HELLO_SIZE],
        bytes(it.data.heard[:HELLO_SIZE]),
    ]
    for hello in hellos:
        assert is_shut(it, hello + os.urandom(1000))
    until(lambda: refused_connections(it) >= before + len(hellos), 10, "the count of them")


def test_a_replayed_connection_is_shut_out(it: Tapped) -> None:
    """All that a connection said, byte for byte: its number in the session has been used."""
    recorded = bytes(until(it.data.busiest, 30, "frames of the session of now"))
    assert is_shut(it, recorded)


def _flipped(frames: list[bytes]) -> list[bytes]:
    frame = bytearray(frames[0])
    frame[len(frame) // 2] ^= 1
    return [bytes(frame)]


TAMPERED: dict[str, tuple[int, Change, str]] = {
    "flipped": (1, _flipped, "RPL-3006"),
    "repeated": (1, lambda frames: frames * 2, "RPL-3006"),
    "reordered": (2, lambda frames: frames[::-1], "RPL-3006"),
    "left out": (2, lambda frames: frames[1:], "RPL-3006"),
    "cut short": (1, lambda frames: [b"\0\0\0\x20" + frames[0][4:36]], "RPL-3006"),
    "empty": (1, lambda frames: [b"\0\0\0\0"], "RPL-3002"),
    "4 GiB": (1, lambda frames: [b"\xff\xff\xff\xff" + bytes(64)], "RPL-3004"),
}


@pytest.mark.parametrize("how", sorted(TAMPERED))
def test_a_tampered_frame_ends_the_connection_and_nothing_else(it: Tapped, how: str) -> None:
    """The session is opened again by itself; nothing of the frame has reached the disk."""
    frames, change, code = TAMPERED[how]
    before, session = it.data.changed, bytes(it.data.heard[5:21])
    log = it.both.receiver.log
    start = log.stat().st_size
    it.data.tamper(frames, change)
    until(lambda: it.data.changed > before, 30, "a frame to tamper with")
    until(lambda: bytes(it.data.heard[5:21]) != session, 30, "the new session")
    said = log.read_bytes()[start:].decode()
    codes = [json.loads(line).get("code") for line in said.splitlines() if "connection.end" in line]
    assert codes[:1] == [code], said
    assert it.both.show()["error"] is None


# --- silence --------------------------------------------------------------------------------------


def test_silent_connections_are_closed_in_time(it: Tapped) -> None:
    """Both ports, before and after TLS, in one wait: 15 s, as docs/protocol.md says."""
    began = time.monotonic()
    with contextlib.ExitStack() as held:
        mute = [held.enter_context(dial(port)) for port in (it.both.control, it.both.data)]
        half = held.enter_context(dial(it.both.data))
        half.sendall(b"RPLD\x01" + bytes(20))
        tls = held.enter_context(as_stranger(it))
        waiting: set[socket.socket] = {*mute, half, tls}
        deadline = began + HANDSHAKE_TIMEOUT + 10
        while waiting and (left := deadline - time.monotonic()) > 0:
            for sock in select.select(list(waiting), [], [], left)[0]:
                with contextlib.suppress(ConnectionError, ssl.SSLError):
                    if sock.recv(4096):
                        continue
                waiting.remove(sock)
                assert time.monotonic() - began > HANDSHAKE_TIMEOUT - 1
        assert not waiting


def test_more_strangers_than_the_limit_do_not_lock_out_the_source(it: Tapped) -> None:
    """Twice the limit on both ports, held open: the source can still come back and sync."""
    before = refused_connections(it)
    with contextlib.ExitStack() as held:
        for port in (it.both.control, it.both.data) * (2 * STRANGERS):
            held.enter_context(dial(port))
        until(lambda: refused_connections(it) > before, 10, "the count of them")
        it.both.source.stop()
        it.both.source.start()
        it.restarted()
        until(lambda: it.both.source.run("status")["connected"], 20, "the source's return")
        it.both.synced()


def test_the_log_of_the_source_says_what_was_wrong(running: Tapped) -> None:
    """After all of the above: lost sessions with their codes, and no traceback anywhere."""
    logged(running.both.source, "session.lost")
    for process in (running.both.receiver, running.both.source):
        assert "Traceback" not in Path(process.log).read_text()
