"""From rows and live figures to what commands print. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.units import format_instant, instant_of
from protocol.views import CheckpointView, DiskView, IntermediateView, JobView, SourceView
from protocol.wire.jobs import Convergence, DiskReport, JobReport
from receiver.catalog import CheckpointRow, DiskRow, JobRow, SourceRow
from receiver.grouping import Grouping
from receiver.verification import differs, verified_view

_WORKING = frozenset({"preparing", "syncing", "checkpointing"})


@dataclass(frozen=True, slots=True)
class Presence:
    """Whether a source is connected; ``seen``: when it was last heard. Unix seconds."""

    connected: bool
    seen: float | None
    now: float

    @property
    def away(self) -> float:
        """Seconds for which nothing has been heard of it."""
        return 0.0 if self.connected or self.seen is None else max(0.0, self.now - self.seen)

    @property
    def sentence(self) -> str:
        """Why the figures may be old; empty while it is connected."""
        if self.connected:
            return ""
        if self.seen is None:
            return "source has never connected"
        return f"source not connected since {text(self.seen)}"


def text(instant: float | None) -> str | None:
    """Unix seconds as RFC 3339 UTC."""
    return None if instant is None else format_instant(instant_of(instant))


def checkpoint_view(row: CheckpointRow) -> CheckpointView:
    """A committed checkpoint."""
    return CheckpointView(
        epoch=row.epoch,
        consistency=row.consistency,
        taken=row.taken,
        frozen_seconds=row.frozen_seconds,
        snapshot=row.snapshot,
        preserved=row.preserved,
    )


def job_view(
    job: JobRow,
    disks: list[DiskRow],
    checkpoint: CheckpointRow | None,
    report: JobReport | None,
    presence: Presence,
    received: tuple[int, int],
    grouping: Grouping | None = None,
) -> JobView:
    """A job as ``job show`` prints it.

    Args:
        report: the source's last word, live or stored.
        presence: is the source here? While it is away its last figures are shown, with the
            sentence that says since when; nothing moves, nothing is in flight, and changes
            that nobody reports grow older.
        received: logical and wire bytes of all its sessions.
        grouping: of its session, if one is open.
    """
    working = job.state in _WORKING and presence.connected
    following = presence.connected and job.state not in {"finished", "expired"}
    sentence = report.sentence if report else ""
    if not presence.connected and job.state != "finished":
        sentence = presence.sentence
    by_path = {disk.path: disk for disk in report.disks} if report else {}
    return JobView(
        id=job.id,
        name=job.name,
        source=job.source,
        state=job.state,
        outcome=job.outcome,
        connected=presence.connected,
        held=job.held,
        consistency=checkpoint.consistency if checkpoint else None,
        epoch=job.epoch,
        speed_bytes_per_second=report.speed_bytes_per_second if report and working else 0.0,
        remaining_seconds=report.remaining_seconds if report and working else None,
        logical_bytes=received[0],
        wire_bytes=received[1],
        lag_seconds=_lag(job, report, presence),
        sentence=sentence,
        convergence=report.convergence if report and following else Convergence(),
        error=job.error or differs(job),
        bandwidth=job.spec.bandwidth,
        compress=job.spec.compress,
        free_space=job.spec.free_space,
        freeze_budget=job.spec.freeze_budget,
        every=job.spec.every,
        keep=job.spec.keep,
        next_sync=text(job.next_sync),
        created=text(job.created) or "",
        valid_until=text(job.valid_until),
        sync_seconds=grouping.sync_seconds if grouping else None,
        group_seconds=grouping.seconds if grouping else None,
        disks=tuple(
            disk_view(disk, by_path.get(disk.source_path), connected=presence.connected)
            for disk in disks
        ),
        checkpoint=checkpoint_view(checkpoint) if checkpoint else None,
        verified=verified_view(job.verified) if job.verified else None,
    )


def _lag(job: JobRow, report: JobReport | None, presence: Presence) -> float:
    """Age of the oldest change not held: what the source said, and all that passed since."""
    if report is None or job.state in {"finished", "expired"}:
        return 0.0
    return report.lag_seconds + presence.away


def disk_view(row: DiskRow, report: DiskReport | None, *, connected: bool = True) -> DiskView:
    """A disk of a job; before the source has said anything, all of it is to be copied."""
    known = report or DiskReport(path=row.source_path, size=row.size, dirty_bytes=row.size)
    return DiskView(
        path=row.source_path,
        size=row.size,
        total_bytes=known.total_bytes,
        transferred_bytes=known.transferred_bytes,
        dirty_bytes=known.dirty_bytes,
        in_flight_bytes=known.in_flight_bytes if connected else 0,
        differing_bytes=known.differing_bytes,
        pass_=known.pass_,
        passed=known.passed,
        tracker=known.tracker,
        trust=known.trust,
        granule=known.granule,
        left_out_bytes=known.left_out_bytes,
        unreadable_bytes=known.unreadable_bytes,
        unreadable=known.unreadable,
        intermediate=row.intermediate,
        device=known.device or row.source_path,
        recovery=known.recovery,
    )


def source_view(source: SourceRow, connected: bool, job: JobRow | None) -> SourceView:
    """An enrolled source."""
    return SourceView(
        name=source.name,
        connected=connected,
        address=source.address or None,
        enrolled=text(source.enrolled) or "",
        last_seen=text(source.last_seen),
        certificate=source.certificate_fingerprint,
        software=source.software,
        disks=source.inventory,
        job=job.id if job else None,
    )


def intermediate_view(job: JobRow, row: DiskRow, allocated: int, in_use: bool) -> IntermediateView:
    """An intermediate disk."""
    return IntermediateView(
        job=job.id,
        source=job.source,
        path=row.source_path,
        intermediate=row.intermediate,
        kind=row.kind,
        size=row.size,
        allocated_bytes=allocated,
        epoch=job.epoch,
        in_use=in_use,
    )
