"""Enrolled sources that turned bad, and strangers by the thousand, while a real job is served.

Each attack runs for some seconds (``REPLICAD_HOSTILE_SECONDS``) while the receiver is looked at
from outside: memory, descriptors, threads, how fast its control socket and its metrics answer,
whether the honest source stays connected, and how long its next checkpoint takes. With
``REPLICAD_HOSTILE_REPORT=FILE`` the figures are written there as a table; docs/threat-model.md
has one.
"""

from __future__ import annotations

import contextlib
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest
import xxhash
import zstandard

from protocol.wire.frames import (
    RAW,
    ZSTD,
    Data,
    Digests,
    Fence,
    Frame,
    Ping,
    Segment,
    encode_meta,
)
from protocol.wire.framing import encode_control
from protocol.wire.jobs import DiskInfo, ErrorInfo, JobReport, Mounted
from protocol.wire.limits import BLOCK, PAYLOAD_MAX
from protocol.wire.messages import Ask, Heartbeat, Inventory, SessionOpened
from tests.support.hostile import (
    Figures,
    HostileData,
    HostileSource,
    descriptors_of,
    over_and_over,
    status_of,
    watched,
)
from tests.support.pair import until
from tests.support.serving import Serving, serving
from tests.support.strangers import STRANGERS

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

LONG = "REPLICAD_HOSTILE_SECONDS" in os.environ
SECONDS = float(os.environ.get("REPLICAD_HOSTILE_SECONDS", "0.7"))

GROWTH = 96 << 20
"""Bytes that an attack may add to the receiver's memory. The buffers of a session's connections
(6 times 1 MiB) and of its workers (as many), the unread messages of a control connection (two of
1 MiB, decoded some five times that) and its unread answers (4 MiB), and 64 TLS handshakes."""

ANSWER_SECONDS = 1.0
"""For the control socket to answer; times what the machine itself is slower now (see below)."""

CHECKPOINT_FACTOR = 4.0
"""So many times its usual duration a checkpoint of the honest job may take under an attack, plus
:data:`CHECKPOINT_ROOM` seconds: two cores are shared with the attacker, who is free to use his."""
CHECKPOINT_ROOM = 4.0

Attack = Callable[[threading.Event], None]


@pytest.fixture(scope="module", autouse=True)
def _many_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(16384, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Attacked:
    """A serving pair, an enrolled attacker with a job of an exabyte, and what is usual."""

    def __init__(self, it: Serving) -> None:
        self.it = it
        self.both = it.both
        self.evil = HostileSource(it.both)
        self.evil.begin_job()
        self.usual = min(self.checkpoint(), self.checkpoint())
        with self.looked_at() as quiet:
            time.sleep(1.0)
        self.quiet = quiet

    def looked_at(self) -> contextlib.AbstractContextManager[Figures]:
        control = self.both.directory / "rr/control.sock"
        return watched(self.both.receiver.pid, control, "job.list", self.both.metrics_r)

    def checkpoint(self) -> float:
        """Take one of the honest job; seconds."""
        begun = time.monotonic()
        taken = self.both.receiver.ask("job.checkpoint", job=self.both.job, wait=True)
        assert taken["epoch"] > 0
        return time.monotonic() - begun


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    with serving(tmp_path_factory.mktemp("hostile")) as it:
        yield Attacked(it)
        it.still_serves()


# --- what an authenticated source can say ---------------------------------------------------------


def said(frame: Frame, payload: bytes = b"") -> bytes:
    return payload + encode_meta(frame)


NOTHING = xxhash.xxh3_128_digest(b"")
SCATTERED = os.urandom(256 * 512)
FRAMES = {
    "256 segments of one sector": said(
        Data(
            0,
            RAW,
            len(SCATTERED),
            xxhash.xxh3_128_digest(SCATTERED),
            tuple(Segment(at << 12, 512) for at in range(256)),
        ),
        SCATTERED,
    ),
    "zeros of 128 TiB": said(
        Data(0, RAW, 0, NOTHING, tuple(Segment(at << 40, 1 << 39, True) for at in range(256)))
    ),
    "digests of 16 MiB": said(
        Digests(0, BLOCK, tuple(Segment(at << 17, BLOCK) for at in range(256))), bytes(16 << 8)
    ),
    "pings": said(Ping(1)),
    "fences": said(Fence()),
    "a bomb": said(
        Data(0, ZSTD, 4096, NOTHING, (Segment(0, 4096),)),
        zstandard.ZstdCompressor(level=19).compress(bytes(PAYLOAD_MAX)),
    ),
    "a bomb that states another size": said(
        Data(0, ZSTD, 4096, NOTHING, (Segment(0, 4096),)),
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 << 20))[:4000],
    ),
}
BIG_DISKS = tuple(
    DiskInfo(
        path=f"/dev/d{number}",
        size=1 << 40,
        kind="disk",
        model="m" * 100,
        mounted=(Mounted(mount="/m" * 20, kind="ext4", device="/d" * 20),) * 4,
    )
    for number in range(1000)
)


