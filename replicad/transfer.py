"""The source's end of a session: its data connections and sender threads.

What comes back is heard by :mod:`replicad.answers`. When anything breaks the whole transfer
ends; what was in flight stays in flight in the maps until a new session has fenced this one's
writers off (promise 3), and is then reported lost with :meth:`Transfer.release`.

Both ends of a data connection say something in every heartbeat (:mod:`protocol.wire.alive`).
Neither waits for a disk to do so: slow is not dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Self

from protocol.errors import CONNECTION_LOST, PROTOCOL, Fault
from protocol.link import data as link
from protocol.local import crash
from protocol.wire.alive import Alive
from protocol.wire.crypto import SessionKeys
from protocol.wire.limits import HANDSHAKE_TIMEOUT, HEARTBEAT
from protocol.wire.messages import SessionOpened
from replicad.answers import Answers
from replicad.comparison import Range
from replicad.compression import Tuner
from replicad.config import Tuning
from replicad.courtesy import Courtesy
from replicad.feed import Feed, Refill, Work
from replicad.inflight import InFlight, Window
from replicad.jobdisk import JobDisk
from replicad.latency import Watch
from replicad.pace import Pacer
from replicad.processors import Processors
from replicad.rates import SendMeter, Sent
from replicad.sender import Sender
from replicad.threads import all_ended, ended, to_end

WINDOW_BATCHES = 16384
"""Batches in flight over all connections: bounds the bookkeeping when batches are small."""

WINDOW_MOST = 256 << 20
"""Bytes in flight, whatever the receiver offers: it may never answer. 25 GB/s at a round trip of
10 ms, or 1 GB/s at 250."""

JOIN_SECONDS = 30.0
"""A sender that reads a dying disk may not end; then the thread is left behind."""


class Transfer:
    """An open session. Use as ``async with``; leaving ends connections and threads.

    Args:
        meter: learns how fast is sent.
        heartbeat: seconds between two signs of life on each connection.
        tuner: chooses how hard to compress; keeps what it has learnt over sessions.
        tuning: what an administrator has fixed.

    Attributes:
        courtesies: how each disk is read, by its number.
        processors: how many of its senders work.
    """

    def __init__(
        self,
        host: str,
        opened: SessionOpened,
        disks: Sequence[JobDisk],
        pacer: Pacer,
        compress: str,
        meter: SendMeter | None = None,
        heartbeat: float = HEARTBEAT,
        tuner: Tuner | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._tuner = tuner or Tuner()
        self._heartbeat = heartbeat
        self._beating: asyncio.TimerHandle | None = None
        self._alive: list[Alive] = []
        self._host = host
        self._opened = opened
        self._keys = SessionKeys(opened.secret, bytes.fromhex(opened.session), opened.cipher)
        self._disks = {disk.number: disk for disk in disks}
        self.courtesies = {disk.number: Courtesy() for disk in disks}
        fixed = tuning or Tuning()
        watched = disks if fixed.courtesy == "auto" else ()
        self._watch = Watch(
            {(d.path, d.size): self.courtesies[d.number] for d in watched}, lambda: self.read_bytes
        )
        self._pacer = pacer
        self._compress = compress
        self._congestion = fixed.congestion
        self._congestions: set[str] = set()
        self._feed = Feed()
        self._inflight = InFlight(Window(WINDOW_BATCHES, min(WINDOW_MOST, opened.window_bytes)))
        self._senders: dict[int, Sender] = {}
        self.processors = Processors(
            self._feed, opened.connections, self._threads, fixed=fixed.senders
        )
        self._readers: list[link.AnswerReader] = []
        self._sockets: list[object] = []
        self._failed: asyncio.Future[None] = self._loop.create_future()
        self._ended = False
        self._meter = meter or SendMeter()
        self._answers = Answers(self._feed, self._disks, opened.connections)

    async def __aenter__(self) -> Self:
        # At the same time: each takes two round trips, in which a long line carries nothing.
        indices = range(self._opened.connections)
        connecting = [self._loop.create_task(self._connect(index)) for index in indices]
        try:
            await asyncio.gather(*connecting)
        except BaseException:
            try:
                await all_ended(connecting)
            finally:
                await self.__aexit__()
            raise
        now = self._loop.time()
        self._alive = [Alive(self._heartbeat, now) for _ in self._readers]
        self._beat_later()
        self._watch.start()
        return self

    def _beat_later(self) -> None:
        self._beating = self._loop.call_later(self._heartbeat / 2, self._beat)

    def _beat(self) -> None:
        """Say on every connection that we are here; give up when one hears nothing."""
        now = self._loop.time()
        try:
            for sender in self._senders.values():
                sender.beat()
            for reader, alive in zip(self._readers, self._alive, strict=True):
                alive.check(reader.count, reader.at_boundary, now)
        except Fault as fault:
            self.fail(fault)
        else:
            self._beat_later()

    async def _connect(self, index: int) -> None:
        where = self._host, self._opened.data_port
        sock, control = await link.dial(*where, self._keys, index, self._congestion)
        self._sockets.append(sock)
        reader = link.AnswerReader(sock, self._keys, index, partial(self._hear, index), self.fail)
        self._readers.append(reader)
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                await asyncio.wait([reader.ready, self._failed], return_when="FIRST_COMPLETED")
        except TimeoutError:
            self.fail(CONNECTION_LOST.peer(peer="the receiver", detail="no answer to a hello"))
        if self._failed.done():
            self._failed.result()
        self._congestions.add(control.connected())
        sender = Sender(
            sock,
            self._keys,
            index,
            self._feed,
            self._inflight,
            self._pacer,
            self._compress,
            self._fail_from_thread,
            self._looked_from_thread,
            self._tuner,
            self.courtesies,
        )
        sender.start()  # before it is known: who cannot begin need not be joined
        self._senders[index] = sender
        sender.step_back(back=True)
        crash.here("transfer.connected")

    async def __aexit__(self, *_: object) -> None:
        self._ended = True
        self._watch.stop()
        if self._beating is not None:
            self._beating.cancel()
        for work in self._feed.stop():
            work.lost()
        self._inflight.stop()
        for sender in self._senders.values():
            sender.stop()
        for reader in self._readers:
            reader.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(2)  # type: ignore[attr-defined]
        try:
            # Also when cancelled: what a sender still reads or plans must not be closed.
            await to_end(None, self._join)
        finally:
            self._feed.forget_content()
            self._note_sent()
            for sock in self._sockets:
                sock.close()  # type: ignore[attr-defined]
            self._sockets.clear()
            if self._failed.done() and not self._failed.cancelled():
                self._failed.exception()
            else:
                self._failed.cancel()

    def _join(self) -> None:
        until = time.monotonic() + JOIN_SECONDS
        for sender in self._senders.values():
            sender.join(max(0.1, until - time.monotonic()))

    def _note_sent(self) -> None:
        """The next session opens with it: a receiver that has more has seen us in a time that we
        have not."""
        sent = [0] * self._opened.connections
        for index, sender in self._senders.items():
            sent[index] = sender.frames
        for disk in self._disks.values():
            disk.sent = tuple(sent)

    # --- for the engine -----------------------------------------------------------------------

    @property
    def session(self) -> str:
        """The session's id."""
        return self._opened.session

    @property
    def connections(self) -> int:
        """How many data connections it has."""
        return self._opened.connections

    @property
    def cipher(self) -> str:
        """What seals its frames, by its name on the wire."""
        return self._opened.cipher

    @property
    def congestion(self) -> str:
        """The congestion control of its connections, as a rule the same of all."""
        return ", ".join(sorted(self._congestions))

    def _threads(self) -> list[int]:
        return [sender.native_id or 0 for _, sender in sorted(self._senders.items())]

    @property
    def wire_bytes(self) -> int:
        """Bytes sent on the data connections of this session."""
        return sum(sender.wire_bytes for sender in self._senders.values())

    @property
    def read_rate(self) -> float:
        """Bytes per second that reading the disks gave so far, all who work now together; 0
        unknown."""
        seconds = sum(sender.read_seconds for sender in self._senders.values())
        read = sum(sender.read_bytes for sender in self._senders.values())
        # Of those who work now, also for a freeze, in which all do: they read faster while others
        # are at rest, so more would be a guess.
        at_work = min(len(self._senders), self.processors.concurrency.at_work)
        return read / seconds * at_work if seconds > 0.01 else 0.0

    @property
    def read_bytes(self) -> int:
        """Bytes read from the disks for this session, to be sent or to be hashed."""
        return sum(sender.read_bytes for sender in self._senders.values())

    @property
    def acked_bytes(self) -> int:
        """Logical bytes that were durably acknowledged in this transfer."""
        return self._answers.acked_bytes

    @property
    def sent(self) -> Sent:
        """What was carried so far, for the rate."""
        heard = self._answers
        return Sent(heard.acked_bytes, heard.zeros, self.wire_bytes, heard.compared_batches)

    @property
    def failure(self) -> asyncio.Future[None]:
        """Done, with the fault, when the transfer has failed."""
        return self._failed

    @contextlib.contextmanager
    def hurry(self) -> Iterator[None]:
        """Something is frozen meanwhile: no courtesy."""
        self._hurry(begin=True)
        try:
            yield
        finally:
            self._hurry(begin=False)

    def _hurry(self, *, begin: bool) -> None:
        self.processors.hurry(begin=begin)
        for courtesy in self.courtesies.values():
            courtesy.hurry(begin=begin)
        for sender in self._senders.values():
            sender.step_back(back=not begin)

    def set_compress(self, compress: str) -> None:
        """Change the compression of frames to come."""
        for sender in self._senders.values():
            sender.encoder.set_compress(compress)

    async def send(self, refill: Refill) -> None:
        """Send what ``refill`` takes, until it gives nothing and all is durably answered.

        Raises:
            Fault: the transfer has failed; leave it.
        """
        self._meter.begin(time.monotonic(), self.sent)
        drive = self._loop.create_task(self._feed.drive(refill))
        self.processors.begin()
        try:
            await asyncio.wait([drive, self._failed], return_when="FIRST_COMPLETED")
        finally:
            self.processors.end()
            self._meter.end(time.monotonic(), self.sent)
            fault = await ended(drive)
        if self._failed.done():
            self._failed.result()
        if fault is not None:
            raise fault

    def _fail_from_thread(self, fault: Fault) -> None:
        self._loop.call_soon_threadsafe(self.fail, fault)

    def _hear(self, index: int, frame: object, payload: bytes) -> None:
        sender = self._senders.get(index)
        if sender is None:
            raise PROTOCOL.peer(detail="an answer before anything was sent")
        self._answers.hear(sender, frame, payload)

    def _looked_from_thread(self, work: Work, found: Sequence[Range]) -> None:
        self._loop.call_soon_threadsafe(self._looked_closer, work, found)

    def _looked_closer(self, work: Work, found: Sequence[Range]) -> None:
        """A sender has found which ranges of a work differ."""
        if self._ended:
            return  # its batch is lost, with all that is outstanding
        try:
            self._answers.looked_closer(work, found)
        except Fault as fault:
            self.fail(fault)

    def fail(self, fault: Fault) -> None:
        """The session is over; whoever waits on it is told why."""
        if not self._failed.done() and not self._ended:
            self._failed.set_exception(fault)

    def release(self) -> None:
        """After the next session has opened: what was in flight here is dirty again."""
        for work in self._feed.abandon():
            work.lost()
