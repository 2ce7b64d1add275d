"""A session of the receiver with a source's end in the test: fake disks, real sockets."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xxhash

from protocol.errors import TARGET_IO, Fault, PeerFault
from protocol.link.buffers import BufferPool
from protocol.wire.crypto import Direction, SessionKeys
from protocol.wire.data import DataHello, FrameReader
from protocol.wire.frames import (
    RAW,
    Ack,
    Data,
    Fence,
    Frame,
    Segment,
    decode_meta,
    encode_meta,
)
from protocol.wire.limits import BUFFER, HEARTBEAT, REPLY_FRAME_MAX
from receiver.crew import Crew, SessionLane
from receiver.disk.lease import Lease
from receiver.evidence import Mark
from receiver.grouping import Groups
from receiver.memory import Memory
from receiver.session import Session

GRANULE = 4096
KEYS = SessionKeys(bytes(range(32)), bytes(range(16)))


class FakeDisk:
    """In memory; remembers which offsets were written and which of those were synced after.

    ``sync_gate`` and ``write_gate`` hold calls while they are cleared; ``fail_*`` are raised
    once. ``busy`` is how many calls are under way.
    """

    def __init__(self, size: int = 1 << 22) -> None:
        self.path = "fake"
        self.size = size
        self.content = bytearray(size)
        self.written: set[int] = set()
        self.durable: set[int] = set()
        self.syncs = 0
        self.busy = 0
        self.closed = False
        self.sync_gate, self.write_gate = threading.Event(), threading.Event()
        self.sync_gate.set()
        self.write_gate.set()
        self.entered = threading.Event()
        self.fail_write: Exception | None = None
        self.fail_sync: Exception | None = None
        self.lease: Lease | None = None

    def mark(self) -> Mark:
        return Mark()

    def look(self) -> None:
        pass

    def _enter(self, gate: threading.Event) -> None:
        assert not self.closed, "a call on a closed disk"
        self.busy += 1
        self.entered.set()
        assert gate.wait(20)

    def write_pieces(self, pieces: Sequence[tuple[int, memoryview]]) -> None:
        for offset, content in pieces:
            self.write(offset, content)

    def write(self, offset: int, content: memoryview) -> None:
        self._enter(self.write_gate)
        try:
            if self.fail_write is not None:
                raise self.fail_write
            self.content[offset : offset + len(content)] = content
            self.written.add(offset)
        finally:
            self.busy -= 1

    def zero(self, offset: int, length: int) -> None:
        self._enter(self.write_gate)
        self.content[offset : offset + length] = bytes(length)
        self.written.add(offset)
        self.busy -= 1

    def read(self, ranges: Sequence[tuple[int, int]], into: memoryview) -> int:
        filled = 0
        for offset, length in ranges:
            into[filled : filled + length] = self.content[offset : offset + length]
            filled += length
        return filled

    def is_hole(self, offset: int, length: int) -> bool:
        return False

    def sync(self) -> None:
        before = set(self.written)
        self._enter(self.sync_gate)
        try:
            self.syncs += 1
            if self.fail_sync is not None:
                raise self.fail_sync
            self.durable |= before
        finally:
            self.busy -= 1

    def close(self) -> None:
        assert self.busy == 0, "closed while a call was under way"
        self.closed = True


def disk_fault() -> Fault:
    """What a failing disk raises."""
    return TARGET_IO.fault(path="fake", detail="Input/output error")


class Link:
    """The source's end of one data connection."""

    def __init__(self, session: Session, index: int, keys: SessionKeys = KEYS) -> None:
        self.index = index
        self.sent: list[int] = []
        self.acked = -1
        self.sock, theirs = socket.socketpair()
        self.sock.setblocking(False)
        theirs.setblocking(False)
        self._sealer = keys.sealer(index, Direction.FROM_SOURCE)
        self._opener = keys.opener(index, Direction.FROM_RECEIVER)
        self._reader = FrameReader(REPLY_FRAME_MAX)
        self._buffer = memoryview(bytearray(REPLY_FRAME_MAX + 4))
        self._reader.provide(self._buffer)
        hello = DataHello(keys.session, index)
        said = hello.encode(keys)
        try:
            self.over = session.admit(DataHello.parse(said), theirs)
        except PeerFault:
            self.sock.close()
            theirs.close()
            raise
        self.connection = session._connections[index]

    def sealed(self, frame: Frame, payload: bytes = b"") -> bytes:
        plain = payload + encode_meta(frame)
        into = memoryview(bytearray(len(plain) + 20))
        self._sealer.seal(plain, into)
        return bytes(into)

    async def send(self, frame: Frame, payload: bytes = b"") -> None:
        data = self.sealed(frame, payload)
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    def data(self, offset: int, fill: int = 1) -> tuple[Data, bytes]:
        content = bytes([fill]) * GRANULE
        digest = xxhash.xxh3_128_digest(content)
        return Data(0, RAW, GRANULE, digest, (Segment(offset, GRANULE),)), content

    async def write(self, offset: int, fill: int = 1) -> None:
        """Send one granule."""
        self.sent.append(offset)
        await self.send(*self.data(offset, fill))

    async def fence(self) -> None:
        self.sent.append(-1)
        await self.send(Fence())

    async def frame(self) -> tuple[Frame, bytes]:
        """The next answer; EOFError at the end."""
        loop = asyncio.get_running_loop()
        plain = memoryview(bytearray(REPLY_FRAME_MAX))
        while True:
            count = await loop.sock_recv_into(self.sock, self._reader.want())
            if count == 0:
                raise EOFError
            if self._reader.received(count):
                length = self._opener.open(self._reader.take(), plain)
                self._reader.provide(self._buffer)
                frame, payload = decode_meta(plain[:length], Direction.FROM_RECEIVER)
                return frame, bytes(plain[:payload])

    async def acks(self, up_to: int) -> None:
        """Read answers until frame ``up_to`` is acknowledged."""
        while self.acked < up_to:
            frame, _ = await self.frame()
            if isinstance(frame, Ack):
                self.acked = frame.sequence


class Harness:
    """A session over fake disks. ``failed`` are the faults that it reported."""

    def __init__(
        self, disks: int = 1, buffers: int = 8, workers: int = 2, heartbeat: float = HEARTBEAT
    ) -> None:
        self.heartbeat = heartbeat
        self.disks = [FakeDisk() for _ in range(disks)]
        self.pool = BufferPool(buffers, BUFFER)
        self.failed: list[Fault] = []
        self._directory = tempfile.TemporaryDirectory()
        self._workers = ThreadPoolExecutor(workers)
        self.crew = Crew(self._workers, workers, workers)
        self.groups = Groups()
        self._syncers = ThreadPoolExecutor(4)

    def session(
        self,
        on_failed: Callable[[Session, Fault], None] | None = None,
        lane: SessionLane | None = None,
    ) -> Session:
        return Session(
            "job",
            "web01",
            KEYS,
            dict(enumerate(self.disks)),  # type: ignore[arg-type]
            self.memory(),
            self.pool,
            lane or SessionLane(self.crew),
            self._syncers,
            on_failed or (lambda _, fault: self.failed.append(fault)),
            heartbeat=self.heartbeat,
            groups=self.groups,
        )

    def memory(self) -> Memory:
        """What the session puts on record, in a directory of its own."""
        memory = Memory.open(Path(self._directory.name), "job")
        memory.begin(KEYS.session.hex(), "", "job")
        return memory

    def close(self) -> None:
        self._directory.cleanup()
        self._workers.shutdown()
        self._syncers.shutdown()
        self.pool.close()