def data_attack(frame: bytes, evil: HostileSource, *, listen: bool = True) -> Attack:
    """A frame for ever, on as many data connections as a session takes and some more."""

    def one(opened: SessionOpened, index: int, over: threading.Event) -> None:
        with contextlib.suppress(OSError):
            link = HostileData(opened, index, listen=listen)
            link.sock.settimeout(1.0)
            with contextlib.closing(link):
                while not over.is_set():
                    link.say(frame)

    def attack(over: threading.Event) -> None:
        while not over.is_set():
            control, opened = evil.open()
            links = [
                threading.Thread(target=one, args=(opened, index, over)) for index in range(12)
            ]
            for link in links:
                link.start()
            for link in links:
                link.join(60)
            control.close()

    return attack


def length_attack(evil: HostileSource) -> Attack:
    """A length of 4 GiB in the middle of a genuine connection, and then what it announces."""

    def attack(over: threading.Event) -> None:
        control, opened = evil.open()
        for index in range(10_000):
            if over.is_set():
                break
            with contextlib.suppress(OSError), contextlib.closing(HostileData(opened, index)) as it:
                it.say(FRAMES["pings"])
                it.sock.sendall(b"\xff\xff\xff\xff" + bytes(1 << 20))
        control.close()

    return attack


def control_attack(evil: HostileSource, messages: list[bytes], *, listen: bool = True) -> Attack:
    """Messages for ever; when the receiver hangs up, again."""
    row = b"".join(messages)

    def attack(over: threading.Event) -> None:
        def once() -> None:
            control = evil.connect(listen=listen)
            control.sock.settimeout(1.0)
            with contextlib.closing(control):
                while not over.is_set():
                    with contextlib.suppress(TimeoutError):
                        control.sock.sendall(row)

        over_and_over(once, over)

    return attack


def attacks(evil: HostileSource) -> dict[str, Callable[[], Attack]]:
    """Every attack of an enrolled source, by what it does."""
    error = ErrorInfo(code="RPL-1000", message="m" * 4000, remedy="r" * 4000)
    report = JobReport(job=evil.job, revision=1, state="error", sentence="x" * 4000, error=error)
    flip = msgspec.structs.replace(report, state="syncing", error=None)
    return {
        **{name: partial(data_attack, frame, evil) for name, frame in FRAMES.items()},
        "pings whose answers are not read": lambda: data_attack(
            FRAMES["pings"], evil, listen=False
        ),
        "a length of 4 GiB": lambda: length_attack(evil),
        "inventories of 1 MiB": lambda: control_attack(
            evil, [encode_control(Inventory(disks=BIG_DISKS))]
        ),
        "reports with long texts, in turn": lambda: control_attack(
            evil, [encode_control(report), encode_control(flip)] * 20
        ),
        "heartbeats": lambda: control_attack(evil, [encode_control(Heartbeat(sent=1.0))] * 1000),
        "sessions in a loop": lambda: control_attack(
            evil, [encode_control(evil.wish(number)) for number in range(1, 200)]
        ),
        "10,000 requests": lambda: control_attack(
            evil, [encode_control(Ask(id=number, action="show")) for number in range(1, 10_000)]
        ),
        "requests whose answers are not read": lambda: control_attack(
            evil,
            [encode_control(Ask(id=number, action="show")) for number in range(1, 10_000)],
            listen=False,
        ),
    }


