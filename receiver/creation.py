"""Making a job and its intermediate disks, all or nothing, before the source is told anything.

A target that must not be written is refused here already, by name, when the administrator is
still looking; it is checked again each time it is opened.
"""

from __future__ import annotations

from pathlib import Path

from protocol.errors import UNKNOWN_DISK, USAGE
from protocol.local import crash, log
from protocol.wire.jobs import CheckpointOrder, DiskInfo, JobState
from receiver import snapshot
from receiver.catalog import Catalog, DiskRow, JobRow
from receiver.catalog.disks import new_generation
from receiver.disk import BlockDisk, RawDisk, files
from receiver.jobs.spec import DISKS_MAX, JobSpec, checked

_log = log.get("jobs")


def create_job(
    catalog: Catalog, storage: Path, spec: JobSpec, now: float, *, here: bool = False
) -> JobRow:
    """Record a job and make its intermediate disks.

    Args:
        here: the source runs on this machine, so that a target may be the disk it copies.

    Raises:
        LocalFault: what is wrong; nothing is left behind then.
    """
    source = catalog.sources.get(spec.source)
    offered = {disk.path: disk for disk in source.inventory}
    for path in spec.disks:
        if path not in offered:
            raise UNKNOWN_DISK.fault(source=spec.source, path=path)
    chosen = [offered[path] for path in spec.disks] or list(source.inventory)
    if len(chosen) > DISKS_MAX:
        raise USAGE.fault(
            problem=f"source {spec.source} offers {len(chosen)} disks; name at most {DISKS_MAX}"
        )
    if not chosen:
        raise USAGE.fault(
            problem=f"source {spec.source} has offered no disks yet; start its daemon first"
        )
    checked(spec)
    state: JobState = "preparing" if spec.start == "now" else "ready"
    made: list[DiskRow] = []
    job: JobRow | None = None
    try:
        with catalog.transaction():
            job = catalog.jobs.create(spec, state, now, next_sync=spec.start_at)
            for number, disk in enumerate(chosen):
                made.append(_make(catalog, storage, job, number, disk, here=here))
                crash.here("job.file_made")
                catalog.disks.add(made[-1])
    except BaseException:
        if job is not None:
            _remove_files(storage, job.id, made)
        raise
    return job


def _make(
    catalog: Catalog, storage: Path, job: JobRow, number: int, disk: DiskInfo, *, here: bool
) -> DiskRow:
    """One intermediate disk, opened once to see that it can be, and closed again."""
    target = job.spec.target_of(number)
    generation = new_generation()
    if target == "raw":
        opened: RawDisk | BlockDisk = RawDisk.create(
            storage,
            job.id,
            number=number,
            source_path=disk.path,
            size=disk.size,
            generation=generation,
        )
    else:
        opened = BlockDisk.open(
            target.removeprefix("device:"),
            disk.size,
            job=job.id,
            others=[(other.job, other.intermediate) for other in catalog.disks.devices()],
            storage=storage,
            source=disk.identity,
            source_path=disk.path if here else "",
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
    as they are. Files first: a crash in between leaves a job that can be deleted again."""
    snapshot.forget(storage, job.id)
    crash.here("job.half_deleted")
    _remove_files(storage, job.id, catalog.disks.of_job(job.id))
    crash.here("job.files_gone")
    catalog.jobs.delete(job.id)


def _remove_files(storage: Path, job: str, disks: list[DiskRow]) -> None:
    raw = [disk for disk in disks if disk.kind == "raw"]
    left = files.delete_files(
        storage, job, [(Path(disk.intermediate).name, disk.target.inode) for disk in raw]
    )
    if left:
        _log.warning("files.left", job=job, names=left, because="they are not what the job made")


def sweep_storage(catalog: Catalog, storage: Path) -> list[str]:
    """At start: remove what a crash left half made, which no row of the catalog names.

    Intermediate disks only when they hold not one byte; snapshots because what the catalog
    does not name was never committed, or has been let go. Everything else is left for a person
    to judge.

    Returns:
        What was removed.
    """
    names: dict[str, list[str]] = {row.id: [] for row in catalog.jobs.all()}
    for disk in catalog.disks.all():
        names[disk.job].append(Path(disk.intermediate).name)
    removed = files.sweep_orphans(storage, names)
    for job in names:
        _let_go(catalog, job)
        # A checkpoint whose snapshot was let go is still in the catalog; its files shall not be.
        kept = [each.epoch for each in catalog.checkpoints.of_job(job) if each.snapshot]
        removed += [f"{job}/{name}" for name in snapshot.sweep(storage, job, kept)]
    return removed


def _let_go(catalog: Catalog, job: str) -> None:
    """What a kill between a commit and its end kept beyond ``keep``."""
    keep = catalog.jobs.get(job).spec.keep
    kept = [each.epoch for each in catalog.checkpoints.of_job(job) if each.snapshot]
    for epoch in snapshot.epochs_to_drop(kept, keep):
        catalog.checkpoints.dropped(job, epoch, snapshot.let_go_sentence(keep))


def scheduled_checkpoint(job: JobRow, now: float) -> CheckpointOrder | None:
    """What a job with a schedule wants when it starts or is due."""
    if job.spec.every is None:
        return None
    return CheckpointOrder(request=f"scheduled-{int(now)}")
