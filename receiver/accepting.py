"""Another disk under a job's path, which an administrator has accepted (``job set accept=PATH``).

Without his word a job copies the disk that it was made for and no other. With it the job takes the
marks and the size that the source offers under that path now; the intermediate disk gets another
generation, and the next pass is a full one that sends zeros too. What it holds until then stays: it
is overwritten, not emptied first.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from protocol.errors import JOB_STATE, UNKNOWN_DISK
from protocol.local import log
from receiver.disk import RawDisk
from receiver.jobs.states import wanted

if TYPE_CHECKING:
    from receiver.catalog import Catalog, DiskRow, JobRow

ACCEPTED = "the administrator accepted another disk"

_log = log.get("jobs")


def accept_disk(catalog: Catalog, storage: Path, job: JobRow, path: str) -> DiskRow:
    """Make what the source offers under ``path`` the disk that the job copies.

    No session of the job may be open.

    Raises:
        LocalFault: UNKNOWN_DISK: the job has no such disk, or the source offers none there;
            JOB_STATE: the job runs, or is held; TARGET_*: a smaller file cannot be made of it.
    """
    if wanted(job.state) == "run" or job.held or job.state == "finished":
        raise JOB_STATE.fault(
            job=job.id, state="held" if job.held else job.state, action="given another disk"
        )
    row = next((each for each in catalog.disks.of_job(job.id) if each.source_path == path), None)
    offered = {disk.path: disk for disk in catalog.sources.get(job.source).inventory}
    if row is None or path not in offered:
        raise UNKNOWN_DISK.fault(source=job.source, path=path)
    disk = offered[path]
    # A larger one is followed when it is opened (receiver/growth.py), a smaller one here.
    target, size = row.target, max(row.size, row.growing or 0)
    if disk.size < size:
        if row.kind == "raw":
            target = RawDisk.extend(
                storage,
                job.id,
                Path(row.intermediate).name,
                size=row.size,
                to=disk.size,
                generation=row.generation,
                identity=row.target,
            )
        size = disk.size
    accepted = msgspec.structs.replace(
        row, identity=disk.identity, size=size, target=target, reason=ACCEPTED
    )
    catalog.disks.accept(accepted)
    _log.warning("disk.accepted", job=job.id, disk=path, size=disk.size)
    return accepted