NAMES = [
    *FRAMES,
    "pings whose answers are not read",
    "a length of 4 GiB",
    "inventories of 1 MiB",
    "reports with long texts, in turn",
    "heartbeats",
    "sessions in a loop",
    "10,000 requests",
    "requests whose answers are not read",
]


SHORT = [
    "zeros of 128 TiB",
    "digests of 16 MiB",
    "pings",
    "a bomb",
    "a length of 4 GiB",
    "inventories of 1 MiB",
    "heartbeats",
    "requests whose answers are not read",
]
"""Those of every run; the others are like one of them, and run when the seconds are given."""

SHORT_STRANGERS = ["idle, 500 addresses", "a handshake and no more, one address"]


def test_every_attack_has_a_name(attacked: Attacked) -> None:
    assert sorted(attacks(attacked.evil)) == sorted(NAMES)
    assert set(SHORT) <= set(NAMES)
    assert set(SHORT_STRANGERS) <= set(STRANGERS)


@pytest.mark.parametrize("name", NAMES if LONG else SHORT)
def test_a_source_that_turned_bad_harms_only_itself(attacked: Attacked, name: str) -> None:
    under(attacked, name, attacks(attacked.evil)[name]())


@pytest.mark.parametrize("name", list(STRANGERS) if LONG else SHORT_STRANGERS)
def test_a_thousand_strangers_harm_nobody(attacked: Attacked, name: str) -> None:
    both = attacked.both
    under(attacked, name, STRANGERS[name](both.control, both.data))


def under(attacked: Attacked, name: str, attack: Attack) -> None:
    """The honest job under an attack, and the receiver after it."""
    both = attacked.both
    pid = both.receiver.pid
    before, open_before = status_of(pid, "VmRSS"), descriptors_of(pid)
    over = threading.Event()
    attacking = threading.Thread(target=attack, args=(over,), name=name)
    attacking.start()
    try:
        time.sleep(0.2)
        with attacked.looked_at() as seen:
            spent = attacked.checkpoint()
            over.wait(SECONDS)
    finally:
        over.set()
        attacking.join(90)
    assert not attacking.is_alive()
    report(name, attacked, seen, before, spent)

    log = both.receiver.log.read_text()
    assert both.receiver.pid == pid
    assert both.receiver.running
    assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:3000]
    assert seen.peak - before < GROWTH, f"{(seen.peak - before) >> 20} MiB more"
    slow = max(1.0, attacked.quiet.slowest_answer / 0.1)
    assert seen.slowest_answer < ANSWER_SECONDS * slow, sorted(seen.answers)[-5:]
    assert spent < attacked.usual * CHECKPOINT_FACTOR + CHECKPOINT_ROOM * slow
    assert both.receiver.ask("source.show", name="web01")["connected"]
    assert both.show()["state"] == "syncing"
    until(lambda: descriptors_of(pid) <= open_before + 4, 30, "descriptors as before")


def report(name: str, attacked: Attacked, seen: Figures, before: int, spent: float) -> None:
    """A line of the table of docs/threat-model.md, if it is wanted."""
    if path := os.environ.get("REPLICAD_HOSTILE_REPORT"):
        with Path(path).open("a") as file:
            file.write(
                f"| {name} | {max(0, seen.peak - before) >> 20} MiB | {seen.descriptors} "
                f"| {seen.threads} | {seen.slowest_answer * 1000:.0f} ms "
                f"| {max(seen.scrapes) * 1000:.0f} ms | {spent:.1f} s ({attacked.usual:.1f}) |\n"
            )
