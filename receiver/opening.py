"""Opening the intermediate disks of a job for a session: all or none, and only this job's.

The only place where intermediate disks are opened for writing. A source can open those of its
own unfinished job only, and a session knows only the disks that it was opened with, so nothing
that a source says can reach another's (promise 8).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec

from protocol.diskidentity import compare_identity, of_other_hardware, refreshed
from protocol.errors import (
    JOB_STATE,
    SOURCE_DISK_CHANGED,
    SOURCE_DISK_RESIZED,
    UNKNOWN_DISK,
    UNKNOWN_JOB,
)
from protocol.local import crash, log
from protocol.wire.jobs import DiskInfo
from protocol.wire.messages import OpenDisk, OpenedDisk, OpenSession
from receiver.catalog import Catalog, DiskRow, JobRow
from receiver.disk import BlockDisk, IntermediateDisk, RawDisk
from receiver.disk.lease import Lease
from receiver.evidence import PUT_BACK, WENT_BACK, forgotten, went_back, written_by_others
from receiver.growth import follow
from receiver.jobs.states import wanted
from receiver.memory import Memory, machine

_log = log.get("disks")


def job_to_run(catalog: Catalog, source: str, job: str) -> JobRow:
    """The job, if it is this source's and is to run now.

    Raises:
        LocalFault: UNKNOWN_JOB, also for another source's; JOB_STATE.
    """
    row = catalog.jobs.get(job)
    if row.source != source:
        raise UNKNOWN_JOB.fault(job=job)
    if wanted(row.state) != "run" or row.held:
        raise JOB_STATE.fault(job=job, state=row.state, action="synced")
    return row


class Opening(NamedTuple):
    """What a session is made of. ``last_boot``: the source's boot id in the session before."""

    job: JobRow
    disks: dict[int, IntermediateDisk]
    opened: list[OpenedDisk]
    memory: Memory
    last_boot: str


def open_disks(
    catalog: Catalog,
    storage: Path,
    source: str,
    message: OpenSession,
    *,
    session: str,
    here: bool,
    boot: str,
) -> Opening:
    """The job, its disks by number, and what the source is told of them.

    All in one turn of the catalog: a job that is cancelled meanwhile is closed afterwards. From
    here on the session is remembered: before the source can know of it.

    Args:
        session: id of the session that is being opened.
        here: the source runs on this machine, so that a target may be the disk it copies.
        boot: the boot id under which the source says that it runs.

    Raises:
        LocalFault: the job is not this source's or not to run, a disk of it is not the one
            that the job was made for, or an intermediate disk refuses.
    """
    job = job_to_run(catalog, source, message.job)
    rows = catalog.disks.of_job(job.id)
    _check_disks(source, rows, message.disks)
    now = {disk.path: disk.size for disk in message.disks}
    memory = Memory.open(storage, job.id)
    try:
        past = memory.state.sessions if memory.state is not None else ()
        judge = _Judge(memory, _put_back(rows, job, message.disks, memory))
        before, rows = rows, [follow(catalog, storage, r, now[r.source_path]) for r in rows]
        judge.extended = {new.number for old, new in zip(before, rows, strict=True) if new != old}
        disks, opened = _open_all(catalog, storage, job, rows, here, judge)
        try:
            memory.begin(session, boot, job.id)
            crash.here("session.remembered")
            for number, disk in disks.items():
                judge.lease(number, disk)
            _recognise(catalog, rows, message.disks)
        except BaseException:
            _close(disks)
            raise
    except BaseException:
        memory.close()
        raise
    return Opening(job, disks, opened, memory, past[-1].boot if past else "")


def _put_back(
    rows: list[DiskRow], job: JobRow, offered: tuple[OpenDisk, ...], memory: Memory
) -> str:
    """Whether this receiver has forgotten what it once acknowledged, or the source what was
    acknowledged to it, in words; '' if neither has."""
    by_path = {row.source_path: row for row in rows}
    for disk in offered:
        if disk.generation != by_path[disk.path].generation:
            continue  # the source will not believe its map anyway
        if disk.epoch > job.epoch or forgotten(memory.state, disk.session, disk.acked):
            return PUT_BACK
        if went_back(memory.state, disk.session, disk.sent):
            return WENT_BACK
    return ""


def _recognise(catalog: Catalog, rows: list[DiskRow], offered: tuple[OpenDisk, ...]) -> None:
    """Note the marks that the disks bear now: a filesystem made anew has another UUID."""
    by_path = {disk.path: disk.identity for disk in offered}
    for row in rows:
        now = refreshed(row.identity, by_path[row.source_path])
        if now != row.identity:
            catalog.disks.recognised(row.job, row.number, now)


