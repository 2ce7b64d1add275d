"""The source's engine with everything around it played: tracker, freezer, control link, receiver.

Disks are files, dirty maps, threads, sockets and frames are real. :class:`Receiver` keeps the
disks in memory and can be told to misbehave; :class:`Tracker` learns of writes because the tests
write through it; :class:`Freezing` freezes nothing but notices who writes, and keeps what the
disk held in that moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
import xxhash

from protocol.errors import Fault
from protocol.wire.crypto import Direction, SessionKeys
from protocol.wire.data import HELLO_SIZE, DataHello
from protocol.wire.frames import Ack, Data, Diff, Digests, Fence, Frame, Ready, encode_meta
from protocol.wire.jobs import DiskInfo
from protocol.wire.limits import BLOCK, BUFFER, DIGEST_SIZE, FINE_BLOCK, HEARTBEAT, LENGTH
from protocol.wire.messages import (
    CheckpointFailed,
    CloseSession,
    Commit,
    Committed,
    OpenedDisk,
    OpenSession,
    SessionOpened,
)
from receiver.decoder import Decoder
from replicad.engine.disks import DiskSet
from replicad.engine.frozen import THREADS
from replicad.engine.passes import run_pass
from replicad.jobdisk import JobDisk
from replicad.pace import Pacer
from replicad.tracker import CannotTrack, DiskDrain, EbpfTracker, NoTracker, TrackedDisk
from replicad.transfer import Transfer

GRANULE = 4096
GRANULES = 600


class Tracker(EbpfTracker):
    """Records what is written with :meth:`write`. ``misses`` may be raised by a test."""

    def __init__(self) -> None:
        self.misses_now = 0
        self.token = "t0"
        self._marked: dict[str, set[int]] = {}
        self._handed: dict[str, int] = {}
        self.untracked: list[str] = []

    def write(self, path: Path, granule: int, content: bytes, *, seen: bool = True) -> None:
        """Write to a disk; ``seen`` says whether the tracker notices."""
        with path.open("r+b") as disk:
            disk.seek(granule * GRANULE)
            disk.write(content)
        if seen and str(path) in self._marked:
            self._marked[str(path)].add(granule)

    def track(self, path: str) -> TrackedDisk:
        self._marked.setdefault(path, set())
        return TrackedDisk(path, 0, 0, os.stat(path).st_size, GRANULE, self.token)

    def tracked(self) -> list[TrackedDisk]:
        return [self.track(path) for path in self._marked]

    def untrack(self, disk: TrackedDisk) -> None:
        self.untracked.append(disk.path)
        self._marked.pop(disk.path, None)

    def misses(self, disk: TrackedDisk) -> int:
        if disk.token != self.token:
            raise CannotTrack("another token")
        return self.misses_now

    def handed(self, disk: TrackedDisk) -> int:
        return self._handed.get(disk.path, 0)

    def drain(
        self, disks: Sequence[TrackedDisk], sink: Any, handed: Any = None
    ) -> dict[str, DiskDrain]:
        for disk in disks:
            self.misses(disk)
        for disk in disks:
            marked, self._marked[disk.path] = self._marked[disk.path], set()
            words = np.zeros(-(-disk.size // GRANULE // 64) + 1, np.uint64)
            for granule in marked:
                words[granule // 64] |= np.uint64(1 << granule % 64)
            if marked:
                sink(disk, 0, words)
                self._handed[disk.path] = self.handed(disk) + 1
                handed(disk, self.handed(disk))
        return {disk.path: DiskDrain(self.misses_now) for disk in disks}


@dataclass
class Receiver:
    """The receiver's end of data connections. Use as ``async with``.

    Attributes:
        disks: intermediate disks by number.
        answer: called with each frame's number and what would be answered to it; may answer
            otherwise, with nothing, or raise ConnectionError to cut the connection.
        written: called after each DATA frame was carried out.
    """

    sizes: dict[str, int]
    fresh: bool = False
    answer: Callable[[Frame, list[tuple[Frame, bytes]]], list[tuple[Frame, bytes]]] | None = None
    written: Callable[[], None] | None = None
    cut_after: int | None = None
    epoch: int = 0
    committed: dict[int, dict[int, bytes]] = field(default_factory=dict)
    failed: list[CheckpointFailed] = field(default_factory=list)
    generation: str = "g0"

    def __post_init__(self) -> None:
        self.disks = {n: bytearray(size) for n, size in enumerate(self.sizes.values())}
        self._writers: list[asyncio.StreamWriter] = []
        self._keys: SessionKeys | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.fence()
        self._server.close()
        await asyncio.sleep(0)

    def fence(self) -> None:
        """End all connections; nothing of them is written any more."""
        self._keys = None
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def open(self, answers: int = 1) -> SessionOpened:
        """A new session; every older one is fenced off."""
        self.fence()
        secret, session = secrets.token_bytes(32), secrets.token_bytes(16)
        self._keys = SessionKeys(secret, session)
        fresh, self.fresh = self.fresh, False
        return SessionOpened(
            answers=answers,
            session=session.hex(),
            secret=secret,
            data_port=self.port,
            epoch=self.epoch,
            disks=tuple(
                OpenedDisk(
                    path=path, number=n, generation=self.generation, fresh=fresh, intermediate=""
                )
                for n, path in enumerate(self.sizes)
            ),
            connections=2,
        )

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        keys = self._keys
        self._writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, Fault):
            hello = DataHello.parse(await reader.readexactly(HELLO_SIZE))
            if keys is not None:
                hello.verify(keys)
                await self._converse(keys, hello.connection, reader, writer)
        writer.transport.abort()

    async def _converse(
        self,
        keys: SessionKeys,
        index: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        sealer, decoder = keys.sealer(index, Direction.FROM_RECEIVER), Decoder(keys, index)
        plain, scratch = memoryview(bytearray(BUFFER)), memoryview(bytearray(BUFFER))

        def say(frame: Frame, payload: bytes = b"") -> None:
            into = memoryview(bytearray(len(payload) + 256))
            writer.write(into[: sealer.seal(payload + encode_meta(frame), into).size])

        say(Ready())
        while True:
            length = int.from_bytes(await reader.readexactly(LENGTH), "big")
            sealed = bytearray(await reader.readexactly(length))
            if self.cut_after is not None:
                self.cut_after -= length
                if self.cut_after < 0:
                    self.cut_after = None
                    raise ConnectionResetError
            if self._keys is not keys:
                return
            sequence = decoder.sequence
            frame, payload = decoder.open(memoryview(sealed), plain, scratch)
            answers = self._carry_out(keys, frame, payload, sequence)
            if self.answer is not None:
                answers = self.answer(frame, answers)
            for each in answers:
                say(*each)

    def _carry_out(
        self,
        keys: SessionKeys,
        frame: Frame,
        payload: memoryview,
        sequence: int,
    ) -> list[tuple[Frame, bytes]]:
        if isinstance(frame, Data):
            at = 0
            for offset, length, zero in frame.segments:
                part = bytes(length) if zero else payload[at : at + length]
                self.disks[frame.disk][offset : offset + length] = part
                at += 0 if zero else length
            if self.written is not None:
                self.written()
            return []
        if isinstance(frame, Digests):
            return [self._compare(keys, frame, bytes(payload), sequence)]
        return [(Ack(sequence), b"")] if isinstance(frame, Fence) else []

    def _compare(
        self, keys: SessionKeys, frame: Digests, theirs: bytes, sequence: int
    ) -> tuple[Frame, bytes]:
        def digests(offset: int, length: int, block: int) -> list[bytes]:
            parts = (
                self.disks[frame.disk][at : min(at + block, offset + length)]
                for at in range(offset, offset + length, block)
            )
            return [xxhash.xxh3_128_digest(part, keys.digest_seed) for part in parts]

        bits, finer, blocks = 0, bytearray(), 0
        for offset, length, _ in frame.ranges:
            for at in range(offset, offset + length, BLOCK):
                size = min(BLOCK, offset + length - at)
                low = blocks * DIGEST_SIZE
                if digests(at, size, BLOCK)[0] != theirs[low : low + DIGEST_SIZE]:
                    bits |= 1 << blocks
                    finer += b"".join(digests(at, size, FINE_BLOCK))
                blocks += 1
        return Diff(sequence, blocks), bits.to_bytes(-(-blocks // 8), "little") + finer


class Link:
    """The control link: opens sessions at a :class:`Receiver` and records its checkpoints."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.closed = asyncio.Event()
        self.sent: list[object] = []
        self.on_commit: Callable[[Commit], None] | None = None
        self.heartbeat = HEARTBEAT
        self.round_trip = 0.0
        self._ids = 0

    def new_id(self) -> int:
        self._ids += 1
        return self._ids

    def send(self, message: object) -> None:
        self.sent.append(message)
        if isinstance(message, CheckpointFailed):
            self.receiver.failed.append(message)
        elif isinstance(message, CloseSession):
            self.receiver.fence()

    async def request(self, message: object, _answer: object, _limit: float = 1.0) -> Any:
        await asyncio.sleep(0)
        if isinstance(message, OpenSession):
            return self.receiver.open(message.id)
        assert isinstance(message, Commit)
        kept = {number: bytes(disk) for number, disk in self.receiver.disks.items()}
        self.receiver.committed[message.epoch] = kept
        self.receiver.epoch = message.epoch
        if self.on_commit is not None:
            self.on_commit(message)
        return Committed(answers=message.id, epoch=message.epoch, held=message.hold)


