"""One data connection of a session: from its socket to the intermediate disk.

The connection has one owner at a time. While nothing comes, the loop owns it (a readiness
callback); when bytes arrive, a worker takes it over and *pumps*: receive into a pooled buffer,
open, verify, write, and again, as long as there is something to receive. So a fast link costs
one hop between loop and worker per burst, and a slow or silent one holds no thread.

Answers (acks, diffs, pongs) are small and always sent by the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from typing import TYPE_CHECKING, Protocol

import xxhash

from protocol.errors import CONNECTION_LOST, DISK_NOT_OF_JOB, Fault
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
from protocol.wire.limits import DIGEST_SIZE, LENGTH, REPLY_FRAME_MAX, TAG
from receiver.decoder import Decoder

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from protocol.link.buffers import Buffer, BufferPool

    from receiver.disk import IntermediateDisk

BURST_FRAMES = 64
"""Frames after which a worker gives the connection back, so that others get their turn."""

LINGER_MS = 3
"""Milliseconds that a worker waits for more before it gives the connection back."""

REPLIES_MAX = 1 << 20
"""Bytes of answers that may wait for a source that does not read them."""


class Keeper(Protocol):
    """What a connection needs of its session."""

    def disk(self, number: int) -> IntermediateDisk | None: ...
    def wrote(self, logical: int) -> None: ...
    def fenced(self) -> None: ...
    def ended(self, connection: DataConnection, fault: Fault | None) -> None: ...


class DataConnection:
    """Receives the frames of connection ``index``; see the module's text for who owns it when.

    Attributes:
        written: number of the last frame that was carried out (not yet synced), -1 at first.
        acked: number of the last frame that was acknowledged as durable, -1 at first.
        logical_bytes, wire_bytes: what came on this connection.
    """

    def __init__(
        self,
        sock: socket.socket,
        keys: SessionKeys,
        index: int,
        session: Keeper,
        pool: BufferPool,
        executor: Executor,
    ) -> None:
        self.index = index
        self.written = -1
        self.acked = -1
        self.logical_bytes = 0
        self.wire_bytes = 0
        self._sock = sock
        self._session = session
        self._pool = pool
        self._executor = executor
        self._seed = keys.digest_seed
        self._decoder = Decoder(keys, index)
        self._sealer = keys.sealer(index, Direction.FROM_RECEIVER)
        self._reader = FrameReader()
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._loop = asyncio.get_running_loop()
        self._replies = bytearray()
        self._reply = memoryview(bytearray(REPLY_FRAME_MAX + LENGTH + TAG))
        self.over = asyncio.Event()
        self._closing = False
        self._pumping: asyncio.Future[None] | None = None
        self._lent: Buffer | None = None

    # --- the loop's side ------------------------------------------------------------------

    def start(self) -> None:
        """Answer the hello and begin to receive."""
        self.send(Ready())
        self._watch()

    def send(self, frame: Frame, payload: bytes = b"") -> None:
        """Send an answer; never blocks. On the loop's thread only."""
        if self._closing:
            return
        sealed = self._sealer.seal(payload + encode_meta(frame), self._reply)
        self._replies += self._reply[: sealed.size]
        if len(self._replies) > REPLIES_MAX:
            self._end(CONNECTION_LOST.peer(peer="the source", detail="it reads no answers"))
            return
        self._flush()

    def _flush(self) -> None:
        try:
            while self._replies:
                count = self._sock.send(self._replies)
                del self._replies[:count]
        except BlockingIOError:
            self._loop.add_writer(self._sock.fileno(), self._flush)
            return
        except OSError as error:
            self._end(CONNECTION_LOST.peer(peer="the source", detail=str(error)))
            return
        self._loop.remove_writer(self._sock.fileno())

    def _watch(self) -> None:
        self._loop.add_reader(self._sock.fileno(), self._readable)

    def _readable(self) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._pumping = self._loop.run_in_executor(self._executor, self._pump)
        self._pumping.add_done_callback(self._pumped)

    def _pumped(self, pump: asyncio.Future[None]) -> None:
        self._pumping = None
        if pump.cancelled():
            return
        error = pump.exception()
        if error is None and not self._closing:
            self._watch()
        elif isinstance(error, Fault):
            self._end(error)
        elif error is not None:
            raise error

    def _end(self, fault: Fault | None) -> None:
        if self._closing:
            return
        self._closing = True
        self._session.ended(self, fault)

    async def close(self) -> None:
        """Stop receiving. When this returns no write of this connection is under way."""
        self._closing = True
        fd = self._sock.fileno()
        if fd >= 0:
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
        while (pumping := self._pumping) is not None:
            await asyncio.wait([pumping])
            await asyncio.sleep(0)
        self._sock.close()
        self._give_back()
        self.over.set()

    # --- the worker's side ----------------------------------------------------------------

    def _pump(self) -> None:
        reader, sock = self._reader, self._sock
        frames = 0
        while frames < BURST_FRAMES and not self._closing:
            if reader.needs_buffer:
                self._lent = self._pool.borrow()
                reader.provide(self._lent.view)
            try:
                count = sock.recv_into(reader.want())
            except BlockingIOError:
                if self._poll.poll(LINGER_MS):
                    continue
                return
            except OSError as error:
                raise CONNECTION_LOST.peer(peer="the source", detail=str(error)) from error
            if count == 0:
                raise CONNECTION_LOST.peer(peer="the source", detail="it closed the connection")
            self.wire_bytes += count
            if reader.received(count):
                self._frame(reader.take())
                frames += 1

    def _frame(self, sealed: memoryview) -> None:
        sequence = self._decoder.sequence
        with self._pool.lease() as plain:
            frame, payload = self._decoder.open(sealed, plain.view)
            if isinstance(frame, Data):
                self._data(frame, payload)
            elif isinstance(frame, Digests):
                self._digests(frame, payload, sequence)
            elif isinstance(frame, Ping):
                self._loop.call_soon_threadsafe(self.send, Pong(frame.value))
        self._give_back()
        self.written = sequence
        if isinstance(frame, Fence):
            self._session.fenced()
        else:
            self._session.wrote(frame.raw_length if isinstance(frame, Data) else 0)

    def _give_back(self) -> None:
        if self._lent is not None:
            self._pool.give_back(self._lent)
            self._lent = None

    def _disk(self, number: int) -> IntermediateDisk:
        disk = self._session.disk(number)
        if disk is None:
            raise DISK_NOT_OF_JOB.peer(disk=number)
        return disk

    def _data(self, frame: Data, payload: memoryview) -> None:
        """Write one DATA frame: its segments' content lies in the payload one after the other."""
        disk = self._disk(frame.disk)
        last = frame.segments[-1]
        if last.offset + last.length > disk.size:
            raise DISK_NOT_OF_JOB.peer(disk=f"{frame.disk} beyond its end")
        content = self._decoder.content(frame, payload, self._scratch)
        at = 0
        for offset, length, zero in frame.segments:
            if zero:
                disk.zero(offset, length)
            else:
                disk.write(offset, content[at : at + length])
                at += length
            self.logical_bytes += length

    @property
    def _scratch(self) -> memoryview:
        """The buffer that held the sealed frame, which has been opened and is free to use."""
        assert self._lent is not None
        return self._lent.view

    def _digests(self, frame: Digests, payload: memoryview, sequence: int) -> None:
        """Compare our blocks with the source's digests and answer with the differing ones."""
        disk = self._disk(frame.disk)
        last = frame.ranges[-1]
        if last.offset + last.length > disk.size:
            raise DISK_NOT_OF_JOB.peer(disk=f"{frame.disk} beyond its end")
        theirs = bytes(payload)
        blocks = block_count(frame)
        bits = bytearray(-(-blocks // 8))
        buffer = self._scratch
        step = len(buffer) // frame.block * frame.block
        number = 0
        for offset, length, _ in frame.ranges:
            for start in range(offset, offset + length, step):
                part = buffer[: min(step, offset + length - start)]
                disk.read_into(start, part)
                number = self._compare(part, frame.block, theirs, number, bits)
        self._loop.call_soon_threadsafe(self.send, Diff(sequence, blocks), bytes(bits))

    def _compare(
        self, part: memoryview, block: int, theirs: bytes, number: int, bits: bytearray
    ) -> int:
        digest: Callable[..., bytes] = xxhash.xxh3_128_digest
        for at in range(0, len(part), block):
            said = theirs[number * DIGEST_SIZE : (number + 1) * DIGEST_SIZE]
            if digest(part[at : at + block], self._seed) != said:
                bits[number >> 3] |= 1 << (number & 7)
            number += 1
        return number
