"""The whole way in one thread: a working server, the source, a network, the receiver, its disk.

Everything that decides is real: tracker, dirty map, planner, passes, senders, transfer, frames and
their seals, data connections, sessions, the intermediate disk's code, the commit. Simulated are the
kernel with its disk, the wire, the receiver's storage, the clock, and threads. What must hold is
said here and nowhere else: :meth:`WholeWay.check` after each step, and at the moments of an ack,
of a write, of a record.
"""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from protocol.errors import Fault
from protocol.wire.crypto import SessionKeys
from protocol.wire.data import DataHello
from protocol.wire.messages import OpenSession
from replicad.tracker.layout import HOOK_BIO, HOOK_QUEUE, HOOK_REQUEST
from tests.properties import invariants
from tests.properties.clockwork import Clock
from tests.properties.ends import (
    CountingMap,
    ReceiverEnd,
    SimMemory,
    SourceEnd,
)
from tests.properties.invariants import Sent
from tests.properties.kernel import GRANULE, GRANULES, HALF, SIZE, Kernel, Write
from tests.properties.medium import Medium, SimOs
from tests.properties.network import Cable
from tests.properties.stage import play

LANDED = frozenset({"completion"})
BOTH = frozenset({"queue", "completion"})


class Killed(BaseException):
    """The source process is gone in the middle of a step."""