class Freezing:
    """Makes freezers for :func:`monkeypatch`; knows whether something is frozen now.

    Attributes:
        references: the disk's content at each freeze.
    """

    def __init__(self, disk: Path) -> None:
        self.disk = disk
        self.frozen = False
        self.references: list[bytes] = []
        self.on_thaw: Callable[[], None] | None = None

    def __call__(self, mounts: object, budget: float, **_: object) -> Freezing:
        self.budget = self.remaining = budget
        return self

    def prepare(self) -> None: ...
    def flush(self) -> float:
        return 0.0

    def freeze(self) -> None:
        self.frozen = True
        self.references.append(self.disk.read_bytes())

    def thaw(self) -> float:
        self.close()
        return 0.01

    def close(self) -> None:
        was, self.frozen = self.frozen, False
        if was and self.on_thaw is not None:
            self.on_thaw()


class Bench:
    """One disk of ``granules`` with random content, its disk set, tracker and receiver."""

    def __init__(self, directory: Path, receiver: Receiver, disk: Path, tracker: Any) -> None:
        self.directory = directory
        self.receiver = receiver
        self.link = Link(receiver)
        self.path = disk
        self.tracker = tracker
        self.worker = ThreadPoolExecutor(1)
        self.workers = ThreadPoolExecutor(THREADS)
        self.pacer = Pacer()
        self.disks = DiskSet("job", directory, tracker, self.worker)
        info = DiskInfo(path=str(disk), size=disk.stat().st_size, kind="file")
        self.disks.disks = (JobDisk(info, tracker),)

    @property
    def disk(self) -> JobDisk:
        """The only disk."""
        return self.disks.disks[0]

    async def transfer(self, heartbeat: float = HEARTBEAT) -> Transfer:
        """A new session, not yet entered."""
        opened = self.receiver.open()
        await self.disks.attach(opened)
        return Transfer(
            "127.0.0.1", opened, self.disks.disks, self.pacer, "auto", heartbeat=heartbeat
        )

    async def sync(self) -> None:
        """An undisturbed session, until nothing differs."""
        async with await self.transfer() as transfer:
            for _ in range(6):
                await self.disks.drain()
                if not self.disks.differ:
                    return
                await run_pass(transfer, self.disks)
        raise AssertionError(f"it still differs: {self.disk.report()}")

    def equal(self) -> bool:
        """Whether the intermediate disk holds what the disk holds."""
        return bytes(self.receiver.disks[0]) == self.path.read_bytes()

    def close(self) -> None:
        """Ends threads."""
        self.disk.close()
        self.worker.shutdown()
        self.workers.shutdown()


@contextlib.asynccontextmanager
async def bench(directory: Path, granules: int, *, tracked: bool = True) -> AsyncIterator[Bench]:
    """A bench whose receiver's disk is fresh."""
    disk = directory / "disk"
    disk.write_bytes(os.urandom(granules * GRANULE))
    tracker = Tracker() if tracked else NoTracker("there is none")
    async with Receiver({str(disk): granules * GRANULE}, fresh=True) as receiver:
        made = Bench(directory, receiver, disk, tracker)
        try:
            yield made
        finally:
            made.close()


def in_bench(case: Callable[[Bench], object], *, tracked: bool = True) -> None:
    """Run ``case`` with a bench of :data:`GRANULES`."""

    async def run() -> None:
        with TemporaryDirectory(dir="/dev/shm") as directory:
            async with bench(Path(directory), GRANULES, tracked=tracked) as made:
                await case(made)  # type: ignore[misc]

    asyncio.run(run())
