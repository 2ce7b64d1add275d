"""Garbage, half conversations, replays and silence at both ports while a job runs.

A stranger learns nothing, costs little, and stands in nobody's way.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.identity import RECEIVER_NAME, load_identity
from protocol.wire.data import HELLO_SIZE
from tests.integration.test_cuts import lines
from tests.support.line import RECEIVER
from tests.support.loops import MIB, flush, loop_device, mounted
from tests.support.pair import Pair, pair, same_content, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

SIZE = 192 * MIB
SILENT = 1000
"""Connections that say nothing, over both ports."""

GROWTH = 64 << 20
"""Bytes that all of it may add to a daemon's memory."""


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 8192), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def resident(pid: int) -> int:
    """Bytes of memory that a process holds (proc(5), VmRSS)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"process {pid} holds nothing")


def dial(port: int) -> socket.socket:
    sock = socket.create_connection((RECEIVER, port), 10)
    sock.settimeout(20)
    return sock


def is_shut(sock: socket.socket) -> bool:
    """Wait for the end of what the peer says; True when it said nothing first."""
    with contextlib.suppress(ConnectionError), sock:
        return sock.recv(1) == b""
    return True


def say_random(both: Pair, chosen: random.Random) -> None:
    for port in (both.control, both.data) * 20:
        with contextlib.suppress(ConnectionError), dial(port) as sock:
            sock.sendall(chosen.randbytes(chosen.randrange(1, 1 << 16)))


def half_handshakes(both: Pair) -> list[socket.socket]:
    """TLS clients that begin and go no further; they stay open."""
    begun = []
    for _ in range(40):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context()
        tls = context.wrap_bio(incoming, outgoing, server_hostname="receiver")
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        sock = dial(both.control)
        sock.sendall(outgoing.read()[:200])
        begun.append(sock)
    return begun


def over_long_frames(both: Pair) -> None:
    """A control frame that claims 4 GiB, from clients that the receiver knows."""
    identity = load_identity(both.directory / "ss")
    for claimed in (0xFFFFFFFF, 1 << 24, 0):
        with dial(both.control) as plain:
            context = identity.client_context()
            with context.wrap_socket(plain, server_hostname=RECEIVER_NAME) as sock:
                sock.sendall(struct.pack(">I", claimed) + bytes(1 << 16))
                with contextlib.suppress(ConnectionError, ssl.SSLError):
                    while sock.recv(4096):
                        pass


def half_hellos(both: Pair) -> list[socket.socket]:
    begun = []
    for _ in range(40):
        sock = dial(both.data)
        sock.sendall(b"RPLD\x01" + os.urandom(20))
        begun.append(sock)
    return begun


def silent(both: Pair) -> list[socket.socket]:
    return [dial(port) for port in (both.control, both.data) for _ in range(SILENT // 2)]


def test_strangers_do_not_disturb_a_sync(tmp_path: Path) -> None:
    chosen = random.Random(5)
    image = tmp_path / "disk.img"
    with (
        loop_device(image, SIZE) as device,
        mounted(device, tmp_path / "mnt", "ext4") as where,
        pair([device], start=False, receiver_host=RECEIVER) as both,
        lines(both) as (_, data),
        contextlib.ExitStack() as open_sockets,
    ):
        (where / "before").write_bytes(os.urandom(64 * MIB))
        flush(where)
        both.start()
        reference = both.directory / "reference.img"
        both.keep_reference(image, reference)
        both.create("--freeze-budget", "30s")
        both.synced()
        data.cut_all()  # so that hellos are captured
        sent = both.clean()["logical_bytes"]
        until(lambda: len(data.hellos) >= 2, what="two hellos")
        both.receiver.run("job", "set", both.job, "bandwidth=2MB")
        pids = both.receiver.pid, both.source.pid
        before = [resident(pid) for pid in pids]
        refused = both.metrics("receiver")["receiver_refused_connections_total"]
        (where / "during").write_bytes(os.urandom(48 * MIB))
        flush(where)

        say_random(both, chosen)
        for sock in [*half_handshakes(both), *half_hellos(both), *silent(both)]:
            open_sockets.enter_context(sock)
        over_long_frames(both)
        for hello in data.hellos:
            with dial(both.data) as replay:
                replay.sendall(hello[:HELLO_SIZE])
                assert is_shut(replay), "a replayed hello was answered"
        assert both.receiver.run("job", "show", both.job)["state"] == "syncing"
        assert both.show()["logical_bytes"] < sent + 48 * MIB, "all of it came too late"

        both.receiver.run("job", "set", both.job, "bandwidth=unlimited")
        both.clean(sent=sent + 48 * MIB)
        after = [resident(pid) for pid in pids]
        assert both.metrics("receiver")["receiver_refused_connections_total"] > refused
        assert both.metrics("source")["replicad_reconnects_total"] <= 1
        both.checkpoint("--hold")
        assert same_content(both.intermediate(), reference)
        for was, is_ in zip(before, after, strict=True):
            assert is_ - was < GROWTH