class WholeWay:
    """See the module. ``fresh``: the intermediate disk is new; else it differs here and there."""

    mark_at = LANDED
    medium_class: type[Medium] = Medium

    def __init__(self, directory: Path, *, fresh: bool, seed: int) -> None:
        chance = random.Random(seed)
        self.directory = directory
        self.clock = Clock()
        self.violations: list[str] = []
        self.versions = 0
        self.generations = 0
        self.fresh = fresh
        self.disk = bytearray(SIZE)
        for granule in range(0, GRANULES, 3):
            self._set(self.disk, granule, self._half())
        held = bytearray(SIZE) if fresh else bytearray(self.disk)
        if not fresh:
            for granule in chance.sample(range(GRANULES), 5):
                self._set(held, granule, self._half())
        self.memory = SimMemory()
        self.medium = self.medium_class(bytes(held), self.new_generation())
        self.job = SimpleNamespace(
            id="job-1", source="web01", epoch=0, held=False, state="syncing", wanted=None
        )
        self.catalog = SimpleNamespace(
            jobs=SimpleNamespace(get=lambda _: self.job),
            checkpoints=SimpleNamespace(answering=lambda *_: None),
        )
        self.allowed = self.sent_granules = 0
        CountingMap.returned = 0
        self.sent: list[Sent] = []
        self.cables: list[Cable] = []
        self.os = SimOs(self.violate)
        self.gap = "never attached"
        self.frozen: bytes | None = None
        self.preserved: bytes | None = None
        self._stack = contextlib.ExitStack()
        play(self, self._stack)
        self.kernel = Kernel(self.disk, self.mark_at)
        self.receiver = ReceiverEnd(self)
        self.source: SourceEnd = SourceEnd(self)

    def close(self) -> None:
        self.source.kill()
        self.receiver.kill()
        for cable in self.cables:
            cable.close()
        self.kernel.close()
        self._stack.close()

    def violate(self, text: str) -> None:
        """A promise was seen broken where an exception would be caught by the product."""
        self.violations.append(text)

    # --- the server works ---------------------------------------------------------------------

    def _half(self) -> bytes:
        """The content of half a granule, like no other."""
        self.versions += 1
        return self.versions.to_bytes(8, "little") * (HALF // 8)

    def _set(self, disk: bytearray, granule: int, half: bytes) -> None:
        end = min((granule + 1) * GRANULE, SIZE)
        content = (half + half)[: end - granule * GRANULE]
        disk[granule * GRANULE : end] = content

    def write(
        self, first: int, count: int, *, shift: int, zeros: bool, whole: bool, seen: bool = True
    ) -> None:
        """Queue a write of half granules (``zeros``: a discard); ``whole``: to its end."""
        offset = first * GRANULE + shift * HALF
        length = min(count * HALF, SIZE - offset)
        if length <= 0:
            return
        content = bytes(length) if zeros else b"".join(self._half() for _ in range(count))[:length]
        if any(_overlap(offset, length, each) for each in self.kernel.writes):
            return  # what two writes at once leave is nobody's to say
        self.kernel.queue(offset, content, seen=seen)
        if not seen:
            self.kernel.miss(HOOK_QUEUE)
        if whole:
            self.kernel.land(len(self.kernel.writes) - 1, length)

    def miss(self, first: int, hook: int) -> None:
        """A write that no program sees, or of which only the queueing was missed, or (of a hook
        that this disk does not need) nothing; the kernel counts that it did not run one.
        """
        if any(_overlap(first * GRANULE, HALF, each) for each in self.kernel.writes):
            return
        self.kernel.queue(first * GRANULE, self._half(), seen=hook == HOOK_BIO)
        self.kernel.land(len(self.kernel.writes) - 1, HALF, seen=hook != HOOK_REQUEST)
        self.kernel.miss(hook)

    def land_all(self) -> None:
        while self.kernel.writes:
            self.kernel.land(0, SIZE)

    # --- the source ---------------------------------------------------------------------------

    def drain(self, kill_after: int | None = None) -> None:
        """Drain; with ``kill_after`` the process is killed around so manyeth hand-over."""
        source = self.source
        if source.disk.map is None:
            return
        calls = 0

        def merge(first: int, words: Any) -> None:
            nonlocal calls
            calls += 1
            if kill_after is not None and calls > kill_after // 2 and kill_after % 2 == 0:
                raise Killed
            self.allowed += int(np.bitwise_count(words).sum())
            type(source.disk).merge(source.disk, first, words)
            if kill_after is not None and calls > kill_after // 2:
                raise Killed

        source.disk.merge = merge  # type: ignore[method-assign, assignment]
        try:
            source.disks.drain_now()
        except Killed:
            self.kill_source()
        else:
            del source.disk.merge
            source.loop.settle()

    def send(self, which: int, line: int) -> None:
        """A sender ends reading and sends."""
        source = self.source
        work, early = source.reading[which]
        senders = source.senders
        sender = senders[line % len(senders)]
        if not sender._inflight.room(1, work.size):
            return
        del source.reading[which]
        source.reader.early, source.reader.last = early, []
        if work.stage == "data":
            self.sent_granules += work.batch.granules
        assert source.transfer is not None
        sequence = sender.next_sequence
        try:
            sender.send(work)
        except Fault as fault:
            source.transfer.fail(fault)
        self.sent.append(
            Sent(source.transfer.session, sender.index, sequence, work, source.reader.last)
        )
        self.collect()

    def ask(self, line: int) -> None:
        """A sender has nothing to send, and asks for what it sent to be made durable."""
        senders = self.source.senders
        try:
            senders[line % len(senders)].ask()
        except Fault as fault:
            assert self.source.transfer is not None
            self.source.transfer.fail(fault)
        self.collect()

    def leave_if_failed(self) -> None:
        """As the engine does: when anything broke, the whole transfer ends."""
        transfer = self.source.transfer
        if transfer is not None and transfer.failure.done():
            self.leave()

    def leave(self) -> None:
        for cable in self.live_cables():
            cable.cut()
        self.source.leave()

    def kill_source(self, *, run_lost: bool = False, pins_lost: bool = False) -> None:
        """kill -9 of the source; and a new process, which goes on from what it finds."""
        source = self.source
        held = source.disk.map
        if held is not None:
            CountingMap.returned += held.flying_granules
        source.kill()
        for cable in self.cables:
            if not cable.cut_off:
                cable.cut()
        if run_lost:
            for path in self.directory.glob("*.map"):
                path.unlink()
            self.gap = "no map"
        if pins_lost:
            self.kernel.slot.generation = 0
            self.gap = "pins lost"
        self.source = SourceEnd(self)

    def reboot(self, *, run_kept: bool) -> None:
        """The server boots: what was queued is lost or not, nobody has marked anything."""
        self.kill_source(run_lost=not run_kept)
        writes, self.kernel.writes = self.kernel.writes, []
        for number, write in enumerate(writes):
            if number % 2:
                end = write.offset + len(write.content)
                self.disk[write.offset : end] = write.content
        self.source.kill()
        self.kernel.close()
        self.kernel = Kernel(self.disk, self.mark_at)
        self.gap = "another boot"
        self.source = SourceEnd(self)

    # --- the wire -----------------------------------------------------------------------------

    async def dial(
        self, host: str, port: int, keys: SessionKeys, index: int, congestion: str
    ) -> tuple[Any, Any]:
        del host, port, congestion
        receiver = self.receiver
        cable = Cable()
        self.cables.append(cable)
        hello = DataHello.parse(DataHello(keys.session, index).encode(keys))

        def arrive() -> None:
            session = receiver.sessions.find(keys.session)
            try:
                if session is None:
                    raise ConnectionError
                session.admit(hello, cable.receiver)
            except (Fault, ConnectionError):
                cable.end()

        receiver.loop.call_soon(arrive)
        return cable.source, SimpleNamespace(connected=lambda: "sim")

    def live_cables(self) -> list[Cable]:
        return [cable for cable in self.cables if not cable.cut_off]

    def collect(self) -> None:
        """What was written is on the wire now: a sender never waits for room."""
        for cable in self.cables:
            cable.collect()
        self.cables = [cable for cable in self.cables if not cable.gone]

    def settle(self) -> None:
        """Both loops do what they can without a thread, a clock or a wire."""
        self.collect()
        while self.receiver.loop.settle() | self.source.loop.settle():
            self.collect()

    def pass_on(self) -> None:
        """Answers travel at once."""
        self.receiver.loop.settle()
        for cable in self.live_cables():
            cable.answer(1 << 20)

    # --- the receiver -------------------------------------------------------------------------

    def new_generation(self) -> str:
        self.generations += 1
        return f"g{self.generations}"

    def ask_for_session(self) -> None:
        """A source that has none asks for a session."""
        if self.source.transfer is None and self.receiver.opening is None:
            self.receiver.begin_opening(
                OpenSession(
                    id=1, job="job-1", disks=(self.source.disk.offer(self.directory, "job-1"),)
                )
            )

    def fenced(self) -> None:
        """A new session is open: nothing of an older one is on its way any more."""
        self.sent.clear()

    def take_session(self, *, heard: bool) -> None:
        """The session has opened; unless the source never hears of it."""
        opening = self.receiver.opening
        if opening is None or not opening.done():
            return
        self.receiver.opening = None
        opened = opening.result()
        if not heard:
            return
        source = self.source
        before = None if source.disk.map is None else source.disk.map.header.generation
        source.attach(opened)
        self._judge_gap(before, opened.disks[0].generation, fresh=opened.disks[0].fresh)
        if not source.connect(opened):
            source.leave()

    def _judge_gap(self, before: str | None, generation: str, *, fresh: bool) -> None:
        """Promise 4: after any gap nothing is called clean."""
        held = self.source.disk.live_map
        if self.gap or (before is not None and before != generation):
            lacking = [any(held.state(granule)[:2]) for granule in range(GRANULES)]
            assert all(lacking), f"promise 4: clean after a gap: {self.gap or 'generation'}"
            if fresh:
                self.allowed += GRANULES
        self.gap = ""

    def kill_receiver(self, chance: random.Random, *, power: bool) -> None:
        """kill -9 of the receiver, or its power goes, and with it what was not synced."""
        self.receiver.kill()
        if power:
            self.medium.crash(chance)
        for cable in self.cables:
            cable.end()
        self.receiver = ReceiverEnd(self)
        self.settle()

    def swap(self, chance: random.Random) -> None:
        """Somebody puts an old copy of the intermediate disk in its place, while nobody uses it;
        the catalog knows it by another generation."""
        if self.receiver.current() is not None or self.receiver.opening is not None:
            return
        content = bytearray(self.medium.stable)
        for granule in chance.sample(range(GRANULES), 10):
            self._set(content, granule, self._half())
        self.medium.replace(bytes(content), self.new_generation())

    def session_failed(self, session: Any, fault: Fault) -> None:
        """A disk cannot be written: the source is told, over the control connection."""
        source = self.source

        def hear() -> None:
            transfer = source.transfer
            if transfer is not None and transfer.session == session.id:
                transfer.fail(fault)

        source.loop.call_soon(hear)

    def run_job(self, which: int) -> None:
        """One of the receiver's threads does its work."""
        waiting = self.receiver.jobs.waiting
        self.receiver.jobs.run(which % len(waiting))
        self.settle()

    # --- what must always hold ----------------------------------------------------------------

    def check_ack(self, session: Any, index: int, sequence: int) -> None:
        """At the moment in which an ack is sent."""
        invariants.check_ack(self, session, index, sequence)

    def check(self) -> None:
        """Every promise, as far as it can be seen in a state."""
        invariants.check(self)


def _overlap(offset: int, length: int, write: Write) -> bool:
    return offset < write.offset + len(write.content) and write.offset < offset + length
