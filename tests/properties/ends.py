"""The two daemons of the whole-way model: real parts, put together as the daemons do it.

The order of the steps in :meth:`SourceEnd.attach` is that of :mod:`replicad.engine.job`: a session
is opened (and with it every older one fenced), then what was in flight is lost, then the maps are
attached, then data connections are made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from protocol.errors import Fault
from protocol.link.buffers import Buffer, BufferPool
from protocol.wire.blocks import BlockHasher
from protocol.wire.frames import Ack, Frame
from protocol.wire.jobs import DiskInfo
from protocol.wire.limits import BUFFER
from protocol.wire.messages import OpenDisk, OpenedDisk, OpenSession, SessionOpened
from receiver.datapath import DataConnection
from receiver.evidence import Past, State, forgotten, went_back
from receiver.memory import Memory
from receiver.opening import Opening
from receiver.session import Session
from receiver.sessions import Sessions
from replicad.dirtymap import Batch, DirtyMap, Segments
from replicad.engine.disks import DiskSet
from replicad.engine.passes import run_pass
from replicad.feed import Refill, Work
from replicad.jobdisk import JobDisk
from replicad.pace import Pacer
from replicad.reader import DiskReader
from replicad.sender import Sender
from replicad.transfer import Transfer
from tests.properties.clockwork import ManualExecutor, SteppedLoop
from tests.properties.kernel import GRANULE, HALF, PATH, SIZE, SimTracker

if TYPE_CHECKING:
    from tests.properties.wholeway import WholeWay

CONNECTIONS = 2

_POOLS: list[BufferPool] = []
"""Buffers are made once for all examples; a receiver that is killed leaves its own behind."""

_PLAIN, _SEALED = Buffer(BUFFER).view, Buffer(BUFFER).view


class CountingMap(DirtyMap):
    """Counts the granules that had to be sent again or for a reason other than a write."""

    returned = 0

    def compared(self, batch: Batch, differing: Segments, now: float) -> None:
        CountingMap.returned += sum(count for _, count in differing)
        super().compared(batch, differing, now)

    def suspect_range(self, first: int, count: int) -> int:
        CountingMap.returned += self.flying_granules
        return super().suspect_range(first, count)

    def lost(self, batch: Batch) -> None:
        CountingMap.returned += batch.granules
        super().lost(batch)


class SimReader(DiskReader):
    """Reads a disk that is written meanwhile: the first half of each granule was read earlier.

    It is the real reader of an empty file, but for what it reads.
    """

    def __init__(self, disk: bytearray, path: str, directory: Path) -> None:
        file = directory / "source"
        with file.open("ab") as it:
            it.truncate(SIZE)
        super().__init__(str(file))
        self._disk = disk
        self.path = path
        self.early: dict[int, bytes] = {}
        self.last: list[tuple[int, bytes]] = []

    def begin(self, ranges: Sequence[tuple[int, int]]) -> dict[int, bytes]:
        """The first halves as they are now."""
        return {
            at: bytes(self._disk[at : min(at + HALF, offset + length)])
            for offset, length in ranges
            for at in range(offset, offset + length, GRANULE)
        }

    def read(self, ranges: Sequence[tuple[int, int]], into: memoryview) -> int:
        at = 0
        for offset, length in ranges:
            content = bytearray(self._disk[offset : offset + length])
            for place in range(offset, offset + length, GRANULE):
                early = self.early.get(place)
                if early is not None:
                    content[place - offset : place - offset + len(early)] = early
            into[at : at + length] = content
            self.last.append((offset, bytes(content)))
            at += length
        return at

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        yield 0, SIZE

    def check_size(self) -> None:
        """It has not changed."""


class SimSender(Sender):
    """The real sender without its thread: the test calls its steps."""

    def start(self) -> None:
        """No thread."""

    def join(self, timeout: float | None = None) -> None:
        """No thread."""

    @property
    def next_sequence(self) -> int:
        return self._sealer.next_sequence

    def send(self, work: Work) -> None:
        """Read one piece of work, and do with it what its stage asks for."""
        self._carry_out(work, BlockHasher(_PLAIN, self._seed), _SEALED)

    def ask(self) -> None:
        """Ask for a sync at once."""
        self._fence()


class WatchedConnection(DataConnection):
    """Says which acks it sends, at the moment it does."""

    world: WholeWay

    def send(self, frame: Frame, payload: bytes = b"") -> None:
        if isinstance(frame, Ack):
            self.world.check_ack(self._session, self.index, frame.sequence)
        super().send(frame, payload)


class SimMemory:
    """What the receiver remembers, on stable storage at once: the model has no restored backups,
    so a receiver that seems to have forgotten something is a bug."""

    def __init__(self) -> None:
        self.acked: dict[str, tuple[int, ...]] = {}
        self.session = ""

    def note(self, acked: Mapping[int, int]) -> None:
        self.acked[self.session] = tuple(acked.get(index, 0) for index in range(CONNECTIONS))

    def end(self, left: object) -> None:
        """Nobody else writes here."""

    def close(self) -> None:
        """Nothing is open."""

    def forgot(self, disk: OpenDisk) -> bool:
        return forgotten(self._state, disk.session, disk.acked)

    def went_back(self, disk: OpenDisk) -> bool:
        return went_back(self._state, disk.session, disk.sent)

    @property
    def _state(self) -> State:
        past = tuple(Past(id=name, acked=acked) for name, acked in self.acked.items())
        return State(job="job-1", sessions=past)


class ReceiverEnd:
    """A receiver process: its loop, its threads, its sessions."""

    def __init__(self, world: WholeWay) -> None:
        self.world = world
        self.loop = SteppedLoop(world.clock)
        self.os = world.os
        self.jobs = ManualExecutor(lambda error: world.violate(f"a bug: {error!r}"))
        self.opening: asyncio.Task[SessionOpened] | None = None
        self.pool = _POOLS.pop() if _POOLS else BufferPool(2 * CONNECTIONS + 2, BUFFER)
        self.sessions: Sessions = self.loop.do(self._make)

    def _make(self) -> Sessions:
        world = self.world

        async def do(work: Callable[[Any], Any]) -> Any:
            return work(world.catalog)

        shelf: Any = SimpleNamespace(do=do)
        made = Sessions(shelf, Path("/nowhere"), 0, world.session_failed)
        made._pool = self.pool
        made._cores = CONNECTIONS
        made._syncers = self.jobs
        return made

    def open_disks(
        self, catalog: object, storage: object, source: str, message: OpenSession, **more: Any
    ) -> Opening:
        """Instead of :func:`receiver.opening.open_disks`."""
        world, medium, memory = self.world, self.world.medium, self.world.memory
        (disk_offered,) = message.disks
        if disk_offered.generation == medium.generation and memory.forgot(disk_offered):
            world.violate("the receiver has forgotten what it acknowledged")
        if disk_offered.generation == medium.generation and memory.went_back(disk_offered):
            world.violate("the source has forgotten what was acknowledged to it")
        memory.session = more["session"]
        memory.acked[memory.session] = ()
        if medium.untrusted:
            medium.untrusted = False
            medium.generation = world.new_generation()
        zero = not any(medium.visible)
        disk = self.os.open(medium, SIZE, known_zero=zero)
        fresh, world.fresh = world.fresh and zero, False
        opened = OpenedDisk(
            path=PATH, number=0, generation=medium.generation, fresh=fresh, intermediate="medium"
        )
        return Opening(cast("Any", world.job), {0: disk}, [opened], cast("Memory", memory), "")

    def begin_opening(self, message: OpenSession) -> None:
        """A source asks for a session; it comes when the old one's writers have ended."""

        async def open_session() -> SessionOpened:
            opened = await self.sessions.open("web01", message, 8703)
            self.os.fence(self.world.medium)
            self.world.fenced()
            return opened

        self.opening = self.loop.start(open_session())
        self.loop.settle()

    def current(self) -> Session | None:
        return self.sessions.of_job("job-1")

    def kill(self) -> None:
        """kill -9, or worse."""
        self.os.kill()
        self.jobs.waiting.clear()
        sessions = self.sessions.open_sessions()
        self.loop.kill()
        for session in sessions:
            for connection in session._connections.values():
                connection._sock.close()
        self.sessions._syncers.shutdown(wait=False)
        if self.pool.leased == 0:
            _POOLS.append(self.pool)
        else:
            self.pool.close()


