"""A session: the only writer of a job's intermediate disks, and the durable acks.

Opening a session fences every older one of the job: its connections are closed and its writes
have ended before the new one's secret is even made (promise 3). An ack means *on stable
storage*: the session syncs in groups (time or bytes, or at once for a fence), and only what
had been written before the sync began is acknowledged after it.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from protocol.errors import SESSION_FENCED, Fault, PeerFault
from protocol.wire.data import Connections, DataHello
from protocol.wire.frames import Ack
from receiver.datapath import DataConnection

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor

    from protocol.link.buffers import BufferPool

    from protocol.wire.crypto import SessionKeys
    from receiver.disk import IntermediateDisk

SYNC_SECONDS = 0.05
"""Seconds that written data may wait for its sync: long enough to form a group, short enough
that the source's window stays small."""

SYNC_BYTES = 32 << 20
"""Bytes after which a sync begins at once."""


class Session:
    """One generation of writers of one job. Lives on the loop; workers call ``wrote`` only.

    Args:
        on_failed: called once with the fault of a disk; the session takes no more after it.
    """

    def __init__(
        self,
        job: str,
        source: str,
        keys: SessionKeys,
        disks: Mapping[int, IntermediateDisk],
        pool: BufferPool,
        workers: Executor,
        syncers: Executor,
        on_failed: Callable[[Session, Fault], None],
    ) -> None:
        self.id = keys.session.hex()
        self.job = job
        self.source = source
        self.keys = keys
        self.disks = dict(disks)
        self.fault: Fault | None = None
        self._pool = pool
        self._workers = workers
        self._syncers = syncers
        self._on_failed = on_failed
        self._book = Connections()
        self._connections: dict[int, DataConnection] = {}
        self._past_logical = 0
        self._past_wire = 0
        self._unsynced = 0
        self._urgent = False
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._ended: set[asyncio.Task[None]] = set()
        self._syncing = self._loop.create_task(self._sync_forever(), name=f"sync {job}")

    # --- connections ----------------------------------------------------------------------

    def admit(self, hello: DataHello, sock: socket.socket) -> asyncio.Event:
        """Take a connection whose hello is verified here; from now on it is ours. The event
        is set when it is over.

        Raises:
            PeerFault: HELLO_REFUSED or TOO_MANY; the caller closes the socket.
        """
        hello.verify(self.keys)
        if self._closing:
            raise SESSION_FENCED.peer()
        self._book.admit(hello)
        connection = DataConnection(
            sock, self.keys, hello.connection, self, self._pool, self._workers
        )
        self._connections[hello.connection] = connection
        connection.start()
        return connection.over

    def ended(self, connection: DataConnection, fault: Fault | None) -> None:
        """A connection is over. A fault of a disk ends the session, one of the peer does not."""
        if fault is not None and not isinstance(fault, PeerFault):
            self.fail(fault)
        task = self._loop.create_task(self._retire(connection))
        self._ended.add(task)
        task.add_done_callback(self._ended.discard)

    async def _retire(self, connection: DataConnection) -> None:
        await connection.close()
        if self._connections.pop(connection.index, None) is not None:
            self._past_logical += connection.logical_bytes
            self._past_wire += connection.wire_bytes
            self._book.ended(connection.index)

    def fail(self, fault: Fault) -> None:
        """A disk cannot be written: tell the source, take no more."""
        if self.fault is None and not self._closing:
            self.fault = fault
            self._on_failed(self, fault)

    async def close(self) -> None:
        """The fence. When this returns nothing of this session can touch a disk any more."""
        if self._closing:
            return
        self._closing = True
        await asyncio.gather(*(self._retire(each) for each in list(self._connections.values())))
        if self._ended:
            await asyncio.gather(*self._ended)
        self._wake.set()
        await self._syncing
        await self._loop.run_in_executor(self._syncers, self._close_disks)

    def _close_disks(self) -> None:
        for disk in self.disks.values():
            disk.close()

    # --- figures --------------------------------------------------------------------------

    @property
    def logical_bytes(self) -> int:
        """Uncompressed bytes received in this session."""
        return self._past_logical + sum(c.logical_bytes for c in self._connections.values())

    @property
    def wire_bytes(self) -> int:
        """Bytes received from the data connections of this session, seals and lengths included."""
        return self._past_wire + sum(c.wire_bytes for c in self._connections.values())

    # --- what connections report (from workers) ---------------------------------------------

    def disk(self, number: int) -> IntermediateDisk | None:
        """The disk that a frame names, or None when it is not of this session."""
        return None if self._closing or self.fault else self.disks.get(number)

    def wrote(self, logical: int) -> None:
        """A frame was carried out. Wakes the sync when there was nothing to sync, or enough."""
        before = self._unsynced
        self._unsynced = before + max(logical, 1)
        if before == 0 or (before < SYNC_BYTES <= self._unsynced):
            self._loop.call_soon_threadsafe(self._wake.set)

    def fenced(self) -> None:
        """The source waits: sync at once."""
        self._urgent = True
        self._unsynced += 1
        self._loop.call_soon_threadsafe(self._wake.set)

    # --- durable acks -----------------------------------------------------------------------

    async def _sync_forever(self) -> None:
        while not self._closing:
            await self._wake.wait()
            self._wake.clear()
            if not self._pending():
                continue
            await self._gather()
            if self._over:
                continue
            # Both are reset before what was written is looked at: a frame that comes in
            # between is either in this group or has asked for the next one.
            self._unsynced = 0
            self._urgent = False
            written = self._pending()
            try:
                await self.sync()
            except Fault as fault:
                self.fail(fault)
                continue
            for connection, sequence in written.items():
                connection.acked = sequence
                connection.send(Ack(sequence))
            if self._pending():
                self._wake.set()

    @property
    def _over(self) -> bool:
        return self._closing or self.fault is not None

    def _pending(self) -> dict[DataConnection, int]:
        return {c: c.written for c in self._connections.values() if c.written > c.acked}

    async def _gather(self) -> None:
        """Let a group form: until it is large, or old, or somebody waits for it."""
        deadline = time.monotonic() + SYNC_SECONDS
        while self._unsynced < SYNC_BYTES and not self._urgent and not self._closing:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            try:
                async with asyncio.timeout(left):
                    await self._wake.wait()
            except TimeoutError:
                return
            self._wake.clear()

    async def sync(self) -> None:
        """Bring all disks to stable storage, at the same time.

        Raises:
            LocalFault: TARGET_IO or RECEIVER_FULL; nothing since the last sync may be trusted.
        """
        await asyncio.gather(
            *(self._loop.run_in_executor(self._syncers, d.sync) for d in self.disks.values())
        )
