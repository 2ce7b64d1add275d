"""A receiver that turned bad against the real ``replicad``.

It crashes nothing, writes nothing, gets no disk that is not allowed, and costs memory within a
bound that is stated.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol.errors import NO_CIPHER
from protocol.wire.frames import Ack, Diff, Frame, Pong
from protocol.wire.framing import encode_control
from protocol.wire.jobs import CheckpointOrder, JobOrder
from protocol.wire.limits import AES_256_GCM, BUFFER, CONNECTIONS_MAX
from tests.support.hostile import HostileControl, descriptors_of, status_of, watched
from tests.support.hostile_receiver import Answer, HostileReceiver, Script, honest_answer
from tests.support.pair import Pair, pair, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

SECONDS = float(os.environ.get("REPLICAD_HOSTILE_SECONDS", "1.0"))
GROWTH = CONNECTIONS_MAX * 2 * BUFFER + (48 << 20)
"""Bytes: two buffers for each data connection that a receiver may ask for; room for messages."""

SIZE = 24 << 20


class Source:
    """A ``replicad`` with one allowed disk, an image file, enrolled with a hostile receiver."""

    def __init__(self, directory: Path, both: Pair, disk: Path) -> None:
        self.both = both
        self.disk = disk
        self.before = hashlib.sha256(disk.read_bytes()).digest()
        self.receiver = HostileReceiver("web01", directory / "ss", quiet)

    def order(self, revision: int, **values: object) -> JobOrder:
        """An order to run the job, or something else."""
        said: dict[str, object] = {"want": "run", "job": "j1", "disks": (str(self.disk),), **values}
        return JobOrder(revision=revision, **said)  # type: ignore[arg-type]


def quiet(receiver: HostileReceiver, control: HostileControl) -> None:
    receiver.attend(control)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    disk = tmp_path_factory.mktemp("disk") / "disk.img"
    disk.write_bytes(os.urandom(SIZE))
    with pair([str(disk)], start=False, tracker="off") as both:
        made = Source(both.directory, both, disk)
        try:
            yield made
        finally:
            made.receiver.close()


def under(
    source: Source,
    script: Script,
    done: Callable[[], bool] = lambda: True,
    seconds: float = SECONDS,
) -> None:
    """A fresh source, whose every connection is the script's; it must live, and end cleanly."""
    both, receiver = source.both, source.receiver
    if both.source.running:
        assert both.source.stop() == 0
    receiver.script, visits = script, receiver.visits
    both.source.start()
    pid = both.source.pid
    before, open_before = status_of(pid, "VmRSS"), descriptors_of(pid)
    with watched(pid, both.directory / "sr/control.sock", "status", both.metrics_s) as seen:
        until(lambda: receiver.visits > visits, 30, "the attack")
        time.sleep(seconds)
        until(done, 30, "all of the attack")
    receiver.answer = honest_answer
    receiver.script = quiet
    _hang_up(source)
    log = both.source.log.read_text()
    assert both.source.running
    assert both.source.pid == pid
    assert "Traceback" not in log, log[log.index("Traceback") - 300 :][:3000]
    assert seen.peak - before < GROWTH
    assert seen.slowest_answer < 3.0
    assert hashlib.sha256(source.disk.read_bytes()).digest() == source.before
    maps = [path.name for path in (both.directory / "sr").glob("*.map*")]
    assert len(maps) <= 1, maps
    until(lambda: both.status()["connected"], 60, "the source is connected")
    until(lambda: descriptors_of(pid) <= open_before + 8, 30, "descriptors as before")
    if path := os.environ.get("REPLICAD_HOSTILE_REPORT"):
        with Path(path).open("a") as file:
            grown = max(0, seen.peak - before) >> 20
            file.write(f"| {grown} MiB | {seen.threads} | {seen.slowest_answer * 1000:.0f} ms |\n")


def _hang_up(source: Source) -> None:
    """End the connections that stand; each is closed by the thread that reads from it."""
    for control in list(source.receiver.controls):
        with contextlib.suppress(OSError):
            socket.socket.shutdown(control.sock, socket.SHUT_RDWR)


def repeated(
    source: Source, say: Callable[[int], bytes], connections: int = 2, window: int = 64 << 20
) -> Script:
    """Say something for ever, and answer what the source asks meanwhile."""
    numbers = itertools.count(1)

    def script(receiver: HostileReceiver, control: HostileControl) -> None:
        def flood() -> None:
            with contextlib.suppress(OSError, ValueError):
                while not receiver.over.is_set() and receiver.script is script:
                    control.sock.sendall(say(next(numbers)))

        threading.Thread(target=flood, daemon=True).start()
        receiver.attend(control, connections, window)

    return script


