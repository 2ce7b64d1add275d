"""A hostile source: enrolled like any other, with a client of its own that keeps to no rule.

It has what an attacker with a source's certificate has: TLS, the control conversation, a session
and its keys. Everything blocks; a test runs it in threads. And :class:`Watched`, which looks at
the daemon meanwhile as an administrator would: memory, descriptors, how fast it answers.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from protocol.admin.client import AdminClient
from protocol.errors import PeerFault
from protocol.identity import RECEIVER_NAME, load_identity
from protocol.local.sections import Runtime
from protocol.wire.ciphers import offer
from protocol.wire.crypto import Direction, SessionKeys
from protocol.wire.data import DataHello
from protocol.wire.framing import ControlReader, encode_control
from protocol.wire.greeting import Greeting
from protocol.wire.jobs import DiskInfo
from protocol.wire.limits import BUFFER
from protocol.wire.messages import (
    ControlMessage,
    Inventory,
    OpenDisk,
    OpenSession,
    SessionOpened,
)
from replicad.config import Config, RuntimeHere, Source, State
from replicad.enrol import enrol
from tests.support.pair import Pair

HOST = "127.0.0.1"
Heard = TypeVar("Heard", bound=ControlMessage)


class HostileSource:
    """Enrolled with a pair's receiver as ``name``; it offers one disk of ``size`` bytes."""

    def __init__(self, both: Pair, name: str = "evil", size: int = 1 << 60) -> None:
        self.both = both
        self.name = name
        self.size = size
        self.state = both.directory / f"state-{name}"
        self.job = ""
        code = both.receiver.ask("activation.create")["code"]
        config = Config(
            source=Source(name=name),
            state=State(directory=self.state),
            runtime=RuntimeHere(directory=both.directory / "none"),
        )
        assert isinstance(config.runtime, Runtime)
        enrol(config, code, HOST, both.control)

    # --- the control connection -----------------------------------------------------------------

    def connect(self, *, listen: bool = True) -> HostileControl:
        """Greeted. ``listen``: read what the receiver says, in a thread, and forget it."""
        plain = socket.create_connection((HOST, self.both.control), 10)
        context = load_identity(self.state).client_context()
        control = HostileControl(context.wrap_socket(plain, server_hostname=RECEIVER_NAME))
        control.say(Greeting(software="hostile", name=self.name).hello())
        control.hear()
        if listen:
            control.forget_answers()
        return control

    def begin_job(self) -> None:
        """Offer the disk and have an administrator make a job of it."""
        control = self.connect()
        control.say(Inventory(disks=(DiskInfo(path="/dev/evil", size=self.size, kind="disk"),)))
        deadline = time.monotonic() + 20
        while not self.both.receiver.ask("source.show", name=self.name)["disks"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        self.job = self.both.receiver.ask("job.create", source=self.name)["id"]
        control.close()

    def open(self) -> tuple[HostileControl, SessionOpened]:
        """A session, with the control connection that it lives by."""
        control = self.connect(listen=False)
        control.say(self.wish(1))
        while not isinstance(answer := control.hear(), SessionOpened):
            assert type(answer).__name__ in {"JobOrder", "Heartbeat"}, answer
        control.forget_answers()
        return control, answer

    def wish(self, number: int) -> OpenSession:
        """The request for a session."""
        disk = OpenDisk(path="/dev/evil", size=self.size)
        return OpenSession(id=number, job=self.job, disks=(disk,), ciphers=offer())


class HostileControl:
    """A control connection on which anything can be said."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.sock = sock
        self._reader = ControlReader()
        self._draining: threading.Thread | None = None

    def say(self, message: ControlMessage) -> None:
        """Say a message, whether or not it may be said now."""
        self.sock.sendall(encode_control(message))

    def hear(self) -> ControlMessage:
        """The next message; EOFError at the end."""
        while (message := self._reader.next_message()) is None:
            data = self.sock.recv(1 << 16)
            if not data:
                raise EOFError
            self._reader.feed(data)
        return message

    def forget_answers(self) -> None:
        """From now on a thread reads and drops."""

        def drain() -> None:
            with contextlib.suppress(OSError, ValueError):
                while self.sock.recv(1 << 16):
                    pass

        self._draining = threading.Thread(target=drain, daemon=True, name="drain")
        self._draining.start()

    def close(self) -> None:
        """Hang up. The descriptor is closed when nobody reads from it any more: its number may
        be another's at once."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
        if self._draining is not None:
            self._draining.join(10)
        self.sock.close()


class HostileData:
    """A data connection of a session: what is sealed here opens there."""

    def __init__(self, opened: SessionOpened, index: int, *, listen: bool = True) -> None:
        keys = SessionKeys(opened.secret, bytes.fromhex(opened.session), opened.cipher)
        self.sock = socket.create_connection((HOST, opened.data_port), 10)
        self.sock.sendall(DataHello(keys.session, index).encode(keys))
        self._sealer = keys.sealer(index, Direction.FROM_SOURCE)
        self._into = memoryview(bytearray(BUFFER))
        self._draining = threading.Thread(target=self._drain, daemon=True, name="drain")
        if listen:
            self._draining.start()

    def _drain(self) -> None:
        with contextlib.suppress(OSError):
            while self.sock.recv(1 << 16):
                pass

    def say(self, plaintext: bytes) -> None:
        """Send one frame; OSError when the receiver has had enough."""
        size = self._sealer.seal(plaintext, self._into).size
        self.sock.sendall(self._into[:size])

    def close(self) -> None:
        """Hang up; see above."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        if self._draining.is_alive():
            self._draining.join(10)
        self.sock.close()


def over_and_over(attack: Callable[[], None], until: threading.Event) -> None:
    """Run ``attack`` again and again; a connection that is closed on it is part of the game."""
    while not until.is_set():
        try:
            attack()
        except (OSError, EOFError, PeerFault):
            until.wait(0.01)


# --- what it does to the daemon -------------------------------------------------------------------


@dataclass
class Figures:
    """What was seen while something was going on. Bytes and seconds."""

    peak: int = 0
    descriptors: int = 0
    threads: int = 0
    answers: list[float] = field(default_factory=list)
    scrapes: list[float] = field(default_factory=list)
    cpu: float = 0.0

    @property
    def slowest_answer(self) -> float:
        """Seconds within which nine of ten answers of the control socket came; what is slower may
        be the machine's fault, which has other things to do."""
        ordered = sorted(self.answers)
        return ordered[len(ordered) * 9 // 10]


def status_of(pid: int, key: str) -> int:
    """A number of /proc/PID/status: kB as bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) << (10 if line.endswith("kB") else 0)
    raise AssertionError(f"process {pid} has no {key}")


def descriptors_of(pid: int) -> int:
    """How many files a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


@contextlib.contextmanager
def watched(pid: int, control: Path, method: str, metrics_port: int) -> Iterator[Figures]:
    """Look at a daemon ten times a second and ask it as often, until the block ends."""
    found = Figures()
    over = threading.Event()
    problems: list[BaseException] = []

    def look() -> None:
        try:
            while not over.is_set():
                found.peak = max(found.peak, status_of(pid, "VmRSS"))
                found.descriptors = max(found.descriptors, descriptors_of(pid))
                found.threads = max(found.threads, status_of(pid, "Threads"))
                found.answers.append(_seconds(lambda: _ask(control, method)))
                over.wait(0.1)
        except BaseException as error:  # noqa: BLE001 - said by the test, below
            problems.append(error)

    def scrape() -> None:
        try:
            while not over.is_set():
                found.scrapes.append(_seconds(lambda: _scrape(metrics_port)))
                over.wait(0.3)
        except BaseException as error:  # noqa: BLE001
            problems.append(error)

    looking = [threading.Thread(target=each, name="watch") for each in (look, scrape)]
    before = _cpu(pid)
    for thread in looking:
        thread.start()
    try:
        yield found
    finally:
        over.set()
        for thread in looking:
            thread.join(60)
        found.cpu = _cpu(pid) - before
    if problems:
        raise problems[0]


def _seconds(work: Callable[[], Any]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def _ask(control: Path, method: str) -> None:
    with AdminClient(control, "daemon", 20.0) as client:
        client.call(method)


def _scrape(port: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        assert b"connected" in answer.read()


def _cpu(pid: int) -> float:
    """Seconds of processor time that a process has used (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
