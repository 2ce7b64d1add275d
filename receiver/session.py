"""A session: the only writer of a job's intermediate disks, and the durable acks.

Opening a session fences every older one of the job: its connections are closed and its writes
have ended before the new one's secret is even made (promise 3). An ack means *on stable
storage*: the session syncs in groups (time or bytes, or at once for a fence), and only what
had been written before the sync began is acknowledged after it.

Workers and the loop meet in three words only: a connection's ``written`` (set by its worker
when a frame has been carried out), the count of unsynced bytes (under a lock), and the event
that wakes the sync. Whoever adds to a count of nothing wakes; the count is reset *before*
``written`` is looked at; so a frame is in the group that is about to be synced, or has woken
the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING

from protocol.errors import (
    CONNECTION_LOST,
    INTERNAL,
    SESSION_FENCED,
    TARGET_TOUCHED,
    TOO_MANY,
    Fault,
    PeerFault,
)
from protocol.local import crash, log
from protocol.wire.data import Connections, DataHello
from protocol.wire.frames import Ack
from protocol.wire.limits import CONNECTIONS_MAX, HEARTBEAT
from receiver.datapath import DataConnection
from receiver.evidence import Left
from receiver.grouping import Grouping, Groups

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor

    from protocol.link.buffers import BufferPool
    from protocol.wire.crypto import SessionKeys
    from receiver.crew import SessionLane
    from receiver.disk import IntermediateDisk
    from receiver.memory import Memory

SYNC_BYTES = 32 << 20
"""Bytes after which a sync begins at once."""

_log = log.get("session")


class Session:
    """One generation of writers of one job. Lives on the loop; workers call ``wrote`` and read
    ``over``, ``still`` and ``disk``.

    Args:
        memory: where it is kept how much is durable; ours from now on.
        lane: where the workers of its connections come from.
        pool: receive buffers, one for each connection; without one none is admitted.
        on_failed: called once with the fault of a disk; the session takes no more after it.
        connections_max: open at one time.
        heartbeat: seconds between two signs of life on each connection.
        groups: of all sessions that are synced beside this one.

    Attributes:
        closed: set when nothing of it is left.
        grouping: how long written data waits for its sync.
        still: the disks stand at a checkpoint; content that comes now breaks the protocol.
    """

    def __init__(
        self,
        job: str,
        source: str,
        keys: SessionKeys,
        disks: Mapping[int, IntermediateDisk],
        memory: Memory,
        pool: BufferPool,
        lane: SessionLane,
        syncers: Executor,
        on_failed: Callable[[Session, Fault], None],
        connections_max: int = CONNECTIONS_MAX,
        heartbeat: float = HEARTBEAT,
        groups: Groups | None = None,
    ) -> None:
        self.id = keys.session.hex()
        self.job = job
        self.source = source
        self.keys = keys
        self.disks = dict(disks)
        self.fault: Fault | None = None
        self.still = False
        self.grouping = Grouping(groups)
        self.closed = asyncio.Event()
        self._memory = memory
        self._durable: dict[int, int] = {}
        self._pool = pool
        self._heartbeat = heartbeat
        self._lane = lane
        self._syncers = syncers
        self._on_failed = on_failed
        self._book = Connections(connections_max)
        self._connections: dict[int, DataConnection] = {}
        self._past_logical = 0
        self._past_wire = 0
        self._counting = threading.Lock()
        self._unsynced = 0
        self._urgent = False
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._retiring: set[asyncio.Task[None]] = set()
        self._ending: asyncio.Task[None] | None = None
        self._syncing = self._loop.create_task(self._keep_syncing(), name=f"sync {job}")

    @property
    def over(self) -> bool:
        """Fenced, or a disk failed: nothing more is written."""
        return self._closing or self.fault is not None

    # --- connections ----------------------------------------------------------------------

    def admit(self, hello: DataHello, sock: socket.socket) -> asyncio.Event:
        """Take a connection whose hello is verified here; from now on it is ours. The event
        is set when it is over.

        Raises:
            PeerFault: HELLO_REFUSED, SESSION_FENCED or TOO_MANY; the caller closes the socket.
        """
        hello.verify(self.keys)
        if self.over:
            raise SESSION_FENCED.peer()
        try:
            buffer = self._pool.borrow(timeout=0)
        except TimeoutError:
            raise TOO_MANY.peer(what="no receive buffer is free ([limits] memory)") from None
        try:
            self._book.admit(hello)
            connection = DataConnection(
                sock, self.keys, hello.connection, self, buffer, self._lane, self._heartbeat
            )
        except BaseException:
            self._pool.give_back(buffer)
            raise
        crash.here("connection.admitted")
        self._connections[hello.connection] = connection
        connection.start()
        return connection.over

    def ended(self, connection: DataConnection, fault: Fault) -> None:
        """A connection is over. Our own fault ends the session, one of the peer does not."""
        if not isinstance(fault, PeerFault):
            self.fail(fault)
        elif fault.code != CONNECTION_LOST.code and not self._closing:
            _log.warning("connection.ended", job=self.job, code=fault.code, because=fault.sentence)
        task = self._loop.create_task(self._retire(connection))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _retire(self, connection: DataConnection) -> None:
        await connection.close()
        if self._connections.pop(connection.index, None) is not None:
            self._past_logical += connection.logical_bytes
            self._past_wire += connection.wire_bytes
            self._book.ended(connection.index)
            self._pool.give_back(connection.buffer)

    def fail(self, fault: Fault) -> None:
        """A disk cannot be written: tell the source, take no more."""
        if not self.over:
            self.fault = fault
            self._on_failed(self, fault)

    async def close(self) -> None:
        """The fence. When this returns nothing of this session can touch a disk any more.

        May be called by several; one that is cancelled does not stop what has begun.
        """
        if self._ending is None:
            self._closing = True
            self._ending = self._loop.create_task(self._end(), name=f"close {self.job}")
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        await asyncio.gather(*(self._retire(each) for each in list(self._connections.values())))
        while self._retiring:
            await asyncio.wait(self._retiring)
        self._wake.set()
        await self._syncing
        crash.here("session.retired")
        await self._loop.run_in_executor(self._syncers, self._close_disks)
        self.closed.set()

    def _close_disks(self) -> None:
        try:
            # A disk that failed is not asked again what it holds.
            if self.fault is None or self.fault.code == TARGET_TOUCHED.code:
                self._memory.end([_left(number, disk) for number, disk in self.disks.items()])
        except Fault as fault:
            # Not left in order: the next session goes by what there is instead.
            _log.warning("session.unclean", job=self.job, code=fault.code, because=fault.sentence)
        for disk in self.disks.values():
            try:
                disk.close()
            except OSError:  # the descriptor is gone whatever close(2) says
                _log.exception("disk.close", job=self.job, disk=disk.path)
        self._memory.close()

    # --- figures --------------------------------------------------------------------------

    @property
    def logical_bytes(self) -> int:
        """Uncompressed bytes received in this session."""
        return self._past_logical + sum(c.logical_bytes for c in self._connections.values())

    @property
    def wire_bytes(self) -> int:
        """Bytes received from the data connections of this session, seals and lengths included."""
        return self._past_wire + sum(c.wire_bytes for c in self._connections.values())

    # --- what connections ask and report (from workers) ----------------------------------------

    def disk(self, number: int) -> IntermediateDisk | None:
        """The disk that a frame names, or None when it is not of this session."""
        return self.disks.get(number)

    def wrote(self, logical: int, *, fence: bool) -> None:
        """A frame was carried out. Wakes the sync when there was nothing to sync, or enough, or
        the source waits for it."""
        with self._counting:
            before = self._unsynced
            self._unsynced = before + max(logical, 1)
            self._urgent = self._urgent or fence
            wake = fence or before == 0 or before < SYNC_BYTES <= self._unsynced
        if wake:
            self._loop.call_soon_threadsafe(self._wake.set)

    # --- durable acks -----------------------------------------------------------------------

    async def _keep_syncing(self) -> None:
        try:
            while not self._closing:
                await self._wake.wait()
                with self.grouping.forming():
                    await self._gather()
                await self._sync_group()
        except Exception as error:  # noqa: BLE001 - without acks the source would wait for ever
            _log.exception("session.bug", job=self.job)
            self.fail(INTERNAL.fault(detail=f"{type(error).__name__}: {error}"))

    async def _gather(self) -> None:
        """Let a group form: until it is large, or old, or somebody waits for it."""
        begun = time.monotonic()
        while self._unsynced < SYNC_BYTES and not self._urgent and not self._closing:
            self._wake.clear()
            left = begun + self.grouping.seconds - time.monotonic()
            try:
                async with asyncio.timeout(max(0.0, left)):
                    await self._wake.wait()
            except TimeoutError:
                return

    async def _sync_group(self) -> None:
        """Sync, then acknowledge what had been written before the sync began."""
        self._wake.clear()
        with self._counting:
            self._unsynced = 0
            self._urgent = False
        written = {c: c.written for c in self._connections.values() if c.written > c.acked}
        if not written or self.over:
            return
        crash.here("sync.gathered")
        self._durable.update((c.index, sequence + 1) for c, sequence in written.items())
        begun = time.monotonic()
        try:
            await self.sync(dict(self._durable))
        except Fault:
            return
        self.grouping.synced(time.monotonic() - begun)
        crash.here("sync.done")
        for connection, sequence in written.items():
            connection.acked = sequence
            connection.send(Ack(sequence))
            crash.here("ack.sent")

    async def sync(self, durable: Mapping[int, int] | None = None) -> None:
        """Bring all disks to stable storage, at the same time.

        Args:
            durable: frames of each connection that will be durable then. It is put on record at
                the same time: if only that survives, the source has not been told either.

        Raises:
            LocalFault: TARGET_IO or RECEIVER_FULL; nothing since the last sync may be trusted,
                and the session has failed.
        """
        syncs = [
            self._loop.run_in_executor(self._syncers, disk.sync) for disk in self.disks.values()
        ]
        if durable is not None:
            syncs.append(self._loop.run_in_executor(self._syncers, self._memory.note, durable))
        try:
            await asyncio.gather(*syncs)
        except Fault as fault:
            self.fail(fault)
            raise


def _left(number: int, disk: IntermediateDisk) -> Left:
    """How a disk is left. Synced first: what the kernel has yet to write would count as others'.

    Raises:
        Fault: that is not known.
    """
    disk.sync()
    with contextlib.suppress(Fault):  # it is said in ``doubt``
        disk.look()
    return Left(number=number, mark=disk.mark(), doubt=disk.lease.doubt if disk.lease else "")
