"""The open sessions: one a job, each the only writer of its disks.

Opening, closing and committing of one job happen one after the other, under the job's lock; a
new session waits until the last write of the old one has ended (promise 3), and a checkpoint is
recorded while nobody can open another.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

from protocol.errors import TOO_MANY, Fault
from protocol.link.buffers import BufferPool
from protocol.local import crash, log
from protocol.wire.ciphers import choose
from protocol.wire.crypto import SessionKeys
from protocol.wire.limits import BUFFER, HEARTBEAT, SECRET
from protocol.wire.messages import OpenSession, SessionOpened
from receiver.config import Tuning
from receiver.crew import Crew, SessionLane
from receiver.grouping import Groups
from receiver.opening import job_to_run, open_disks
from receiver.session import Session
from receiver.shelf import Shelf

WINDOW_BYTES = 256 << 20
"""Bytes that a source may have unacknowledged: what the fastest link carries in the time that
a group of writes and its sync take."""

SPARE_CONNECTIONS = 2
"""Connections beyond those offered: one that is made anew before its loss was seen."""

WORKERS_MAX = 64
"""Worker threads for all sessions together. Far more than there are cores, and than serve at a
time: a frame can keep a worker for seconds (a slow disk, a terabyte to zero), and a session has at
most one busy worker a connection. So a source that does this over all its connections leaves
workers for the others. Threads are made when needed."""

WORKERS_SHARE = 8
"""At most this part of the memory's buffers is for workers, which have one each."""

_log = log.get("sessions")