class _Judge:
    """Whether the content of an intermediate disk can be vouched for."""

    def __init__(self, memory: Memory, put_back: str) -> None:
        self._memory = memory
        self._put_back = put_back
        self._machine = machine()
        self.extended: set[int] = set()

    def doubt(self, number: int, disk: IntermediateDisk) -> str:
        """Why it cannot; '' when nothing speaks against it."""
        if self._put_back or disk.doubt:
            return self._put_back or disk.doubt
        if number in self.extended:
            return ""  # we have just changed it ourselves, and a disk that grew is compared
        memory = self._memory
        lease = memory.lease(number)
        return written_by_others(memory.state, number, lease, disk.mark(), self._machine)

    def lease(self, number: int, disk: IntermediateDisk) -> None:
        """From now on others' changes of a file are noticed."""
        if disk.mark().changed:
            disk.lease = Lease(
                disk.path,
                lambda: disk.mark().changed,
                lambda until: self._memory.extend(number, until),
            )


def _check_disks(source: str, rows: list[DiskRow], offered: tuple[OpenDisk, ...]) -> None:
    """Refuse when the source's disks are not those that the job was made for."""
    by_path = {disk.path: disk for disk in offered}
    for row in rows:
        disk = by_path.get(row.source_path)
        if disk is None or len(by_path) != len(rows):
            raise UNKNOWN_DISK.fault(source=source, path=row.source_path)
        least = max(row.size, row.growing or 0)
        if disk.size < least:
            raise SOURCE_DISK_RESIZED.fault(path=disk.path, before=least, after=disk.size)
        info = DiskInfo(path=disk.path, size=disk.size, kind="disk", identity=disk.identity)
        if disk.proven and not of_other_hardware(row.identity, disk.identity):
            continue  # nobody took it away: what is on it may be new, but it is the disk
        # It may have grown: that does not make it another disk, its marks tell.
        if detail := compare_identity(row.identity, disk.size, info):
            raise SOURCE_DISK_CHANGED.fault(path=disk.path, detail=detail)


def _open_all(
    catalog: Catalog,
    storage: Path,
    job: JobRow,
    rows: list[DiskRow],
    here: bool,
    judge: _Judge,
) -> tuple[dict[int, IntermediateDisk], list[OpenedDisk]]:
    """Open all or none; say which are known to hold only zeros, for the last time."""
    disks: dict[int, IntermediateDisk] = {}
    opened: list[OpenedDisk] = []
    try:
        for known in rows:
            disk = _open_disk(catalog, storage, job, known, here)
            disks[known.number] = disk
            crash.here("disk.opened")
            # One that is to become another disk's copy holds nothing that could be believed.
            doubt = known.reason if known.full else judge.doubt(known.number, disk)
            row = _renew(catalog, known, disk, doubt) if doubt else known
            fresh = row.fresh and disk.known_zero
            # Before the first byte is accepted: after a crash nobody calls it empty again.
            catalog.disks.written(job.id, row.number)
            crash.here("disk.unfresh")
            opened.append(
                OpenedDisk(
                    path=row.source_path,
                    number=row.number,
                    generation=row.generation,
                    fresh=fresh,
                    intermediate=row.intermediate,
                    full=row.full,
                    reason=row.reason,
                )
            )
    except BaseException:
        _close(disks)
        raise
    return disks, opened


def _close(disks: dict[int, IntermediateDisk]) -> None:
    for disk in disks.values():
        disk.close()


def _open_disk(
    catalog: Catalog, storage: Path, job: JobRow, row: DiskRow, here: bool
) -> IntermediateDisk:
    if row.kind == "device":
        others = [(other.job, other.intermediate) for other in catalog.disks.devices()]
        return BlockDisk.open(
            row.intermediate,
            row.size,
            job=job.id,
            others=others,
            storage=storage,
            identity=row.target,
            source=row.identity,
            source_path=row.source_path if here else "",
        )
    return RawDisk.open(
        storage,
        job.id,
        Path(row.intermediate).name,
        size=row.size,
        generation=row.generation,
        identity=row.target,
    )


def _renew(catalog: Catalog, row: DiskRow, disk: IntermediateDisk, doubt: str) -> DiskRow:
    """Mint another generation for a disk that cannot be vouched for; the row as it is then.

    The mark on the disk first, then the catalog, then the mark again: a death in between leaves
    a disk that is doubted.
    """
    _log.warning("disk.doubted", job=row.job, disk=row.intermediate, because=doubt)
    raw = disk if isinstance(disk, RawDisk) else None
    if raw is not None:
        raw.distrust()
        crash.here("disk.distrusted")
    identity = raw.identity() if raw is not None else row.target
    generation = catalog.disks.renew(
        row.job, row.number, identity, fresh=disk.known_zero, reason=doubt
    )
    crash.here("disk.renewed")
    if raw is not None:
        raw.set_generation(generation)
    return msgspec.structs.replace(
        row, generation=generation, target=identity, fresh=disk.known_zero, reason=doubt
    )
