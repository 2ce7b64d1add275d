"""One data connection of a session: from its socket to the intermediate disk.

The connection has one owner at a time. While nothing comes, the loop owns it (a readiness
callback); when bytes arrive, a worker takes it over and *pumps*: receive into the connection's
buffer, open, verify, write, and again, as long as there is something to receive and it is not
another session's turn (:mod:`receiver.crew`). So a fast link costs one hop between loop and worker
per burst, and a slow or silent one holds no thread.

No pump ever waits for memory: a connection brings its receive buffer with it (who cannot have
one is not admitted), and the second buffer, for the opened frame, belongs to the worker thread.
So a thousand connections that stop in the middle of a frame cannot stop another one.

Answers are always sent by the loop. So is the sign of life in every heartbeat, whatever a worker or
a disk is doing (:mod:`protocol.wire.alive`). The answers to digests can be many: while too much of
them has not left, the connection is *held back* and nothing is received on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Protocol

from protocol.errors import CONNECTION_LOST, INTERNAL, Fault, PeerFault
from protocol.link.allowance import Allowance
from protocol.link.buffers import Buffer
from protocol.local import crash, log
from protocol.wire.alive import Alive
from protocol.wire.crypto import Direction, SessionKeys
from protocol.wire.data import FrameReader
from protocol.wire.frames import (
    Data,
    Diff,
    Digests,
    Fence,
    Frame,
    Ping,
    Pong,
    Ready,
    block_count,
    encode_meta,
)
from protocol.wire.limits import (
    BUFFER,
    HEARTBEAT,
    LENGTH,
    PINGS_BURST,
    PINGS_RATE,
    REPLY_FRAME_MAX,
    TAG,
)
from receiver.applying import Applier, Target
from receiver.decoder import Decoder

if TYPE_CHECKING:
    from receiver.crew import Service, SessionLane

LINGER_MS = 3
"""Milliseconds that a worker waits for more before it gives the connection back. Not while
another connection has something and no worker."""

OWED_MAX = 256 << 10
"""Bytes of answers to digests that wait for a source that does not read them, after which no more
of its frames are read: it may compare faster than it listens."""

REPLIES_MAX = 1 << 20
"""Bytes of all answers that may wait for a source that does not read them."""

_log = log.get("datapath")


class Workspace(threading.local):
    """What each worker thread has of its own: the buffer that frames are opened into."""

    plain: Buffer | None = None

    def buffer(self) -> memoryview:
        """BUFFER bytes, made when the thread first asks."""
        if self.plain is None:
            self.plain = Buffer(BUFFER)
        return self.plain.view


_workspace = Workspace()

_reply = memoryview(bytearray(REPLY_FRAME_MAX + LENGTH + TAG))
"""What the loop seals answers into, one at a time."""


class Keeper(Target, Protocol):
    """What a connection needs of its session."""

    def wrote(self, logical: int, *, fence: bool) -> None:
        """A frame was carried out (from a worker). ``fence``: the source waits for its ack."""

    def ended(self, connection: DataConnection, fault: Fault) -> None:
        """The connection is over; the keeper closes it (on the loop)."""


class DataConnection:
    """Receives the frames of connection ``index``; see the module's text for who owns it when.

    Args:
        sock: non-blocking; ours from now on.
        buffer: of BUFFER bytes, the caller's again after :meth:`close`.
        lane: where workers come from, shared with the session's other connections.
        heartbeat: seconds between two signs of life.

    Attributes:
        written: number of the last frame that was carried out (not yet synced), -1 at first.
        acked: number of the last frame that was acknowledged as durable, -1 at first.
        logical_bytes, wire_bytes: what came on this connection.
        over: set when it is closed.
    """

    def __init__(
        self,
        sock: socket.socket,
        keys: SessionKeys,
        index: int,
        session: Keeper,
        buffer: Buffer,
        lane: SessionLane,
        heartbeat: float = HEARTBEAT,
    ) -> None:
        self.index = index
        self.buffer = buffer
        self.written = -1
        self.acked = -1
        self.logical_bytes = 0
        self.wire_bytes = 0
        self.over = asyncio.Event()
        self._sock = sock
        self._session = session
        self._lane = lane
        self._decoder = Decoder(keys, index)
        self._applier = Applier(session, keys.digest_seed)
        self._sealer = keys.sealer(index, Direction.FROM_RECEIVER)
        self._reader = FrameReader()
        self._reader.provide(buffer.view)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._loop = asyncio.get_running_loop()
        self._replies = bytearray()
        self._asked = self._told = 0  # bytes of answers to digests: of a worker, and of the loop
        self._held_back = False
        self._left = 0  # bytes of answers that left while it was held back
        self._pings = Allowance(PINGS_RATE, PINGS_BURST, time.monotonic())
        self._closing = False
        self._pumping: asyncio.Future[None] | None = None
        self._heartbeat = heartbeat
        self._spoken = self._loop.time()
        self._alive = Alive(heartbeat, self._spoken)
        self._beating: asyncio.TimerHandle | None = None

    # --- the loop's side ------------------------------------------------------------------

    def start(self) -> None:
        """Answer the hello and begin to receive."""
        self.send(Ready())
        if not self._closing:
            self._watch()
            self._beating = self._loop.call_later(self._heartbeat / 2, self._beat)

    def send(self, frame: Frame, payload: bytes = b"") -> None:
        """Send an answer; never blocks. On the loop's thread only."""
        if self._closing:
            return
        self._spoken = self._loop.time()
        sealed = self._sealer.seal(payload + encode_meta(frame), _reply)
        self._told += len(payload)
        self._replies += _reply[: sealed.size]
        if len(self._replies) > REPLIES_MAX:
            self._end(self._deaf())
            return
        self._flush()

    def _deaf(self) -> Fault:
        return CONNECTION_LOST.peer(peer="the source", detail="it reads no answers")

    def _beat(self) -> None:
        """Say that we are here, if nothing was said lately; end it if nothing is heard."""
        if self._closing:
            return
        now = self._loop.time()
        if self._pumping is not None:
            self._alive.busy(now)
        else:
            try:
                # While it is held back that it listens is its sign of life.
                heard = self.wire_bytes + self._left
                self._alive.check(heard, self._reader.at_boundary, now)
            except PeerFault as fault:
                self._end(self._deaf() if self._held_back else fault)
                return
        if now - self._spoken >= self._heartbeat / 2:
            self.send(Pong(0))
        self._beating = self._loop.call_later(self._heartbeat / 2, self._beat)

    def _flush(self) -> None:
        if self._closing:
            return
        try:
            while self._replies:
                count = self._sock.send(self._replies)
                del self._replies[:count]
                self._left += count if self._held_back else 0
        except BlockingIOError:
            self._loop.add_writer(self._sock.fileno(), self._flush)
            return
        except OSError as error:
            self._end(CONNECTION_LOST.peer(peer="the source", detail=str(error)))
            return
        self._loop.remove_writer(self._sock.fileno())
        if self._held_back:
            self._watch()

    @property
    def _owes_too_much(self) -> bool:
        return self._asked - self._told + len(self._replies) > OWED_MAX

    def _watch(self) -> None:
        """Hear of what comes; while too much is to be said, of what has been said."""
        self._held_back = self._owes_too_much
        if not self._held_back:
            self._loop.add_reader(self._sock.fileno(), self._readable)

    def _readable(self) -> None:
        if self._closing:
            return
        self._loop.remove_reader(self._sock.fileno())
        self._pumping = self._lane.serve(self._pump)
        self._pumping.add_done_callback(self._pumped)

    def _pumped(self, pump: asyncio.Future[None]) -> None:
        self._pumping = None
        if pump.cancelled():
            self._end(CONNECTION_LOST.fault(peer="the source", detail="the receiver stops"))
            return
        error = pump.exception()
        if isinstance(error, Fault):
            self._end(error)
        elif error is not None:  # a bug: said aloud, and the session ends; it must not hang
            _log.error("datapath.bug", exc_info=error)
            self._end(INTERNAL.fault(detail=f"{type(error).__name__}: {error}"))
        elif not self._closing:
            self._watch()

    def _end(self, fault: Fault) -> None:
        """Take no more. The keeper is told once, and closes us."""
        if not self._closing:
            self._closing = True
            self._session.ended(self, fault)

    async def close(self) -> None:
        """Stop receiving. When this returns no write of this connection is under way, and
        descriptor and buffer are free. May be called by several, and again."""
        self._closing = True
        if self._beating is not None:
            self._beating.cancel()
        fd = self._sock.fileno()
        if fd >= 0:
            # While the number is still ours: a closed one may be another's already.
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
        self._lane.withdraw(self._pump)
        while (pumping := self._pumping) is not None:
            await asyncio.wait([pumping])
            await asyncio.sleep(0)
        self._sock.close()
        self.over.set()

    # --- the worker's side ----------------------------------------------------------------

    def _pump(self, service: Service) -> bool:
        """Receive until nothing comes (False), or until it is others' turn (True)."""
        reader, sock = self._reader, self._sock
        while not (self._closing or self._owes_too_much):
            try:
                count = sock.recv_into(reader.want())
            except BlockingIOError:
                if not service.others_wait and self._poll.poll(LINGER_MS):
                    continue
                return False
            except OSError as error:
                raise CONNECTION_LOST.peer(peer="the source", detail=str(error)) from error
            if count == 0:
                raise CONNECTION_LOST.peer(peer="the source", detail="it closed the connection")
            self.wire_bytes += count
            if reader.received(count):
                service.frame_begins()
                self._frame(reader.take(), service)
                service.frame_ended()
                reader.provide(self.buffer.view)
            if service.over:
                return not self._closing  # what closes now is not to wait for a turn
        return False

    def _frame(self, sealed: memoryview, service: Service) -> None:
        """Carry a frame out. The buffer that it came in is free once it has been opened."""
        crash.here("frame.received")
        sequence = self._decoder.sequence
        frame, payload = self._decoder.open(sealed, _workspace.buffer(), self.buffer.view)
        crash.here("frame.opened")
        logical = 0
        if isinstance(frame, Data):
            logical = self._applier.data(frame, payload)
            self.logical_bytes += logical
        elif isinstance(frame, Digests):
            answer = self._applier.digests(frame, payload, self.buffer.view)
            crash.here("frame.compared")
            self._asked += len(answer)
            # Queued before the frame is called written, so before any ack that covers it.
            diff = Diff(sequence, block_count(frame))
            self._loop.call_soon_threadsafe(self.send, diff, answer)
        elif isinstance(frame, Ping):
            service.sleep(self._pings.spend(1, time.monotonic()))
            self._loop.call_soon_threadsafe(self.send, Pong(frame.value))
        crash.here("frame.written")
        self.written = sequence
        self._session.wrote(logical, fence=isinstance(frame, Fence))
