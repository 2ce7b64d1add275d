"""Opening sessions: prepare the intermediate disks of a job, and fence off who wrote before.

The only place where intermediate disks are opened for writing. A source can open sessions for
its own unfinished job only, and the session knows only that job's disks, so nothing that a
source says can reach another's (promise 8).
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

from protocol.diskidentity import compare_identity
from protocol.errors import (
    JOB_STATE,
    SOURCE_DISK_CHANGED,
    SOURCE_DISK_RESIZED,
    UNKNOWN_DISK,
    UNKNOWN_JOB,
    Fault,
)
from protocol.link.buffers import BufferPool
from protocol.local import log
from protocol.wire.crypto import SessionKeys
from protocol.wire.limits import BUFFER, SECRET
from protocol.wire.messages import DiskInfo, OpenDisk, OpenedDisk, OpenSession, SessionOpened
from receiver.catalog import Catalog, DiskRow, JobRow
from receiver.disk import BlockDisk, IntermediateDisk, RawDisk
from receiver.jobs.states import wanted
from receiver.session import Session
from receiver.shelf import Shelf

WINDOW_BYTES = 256 << 20
"""Bytes that a source may have unacknowledged: what the fastest link carries in the time that
a group of writes and its sync take."""

_log = log.get("sessions")


def connections_for(cores: int) -> int:
    """Data connections of a session: each is one thread on either side."""
    return max(2, min(4, cores))


class Sessions:
    """All open sessions of this receiver.

    Args:
        memory: bytes of pooled buffers.
        on_failed: called with a session whose disk failed.
    """

    def __init__(
        self,
        shelf: Shelf,
        storage: Path,
        memory: int,
        on_failed: Callable[[Session, Fault], None],
    ) -> None:
        cores = os.cpu_count() or 2
        self._shelf = shelf
        self._storage = storage
        self._on_failed = on_failed
        self._connections = connections_for(cores)
        self._pool = BufferPool(max(16, memory // BUFFER), BUFFER)
        self._workers: Executor = ThreadPoolExecutor(max(2, min(16, 2 * cores)), "datapath")
        self._syncers: Executor = ThreadPoolExecutor(max(4, 2 * cores), "sync")
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

    async def open(self, source: str, message: OpenSession, data_port: int) -> SessionOpened:
        """Fence older writers, open the disks, and make the new session's secret.

        Raises:
            Fault: the job is not this source's, is not to run, or a disk refuses.
        """
        async with self._locks[message.job]:
            job, rows = await self._shelf.do(lambda catalog: _job(catalog, source, message.job))
            await self._close(message.job)
            _check_disks(rows, message.disks)
            disks, opened = await self._shelf.do(
                lambda catalog: _open_disks(catalog, self._storage, job, rows)
            )
            secret, identity = secrets.token_bytes(SECRET), secrets.token_bytes(16)
            session = Session(
                job.id,
                source,
                SessionKeys(secret, identity),
                disks,
                self._pool,
                self._workers,
                self._syncers,
                self._on_failed,
            )
            self._by_id[session.id] = self._by_job[job.id] = session
            _log.info("session.opened", job=job.id, source=source, disks=len(disks))
            return SessionOpened(
                answers=message.id,
                session=session.id,
                secret=secret,
                data_port=data_port,
                epoch=job.epoch,
                disks=tuple(opened),
                connections=self._connections,
                window_bytes=WINDOW_BYTES,
            )

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

    async def _close(self, job: str) -> None:
        session = self._by_job.pop(job, None)
        if session is None:
            return
        del self._by_id[session.id]
        await session.close()
        logical, wire = self._past.get(job, (0, 0))
        self._past[job] = (logical + session.logical_bytes, wire + session.wire_bytes)
        _log.info("session.closed", job=job)

    async def close_all(self) -> None:
        """End all sessions: the daemon stops."""
        await asyncio.gather(*(self.close(job) for job in list(self._by_job)))


def _job(catalog: Catalog, source: str, job: str) -> tuple[JobRow, list[DiskRow]]:
    """The job, if it is this source's and is to run now."""
    row = catalog.jobs.get(job)
    if row.source != source:
        raise UNKNOWN_JOB.fault(job=job)
    if wanted(row.state) != "run" or row.held:
        raise JOB_STATE.fault(job=job, state=row.state, action="synced")
    return row, catalog.disks.of_job(job)


def _check_disks(rows: list[DiskRow], offered: tuple[OpenDisk, ...]) -> None:
    """Refuse when the source's disks are not those that the job was made for."""
    by_path = {disk.path: disk for disk in offered}
    for row in rows:
        disk = by_path.get(row.source_path)
        if disk is None or len(by_path) != len(rows):
            raise UNKNOWN_DISK.fault(source="", path=row.source_path)
        if disk.size != row.size:
            raise SOURCE_DISK_RESIZED.fault(path=disk.path, before=row.size, after=disk.size)
        info = DiskInfo(path=disk.path, size=disk.size, kind="disk", identity=disk.identity)
        if detail := compare_identity(row.identity, row.size, info):
            raise SOURCE_DISK_CHANGED.fault(path=disk.path, detail=detail)


def _open_disks(
    catalog: Catalog, storage: Path, job: JobRow, rows: list[DiskRow]
) -> tuple[dict[int, IntermediateDisk], list[OpenedDisk]]:
    """Open all or none; say which are known to hold only zeros, for the last time."""
    disks: dict[int, IntermediateDisk] = {}
    opened: list[OpenedDisk] = []
    try:
        for row in rows:
            disk, generation = _open_disk(catalog, storage, job, row)
            disks[row.number] = disk
            fresh = row.fresh and disk.known_zero
            # Before the first byte is accepted: after a crash nobody calls it empty again.
            catalog.disks.written(job.id, row.number)
            opened.append(
                OpenedDisk(
                    path=row.source_path,
                    number=row.number,
                    generation=generation,
                    fresh=fresh,
                    intermediate=row.intermediate,
                )
            )
    except BaseException:
        for disk in disks.values():
            disk.close()
        raise
    return disks, opened


def _open_disk(
    catalog: Catalog, storage: Path, job: JobRow, row: DiskRow
) -> tuple[IntermediateDisk, str]:
    if row.kind == "device":
        others = [(other.job, other.intermediate) for other in catalog.disks.devices()]
        device = BlockDisk.open(
            row.intermediate,
            row.size,
            job=job.id,
            others=others,
            storage=storage,
            identity=row.target,
            source=row.identity,
        )
        return device, row.generation
    disk = RawDisk.open(
        storage,
        job.id,
        Path(row.intermediate).name,
        size=row.size,
        generation=row.generation,
        identity=row.target,
    )
    if disk.trusted:
        return disk, row.generation
    try:
        disk.distrust()
        generation = catalog.disks.renew(job.id, row.number, disk.identity(), fresh=False)
        disk.set_generation(generation)
    except BaseException:
        disk.close()
        raise
    return disk, generation
