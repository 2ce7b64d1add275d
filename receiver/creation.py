"""Making a job and its intermediate disks, all or nothing, before the source is told anything.

A target that must not be written is refused here already, by name, when the administrator is
still looking; it is checked again each time it is opened.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from protocol.errors import UNKNOWN_DISK, USAGE
from protocol.wire.messages import CheckpointOrder, DiskInfo, JobState
from receiver import snapshot
from receiver.catalog import Catalog, DiskRow, JobRow
from receiver.catalog.disks import new_generation
from receiver.disk import BlockDisk, RawDisk, files
from receiver.jobs.spec import JobSpec, checked


def create_job(catalog: Catalog, storage: Path, spec: JobSpec, now: float) -> JobRow:
    """Record a job and make its intermediate disks.

    Raises:
        LocalFault: what is wrong; nothing is left behind then.
    """
    source = catalog.sources.get(spec.source)
    offered = {disk.path: disk for disk in source.inventory}
    for path in spec.disks:
        if path not in offered:
            raise UNKNOWN_DISK.fault(source=spec.source, path=path)
    chosen = [offered[path] for path in spec.disks] or list(source.inventory)
    if not chosen:
        raise USAGE.fault(
            problem=f"source {spec.source} has offered no disks yet; start its daemon first"
        )
    checked(spec)
    state: JobState = "preparing" if spec.start == "now" else "ready"
    made: list[Path] = []
    try:
        with catalog.transaction():
            job = catalog.jobs.create(spec, state, now, next_sync=spec.start_at)
            for number, disk in enumerate(chosen):
                catalog.disks.add(_make(catalog, storage, job, number, disk, made))
    except BaseException:
        for leftover in made:
            with contextlib.suppress(OSError):
                leftover.unlink()
                leftover.parent.rmdir()
        raise
    return job


def _make(
    catalog: Catalog, storage: Path, job: JobRow, number: int, disk: DiskInfo, made: list[Path]
) -> DiskRow:
    """One intermediate disk, opened once to see that it can be, and closed again."""
    target = job.spec.target_of(number)
    generation = new_generation()
    if target == "raw":
        raw = RawDisk.create(
            storage,
            job.id,
            number=number,
            source_path=disk.path,
            size=disk.size,
            generation=generation,
        )
        made.append(Path(raw.path))
        opened: RawDisk | BlockDisk = raw
    else:
        opened = BlockDisk.open(
            target.removeprefix("device:"),
            disk.size,
            job=job.id,
            others=[(other.job, other.intermediate) for other in catalog.disks.devices()],
            storage=storage,
            source=disk.identity,
        )
    try:
        return DiskRow(
            job=job.id,
            number=number,
            source_path=disk.path,
            size=disk.size,
            identity=disk.identity,
            kind="raw" if target == "raw" else "device",
            intermediate=opened.path,
            target=opened.identity(),
            generation=generation,
            fresh=opened.known_zero,
        )
    finally:
        opened.close()


def delete_job(catalog: Catalog, storage: Path, job: JobRow) -> None:
    """Forget a job and remove its files: intermediate disks and snapshots. Devices are left
    as they are."""
    raw = [disk for disk in catalog.disks.of_job(job.id) if disk.kind == "raw"]
    for checkpoint in catalog.checkpoints.of_job(job.id):
        snapshot.drop(storage, job.id, checkpoint.epoch)
    files.delete_files(
        storage, job.id, [(Path(disk.intermediate).name, disk.target.inode) for disk in raw]
    )
    catalog.jobs.delete(job.id)


def scheduled_checkpoint(job: JobRow, now: float) -> CheckpointOrder | None:
    """What a job with a schedule wants when it starts or is due."""
    if job.spec.every is None:
        return None
    return CheckpointOrder(request=f"scheduled-{int(now)}")