def workers_for(cores: int, memory: int, at_a_time: int = 0) -> int:
    """Worker threads of a receiver with so many bytes of buffers, of which so many serve at a time:
    twice as many, for a disk may keep some."""
    least = max(2, min(16, 2 * cores), 2 * at_a_time)
    return max(least, min(WORKERS_MAX, memory // BUFFER // WORKERS_SHARE))


LINE_RATE = 200_000_000
"""Bytes per second that a long line should be able to carry."""

UNDER_WAY = 4 << 20
"""Bytes that one TCP connection may have under way: the usual limit of Linux for what is not yet
acknowledged (net.ipv4.tcp_wmem)."""

CONNECTIONS_MOST = 8
"""Of a session: each takes a thread and a buffer of 1 MiB on either side."""


def connections_for(cores: int, round_trip: float = 0.0) -> int:
    """Data connections of a session: each is one thread on either side.

    One for each core, at least two; on a long line so many that together they may have under way
    what it holds.
    """
    long = math.ceil(round_trip * LINE_RATE / UNDER_WAY)
    return max(2, min(4, cores), min(CONNECTIONS_MOST, long))


class Sessions:
    """All open sessions of this receiver.

    Args:
        memory: bytes of pooled buffers: one for each worker thread, the rest for connections,
            one for each.
        on_failed: called with a session whose disk failed.
        heartbeat: seconds between two signs of life on each data connection.
        tuning: what an administrator has fixed.
    """

    def __init__(
        self,
        shelf: Shelf,
        storage: Path,
        memory: int,
        on_failed: Callable[[Session, Fault], None],
        heartbeat: float = HEARTBEAT,
        tuning: Tuning | None = None,
    ) -> None:
        cores = os.cpu_count() or 2
        self._tuning = tuning or Tuning()
        at_a_time = self._tuning.workers or max(2, cores)
        workers = workers_for(cores, memory, at_a_time)
        self._shelf = shelf
        self._storage = storage
        self._on_failed = on_failed
        self._heartbeat = heartbeat
        self._cores = cores
        self._pool = BufferPool(max(4, memory // BUFFER - workers), BUFFER)
        self._crew = Crew(ThreadPoolExecutor(workers, "datapath"), workers, at_a_time)
        self._syncers: Executor = ThreadPoolExecutor(max(4, 2 * cores), "sync")
        self._groups = Groups(self._tuning.sync)
        self._by_id: dict[str, Session] = {}
        self._by_job: dict[str, Session] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._past: dict[str, tuple[int, int]] = {}

    def find(self, session: bytes) -> Session | None:
        """The open session with this id."""
        return self._by_id.get(session.hex())

    def of_job(self, job: str) -> Session | None:
        """The open session of a job."""
        return self._by_job.get(job)

    def open_sessions(self) -> list[Session]:
        """All of them."""
        return list(self._by_id.values())

    def bytes_of(self, job: str) -> tuple[int, int]:
        """Logical and wire bytes received for a job since this process started."""
        logical, wire = self._past.get(job, (0, 0))
        session = self._by_job.get(job)
        if session is not None:
            logical, wire = logical + session.logical_bytes, wire + session.wire_bytes
        return logical, wire

    # --- opening ------------------------------------------------------------------------------

    async def open(
        self,
        source: str,
        message: OpenSession,
        data_port: int,
        *,
        here: bool = False,
        boot: str = "",
    ) -> SessionOpened:
        """Fence older writers, open the disks, and make the new session's secret.

        Args:
            source: who asks.
            message: its words.
            data_port: where data connections are to be made.
            here: the source runs on this machine, so that a target may be its own disk.
            boot: the boot id under which the source says that it runs.

        Raises:
            Fault: the job is not this source's, is not to run, or a disk refuses.
        """
        # First of all, so that a lock is never made for a name that a peer thought up.
        await self._shelf.do(lambda catalog: job_to_run(catalog, source, message.job))
        cipher = choose(message.ciphers, self._tuning.cipher)
        async with self._locks[message.job]:
            crash.here("session.opening")
            await self._close(message.job)
            crash.here("session.fenced")
            free = self._pool.count - self._pool.leased
            if free < 1:
                raise TOO_MANY.fault(what="all receive buffers are in use ([limits] memory)")
            secret, identity = secrets.token_bytes(SECRET), secrets.token_bytes(16)
            keys = SessionKeys(secret, identity, cipher)
            opening = await self._shelf.do(
                lambda catalog: open_disks(
                    catalog,
                    self._storage,
                    source,
                    message,
                    session=keys.session.hex(),
                    here=here,
                    boot=boot,
                )
            )
            suit = connections_for(self._cores, message.round_trip)
            wanted = self._tuning.connections or suit
            job, connections = opening.job, min(wanted, free)
            session = Session(
                job.id,
                source,
                keys,
                opening.disks,
                opening.memory,
                self._pool,
                SessionLane(self._crew),
                self._syncers,
                self._on_failed,
                connections_max=SPARE_CONNECTIONS + connections,
                heartbeat=self._heartbeat,
                groups=self._groups,
            )
            self._by_id[session.id] = self._by_job[job.id] = session
            _log.info(
                "session.opened",
                job=job.id,
                source=source,
                disks=len(opening.disks),
                cipher=cipher,
            )
            crash.here("session.opened")
            return SessionOpened(
                answers=message.id,
                session=session.id,
                secret=secret,
                data_port=data_port,
                epoch=job.epoch,
                disks=tuple(opening.opened),
                connections=connections,
                window_bytes=WINDOW_BYTES,
                last_boot=opening.last_boot,
                cipher=cipher,
            )

    @contextlib.asynccontextmanager
    async def alone(self, job: str) -> AsyncIterator[Session | None]:
        """A job's session, which is neither replaced nor closed within the block.

        ``job`` is one that exists.
        """
        async with self._locks[job]:
            yield self._by_job.get(job)

    # --- closing ------------------------------------------------------------------------------

    async def close(self, job: str) -> None:
        """End a job's session, if it has one. Nothing writes to its disks afterwards."""
        async with self._locks[job]:
            await self._close(job)

    async def close_session(self, session: str) -> None:
        """End this session, unless it has been replaced already."""
        found = self._by_id.get(session)
        if found is not None:
            async with self._locks[found.job]:
                if self._by_job.get(found.job) is found:
                    await self._close(found.job)

    async def leave(self, session: Session, seconds: float) -> None:
        """End a session, but give its source so long to end it by itself."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await session.closed.wait()
        await self.close_session(session.id)

    def forget(self, job: str) -> None:
        """A job is deleted: nothing of it is kept."""
        self._past.pop(job, None)
        if not self._locks[job].locked():
            del self._locks[job]

    async def _close(self, job: str) -> None:
        session = self._by_job.get(job)
        if session is None:
            return
        # Until it is closed it is the job's: who comes next waits for the same end.
        await session.close()
        crash.here("session.closed")
        if self._by_job.pop(job, None) is not None:
            del self._by_id[session.id]
            logical, wire = self._past.get(job, (0, 0))
            self._past[job] = (logical + session.logical_bytes, wire + session.wire_bytes)
            _log.info("session.closed", job=job)

    async def close_all(self) -> None:
        """End all sessions: the daemon stops."""
        await asyncio.gather(*(self.close(job) for job in list(self._by_job)))