class SourceEnd:
    """A source process: its loop, its tracker, its disk, and a transfer while there is one."""

    def __init__(self, world: WholeWay) -> None:
        self.world = world
        self.loop = SteppedLoop(world.clock)
        self.tracker = SimTracker(world.kernel)
        self.transfer: Transfer | None = None
        self.limbo: list[Transfer] = []
        self.reading: list[tuple[Work, dict[int, bytes]]] = []
        self.running: asyncio.Task[None] | None = None
        self.disks: DiskSet = self.loop.do(self._make)

    def _make(self) -> DiskSet:
        worker: Any = None
        made = DiskSet("job-1", self.world.directory, self.tracker, worker)
        made.disks = (JobDisk(DiskInfo(path=PATH, size=SIZE, kind="disk"), self.tracker),)
        return made

    @property
    def disk(self) -> JobDisk:
        return self.disks.disks[0]

    @property
    def reader(self) -> SimReader:
        return cast("SimReader", self.disk.reader)

    @property
    def senders(self) -> list[SimSender]:
        return cast("list[SimSender]", [*self.transfer._senders.values()] if self.transfer else [])

    # --- a session ----------------------------------------------------------------------------

    def attach(self, opened: SessionOpened) -> None:
        """A session has been opened, so the writers of every older one have ended."""
        for past in self.limbo:
            past.release()
        self.limbo.clear()
        self.disks._attach(opened)
        self.loop.settle()

    def connect(self, opened: SessionOpened) -> bool:
        """Make the data connections; whether that succeeded."""

        async def enter() -> Transfer | None:
            made = Transfer("receiver", opened, self.disks.disks, Pacer(), "auto")
            try:
                return await made.__aenter__()
            except Fault:
                return None

        entering = self.loop.start(enter())
        for _ in range(20):
            self.loop.settle()
            if entering.done():
                break
            self.world.pass_on()
        self.transfer = entering.result()
        return self.transfer is not None

    def leave(self) -> None:
        """The session is over for us; what was in flight is in limbo until the next one opens."""
        if self.running is not None:
            self.running.cancel()
            self.loop.settle()
            assert self.running.done(), "a pass does not end when it is cancelled"
            self.running = None
        transfer, self.transfer = self.transfer, None
        if transfer is not None:
            self.loop.run_until_complete(transfer.__aexit__())
            self.limbo.append(transfer)
            self.reading.clear()

    def run(self, refill: Refill | None = None) -> None:
        """Begin a pass, unless one is under way; or send what ``refill`` gives."""
        self.finish_pass()
        transfer = self.transfer
        if transfer is not None and self.running is None:
            work = transfer.send(refill) if refill else run_pass(transfer, self.disks)
            self.running = self.loop.start(work)
            self.loop.settle()

    def finish_pass(self) -> None:
        """Forget a pass that has ended, however it did."""
        self.loop.settle()
        if self.running is not None and self.running.done():
            fault = self.running.exception()
            if fault is not None and not isinstance(fault, Fault):
                raise fault
            self.running = None

    def plan(self) -> bool:
        """A sender takes a piece of work and begins to read it."""
        transfer = self.transfer
        work = transfer._feed.next(wait=False) if transfer else None
        if work is not None:
            self.reading.append((work, self.reader.begin(work.ranges)))
        self.loop.settle()
        return work is not None

    def kill(self) -> None:
        """kill -9: nothing is tidied up; the map's file stays as it is."""
        for disk in self.disks.disks:
            if disk.map is not None:
                disk.map.close()
                disk.map = None
            disk.reader.close()
        sockets = list(self.transfer._sockets) if self.transfer else []
        self.loop.kill()
        for each in sockets:
            each.close()  # type: ignore[attr-defined]
