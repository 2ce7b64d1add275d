"""Opening the intermediate disks of a job for a session: all or none, and only this job's.

The only place where intermediate disks are opened for writing. A source can open those of its
own unfinished job only, and a session knows only the disks that it was opened with, so nothing
that a source says can reach another's (promise 8).
"""

from __future__ import annotations

from pathlib import Path

from protocol.diskidentity import compare_identity
from protocol.errors import (
    JOB_STATE,
    SOURCE_DISK_CHANGED,
    SOURCE_DISK_RESIZED,
    UNKNOWN_DISK,
    UNKNOWN_JOB,
)
from protocol.local import crash
from protocol.wire.jobs import DiskInfo
from protocol.wire.messages import OpenDisk, OpenedDisk, OpenSession
from receiver.catalog import Catalog, DiskRow, JobRow
from receiver.disk import BlockDisk, IntermediateDisk, RawDisk
from receiver.growth import follow
from receiver.jobs.states import wanted


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


def open_disks(
    catalog: Catalog, storage: Path, source: str, message: OpenSession, here: bool
) -> tuple[JobRow, dict[int, IntermediateDisk], list[OpenedDisk]]:
    """The job, its disks by number, and what the source is told of them.

    All in one turn of the catalog: a job that is cancelled meanwhile is closed afterwards.

    Args:
        here: the source runs on this machine, so that a target may be the disk it copies.

    Raises:
        LocalFault: the job is not this source's or not to run, a disk of it is not the one
            that the job was made for, or an intermediate disk refuses.
    """
    job = job_to_run(catalog, source, message.job)
    rows = catalog.disks.of_job(job.id)
    _check_disks(source, rows, message.disks)
    now = {disk.path: disk.size for disk in message.disks}
    rows = [follow(catalog, storage, row, now[row.source_path]) for row in rows]
    disks, opened = _open_all(catalog, storage, job, rows, here)
    return job, disks, opened


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
        # It may have grown: that does not make it another disk, its marks tell.
        if detail := compare_identity(row.identity, disk.size, info):
            raise SOURCE_DISK_CHANGED.fault(path=disk.path, detail=detail)


def _open_all(
    catalog: Catalog, storage: Path, job: JobRow, rows: list[DiskRow], here: bool
) -> tuple[dict[int, IntermediateDisk], list[OpenedDisk]]:
    """Open all or none; say which are known to hold only zeros, for the last time."""
    disks: dict[int, IntermediateDisk] = {}
    opened: list[OpenedDisk] = []
    try:
        for row in rows:
            disk, generation = _open_disk(catalog, storage, job, row, here)
            disks[row.number] = disk
            crash.here("disk.opened")
            fresh = row.fresh and disk.known_zero
            # Before the first byte is accepted: after a crash nobody calls it empty again.
            catalog.disks.written(job.id, row.number)
            crash.here("disk.unfresh")
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
    catalog: Catalog, storage: Path, job: JobRow, row: DiskRow, here: bool
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
            source_path=row.source_path if here else "",
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
        crash.here("disk.distrusted")
        generation = catalog.disks.renew(job.id, row.number, disk.identity(), fresh=False)
        crash.here("disk.renewed")
        disk.set_generation(generation)
    except BaseException:
        disk.close()
        raise
    return disk, generation
