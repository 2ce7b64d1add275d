"""A sender thread: one data connection, one extent at a time, all of it in one thread.

Read (or take what was read while frozen), digest, compress, seal, send: the worker that holds
the buffer does everything with it, the interpreter's lock is released in most of these steps,
and nothing of extent size is allocated. The loop hears the answers.

Frames are numbered when they are sealed and must leave in that order, so sealing and sending are
one thing, under one lock. The loop takes it when nobody has it, to say that we are still here:
the thread may be waiting for work, for room in the window, or for a disk that is dying.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from protocol.errors import INTERNAL, Fault
from protocol.link.buffers import Buffer
from protocol.link.data import send_all, writable
from protocol.local import crash, log
from protocol.wire.blocks import BlockHasher, portions
from protocol.wire.crypto import Direction, SessionKeys
from protocol.wire.frames import Ack, Diff, Digests, Fence, Ping, Segment, encode_meta
from protocol.wire.limits import (
    ANSWER_BYTES,
    BLOCK,
    BUFFER,
    DIGEST_SIZE,
    FINE_BLOCK,
    LENGTH,
    PAYLOAD_MAX,
    TAG,
)
from protocol.wire.window import SendWindow
from replicad.comparison import Range, block_count, differing, unequal
from replicad.compression import Tuner
from replicad.courtesy import Courtesy
from replicad.dirtymap import Batch
from replicad.encoder import Encoder
from replicad.feed import Feed, Work
from replicad.inflight import InFlight, Stopped
from replicad.latency import step_back
from replicad.pace import Pacer
from replicad.salvage import salvage

LIMIT_SLICE_SECONDS = 0.25
"""How long it takes at most until a new bandwidth limit is noticed by who waits for the old one."""

_log = log.get("sender")


class Sender(threading.Thread):
    """Sends on connection ``index``.

    Args:
        on_fault: called from this thread with what ended it; not called after :meth:`stop`.
        on_compared: called from this thread with a work and which ranges of it differ.
        tuner: chooses how hard to compress; told how long things take.
        courtesies: how each disk is read, by its number.

    Attributes:
        wire_bytes: bytes given to the socket, seals and lengths included.
        read_bytes, read_seconds: what reading the disk took, for the forecast of a freeze.
    """

    def __init__(
        self,
        sock: socket.socket,
        keys: SessionKeys,
        index: int,
        feed: Feed,
        inflight: InFlight,
        pacer: Pacer,
        compress: str,
        on_fault: Callable[[Fault], None],
        on_compared: Callable[[Work, Sequence[Range]], None],
        tuner: Tuner | None = None,
        courtesies: Mapping[int, Courtesy] | None = None,
    ) -> None:
        super().__init__(name=f"sender-{index}", daemon=True)
        self.index = index
        self.wire_bytes = 0
        self.read_bytes = 0
        self.read_seconds = 0.0
        self._tuner = tuner or Tuner()
        self.encoder = Encoder(compress, self._tuner)
        self._line_seconds = 0.0
        self._courtesies = courtesies or {}
        self._last_read = 0.0, 0.0
        self._sock = sock
        self._sealer = keys.sealer(index, Direction.FROM_SOURCE)
        self._seed = keys.digest_seed
        self._feed = feed
        self._inflight = inflight
        self._pacer = pacer
        self._on_fault = on_fault
        self._on_compared = on_compared
        self._window: SendWindow[Batch] = SendWindow(bytes_max=1 << 62, frames_max=1 << 30)
        self._window_lock = threading.Lock()
        self._stopping = threading.Event()
        self._speaking = threading.Lock()
        self._said = -1
        self._fenced = True

    @property
    def frames(self) -> int:
        """Frames that were sent, or begun to be."""
        return self._window.last_sent + 1

    # --- the loop's side --------------------------------------------------------------------

    def stop(self) -> None:
        """Ask the thread to end; join it afterwards."""
        self._stopping.set()

    def step_back(self, *, back: bool) -> None:
        """Make way for others, at the disk and at the processor, or do so no more."""
        if self.native_id is not None:
            step_back(self.native_id, back=back)

    def acknowledge(self, ack: Ack) -> list[Batch]:
        """The batches that an ack of this connection releases.

        Raises:
            PeerFault: PROTOCOL for an ack that cannot be true.
        """
        with self._window_lock:
            self._window.acknowledge(ack)
        return self._inflight.acked(self.index, ack.sequence)

    def differs(self, diff: Diff) -> Batch | None:
        """The batch whose digests a diff answers.

        Raises:
            PeerFault: PROTOCOL for a diff of nothing that was sent.
        """
        with self._window_lock:
            return self._window.differs(diff)

    def beat(self) -> None:
        """Say that we are here, if nothing was said since the last time. Never waits: who is
        speaking now, or cannot for want of room, needs no more to be heard, or will not be."""
        if not self._speaking.acquire(blocking=False):
            return
        try:
            if self._said != self.wire_bytes or self._stopping.is_set():
                self._said = self.wire_bytes
            elif writable(self._sock):
                self._plain_frame(encode_meta(Ping(0)))
                self._said = self.wire_bytes
        finally:
            self._speaking.release()

    # --- the thread -------------------------------------------------------------------------

    def run(self) -> None:
        """Send until stopped or until something breaks."""
        try:
            self._serve()
        except Stopped:
            return
        except Fault as fault:
            self._report(fault)
        except Exception as error:  # noqa: BLE001 - who waits for answers must hear of it
            _log.exception("sender.bug", connection=self.index)
            self._report(INTERNAL.fault(detail=f"{type(error).__name__}: {error}"))

    def _report(self, fault: Fault) -> None:
        if not self._stopping.is_set():
            self._on_fault(fault)

    def _serve(self) -> None:
        plain, sealed = Buffer(BUFFER), Buffer(BUFFER)
        hasher = BlockHasher(plain.view, self._seed)
        try:
            while True:
                work = self._feed.next(self._fenced, self.index)
                if work is None:
                    self._fence()
                else:
                    self._carry_out(work, hasher, sealed.view)
        finally:
            plain.free()
            sealed.free()

    def _carry_out(self, work: Work, hasher: BlockHasher, sealed: memoryview) -> None:
        if work.stage == "data":
            self._data(work, hasher.buffer, sealed)
        elif work.stage == "coarse":
            self._digests(work, hasher, sealed)
        else:
            self._look_closer(work, hasher)

    def _data(self, work: Work, plain: memoryview, sealed: memoryview) -> None:
        reserved = work.size
        self._inflight.reserve(1, reserved)
        begun, compressing = time.monotonic(), self.encoder.seconds
        waiting = self._line_seconds
        if (content := work.frozen) is not None:
            plain[:reserved] = content
            del content
        elif not salvage(self._feed, work, lambda: self._read(work, work.ranges, plain)):
            self._inflight.cancel(1, reserved)
            return
        crash.here("sender.read")
        encoded = self.encoder.encode(work.disk.number, work.ranges, plain)
        work.zeros = encoded.zero
        crash.here("sender.encoded")
        self._send(work, work.size, reserved, plain[: encoded.size], sealed, 0)
        now = time.monotonic()
        compressed, waited = self.encoder.seconds - compressing, self._line_seconds - waiting
        other = now - begun - compressed - waited
        self._tuner.sent(encoded.size, compressed, waited, other, now)

    def _read(self, work: Work, ranges: Sequence[tuple[int, int]], into: memoryview) -> None:
        begun = time.monotonic()
        if (courtesy := self._courtesies.get(work.disk.number)) is not None:
            pause = courtesy.owed(*self._last_read, begun)
            if pause > 0:
                if self._stopping.wait(pause):
                    raise Stopped
                begun = time.monotonic()
        self.read_bytes += work.disk.reader.read(ranges, into)
        ended = time.monotonic()
        self.read_seconds += ended - begun
        self._last_read = ended - begun, ended

    def _digests(self, work: Work, hasher: BlockHasher, sealed: memoryview) -> None:
        """Read and hash what is to be compared; only the digests travel."""
        plain = hasher.buffer
        reserved = block_count(work.ranges, BLOCK) * ANSWER_BYTES
        self._inflight.reserve(1, reserved)
        digests = bytearray()
        if not salvage(self._feed, work, lambda: self._hash(work, BLOCK, hasher, digests)):
            self._inflight.cancel(1, reserved)
            return
        crash.here("sender.hashed")
        blocks = block_count(work.ranges, BLOCK)
        size = blocks * DIGEST_SIZE
        if work.verdict is None:
            work.disk.compared_bytes += work.size
        ranges = tuple(Segment(offset, length) for offset, length in work.ranges)
        medium = work.verdict is not None
        meta = encode_meta(Digests(work.disk.number, BLOCK, ranges, medium))
        plain[:size] = digests
        plain[size : size + len(meta)] = meta
        # The answer counts from now on: it is kept until somebody looks closer.
        kept = blocks * ANSWER_BYTES
        self._send(work, kept, reserved, plain[: size + len(meta)], sealed, blocks)

    def _look_closer(self, work: Work, hasher: BlockHasher) -> None:
        """Which of our small blocks are not what the receiver has said that its own are. Nothing
        of it travels."""
        digests = bytearray()
        if not salvage(self._feed, work, lambda: self._hash(work, FINE_BLOCK, hasher, digests)):
            return
        crash.here("sender.looked")
        assert work.answer is not None  # it is what makes a closer look
        flags = unequal(bytes(digests), work.answer.within(work.ranges))
        if self._stopping.is_set():  # left behind by a disk that was dying: nobody listens
            raise Stopped
        self._on_compared(work, differing(work.ranges, flags, FINE_BLOCK))

    def _hash(self, work: Work, block: int, hasher: BlockHasher, digests: bytearray) -> None:
        """Fill ``digests`` with those of the work's blocks."""
        digests.clear()
        for some in portions(work.ranges, block, PAYLOAD_MAX // block, PAYLOAD_MAX // block):
            self._read(work, some, hasher.buffer)
            digests += b"".join(hasher.digests([length for _, length in some], block))

    def _send(
        self,
        work: Work,
        size: int,
        reserved: int,
        plaintext: memoryview,
        into: memoryview,
        blocks: int,
    ) -> None:
        if rate := self._pacer.rate:  # before it is asked: no change in between must be missed
            wire = LENGTH + len(plaintext) + TAG
            self._wait(self._pacer.spend(wire, time.monotonic()), rate)
        with self._speaking:
            frame = self._sealer.seal(plaintext, into)
            crash.here("sender.sealed")
            # Known before it is sent: its answer must find it.
            with self._window_lock:
                self._window.sent(frame.sequence, 0, work.batch, blocks)
            now = time.monotonic()
            self._inflight.add(self.index, frame.sequence, work.batch, size, reserved, now)
            crash.here("sender.in_flight")
            self._fenced = False
            self._put(into[: frame.size])
        crash.here("sender.put")

    def _fence(self) -> None:
        """Nothing to send now: have what was sent made durable without waiting for a group."""
        with self._speaking:
            self._plain_frame(encode_meta(Fence()))
            self._fenced = True
        crash.here("sender.fenced")

    def _plain_frame(self, meta: bytes) -> None:
        """Send a frame without content; the caller may speak."""
        sealed = memoryview(bytearray(LENGTH + len(meta) + TAG))
        frame = self._sealer.seal(meta, sealed)
        with self._window_lock:
            self._window.sent(frame.sequence)
        self._put(sealed)

    def _put(self, frame: memoryview) -> None:
        self._line_seconds += send_all(self._sock, frame, self._stopping.is_set)
        self.wire_bytes += len(frame)

    def _wait(self, seconds: float, rate: int) -> None:
        """For the limit, until it is no longer ``rate``: what it allows is the line, too."""
        begun, left = time.monotonic(), seconds
        while left > 0 and self._pacer.rate == rate:
            if self._stopping.wait(min(left, LIMIT_SLICE_SECONDS)):
                raise Stopped
            left = begun + seconds - time.monotonic()
        if seconds > 0:
            self._line_seconds += time.monotonic() - begun