def once(*said: bytes, connections: int = 2, window: int = 64 << 20) -> Script:
    """Say this and attend."""

    def script(receiver: HostileReceiver, control: HostileControl) -> None:
        for one in said:
            control.sock.sendall(one)
        receiver.attend(control, connections, window)

    return script


def framed(document: dict[str, object]) -> bytes:
    body = json.dumps(document).encode()
    return len(body).to_bytes(4, "big") + body


def test_orders_that_flap_as_fast_as_they_can_be_said(source: Source) -> None:
    wants = itertools.cycle(["run", "stop", "pause", "run", "none"])

    def say(number: int) -> bytes:
        want = next(wants)
        job = f"j{number % 7}" if want != "none" else ""
        return encode_control(source.order(number, want=want, job=job))

    under(source, repeated(source, say))


def test_orders_of_maximal_size(source: Source) -> None:
    paths = tuple(f"/dev/none/{number:05}" for number in range(50_000))

    def say(number: int) -> bytes:
        return encode_control(source.order(number, disks=paths))

    under(source, repeated(source, say))


def test_a_cipher_that_was_not_offered_is_refused(source: Source) -> None:
    """Nothing is sealed with it, and nothing with another one either."""
    source.receiver.cipher = "of-the-future"
    opened = len(source.receiver.opened)

    def refused() -> bool:
        job = source.both.status()["job"]
        return bool(job and job["error"] and job["error"]["code"] == NO_CIPHER.code)

    try:
        under(source, once(encode_control(source.order(1))), refused)
        assert len(source.receiver.opened) == opened + 1, "a person has to see to it"
    finally:
        source.receiver.cipher = AES_256_GCM


CANNOT_BE_MEANT: list[dict[str, object]] = [
    {"freeze_budget": 1e308},
    {"job": "../../x"},
    {"bandwidth": 10**30},
    {"disks": []},
]
"""Some; tests/fuzz tries every value of every message."""


def test_orders_that_cannot_be_meant_are_refused(source: Source) -> None:
    """One a connection: the source refuses each by name and hangs up."""
    document = json.loads(encode_control(source.order(1))[4:])
    before = dict(source.receiver.heard)
    left = list(CANNOT_BE_MEANT)

    def script(receiver: HostileReceiver, control: HostileControl) -> None:
        if left:
            control.sock.sendall(framed({**document, **left.pop()}))
        receiver.attend(control)

    def refused() -> int:
        return source.receiver.heard.get("Refused", 0) - before.get("Refused", 0)

    under(source, script, lambda: refused() >= len(CANNOT_BE_MEANT))
    assert source.receiver.heard.get("OpenSession", 0) == before.get("OpenSession", 0)


def test_a_disk_that_is_not_allowed_is_not_opened(source: Source) -> None:
    before = source.receiver.heard.get("OpenSession", 0)
    under(source, once(encode_control(source.order(1, disks=("/etc/shadow",)))))
    assert source.receiver.heard.get("OpenSession", 0) == before
    assert "RPL-5" in source.both.source.log.read_text()


@pytest.mark.parametrize("connections", [CONNECTIONS_MAX, 10_000])
def test_a_session_of_many_connections_and_no_window(source: Source, connections: int) -> None:
    script = once(encode_control(source.order(1)), connections=connections, window=(1 << 63) - 1)
    under(source, script)


def _going_back(sequence: int, _frame: Frame) -> list[tuple[Frame, bytes]]:
    return [(Ack(sequence), b""), *([(Ack(0), b"")] if sequence else [])]


LIES: dict[str, Answer] = {
    "acks for what was not sent": lambda _sequence, _frame: [(Ack(1 << 40), b"")],
    "acks that go back": _going_back,
    "a diff of the wrong size": lambda sequence, _frame: [(Diff(sequence, 3), b"\x07" + bytes(48))],
    "pongs for ever": lambda _sequence, _frame: [(Pong(number), b"") for number in range(2000)],
}


@pytest.mark.parametrize("lie", list(LIES))
def test_answers_that_cannot_be_true(source: Source, lie: str) -> None:
    source.receiver.answer = LIES[lie]
    before = source.receiver.heard.get("OpenSession", 0)
    under(source, once(encode_control(source.order(1))))
    assert source.receiver.heard["OpenSession"] > before


def test_checkpoints_for_ever(source: Source) -> None:
    def say(number: int) -> bytes:
        wish = CheckpointOrder(request=f"r{number}")
        time.sleep(0.02)
        return encode_control(source.order(number, checkpoint=wish))

    under(source, repeated(source, say), lambda: source.receiver.heard.get("Commit", 0) > 0)
