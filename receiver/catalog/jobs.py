"""The jobs: what is wanted and where each stands."""

from __future__ import annotations

import secrets
import sqlite3
from typing import TYPE_CHECKING

import msgspec

from protocol.errors import JOB_UNFINISHED, UNKNOWN_JOB
from receiver.catalog import rows

if TYPE_CHECKING:
    from protocol.wire.jobs import CheckpointOrder, ErrorInfo, JobReport, JobState
    from receiver.catalog.rows import JobRow
    from receiver.catalog.store import Store
    from receiver.jobs.spec import JobSpec

_ID_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"


def new_job_id() -> str:
    """Eight letters and digits, 40 bits. Random: directories are named by it, and never reused."""
    return "".join(secrets.choice(_ID_LETTERS) for _ in range(8))


class Jobs:
    """The ``jobs`` table. ``receiver.jobs`` decides; this records."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(
        self, spec: JobSpec, state: JobState, now: float, *, next_sync: float | None = None
    ) -> JobRow:
        """A new job in ``ready`` or, when it starts at once, ``preparing``.

        Raises:
            LocalFault: JOB_UNFINISHED: the source has another job that is not over.
        """
        job = new_job_id()
        with self._store.transaction():
            try:
                self._store.change(
                    "INSERT INTO jobs (id, source, name, spec, state, created, started,"
                    " valid_until, next_sync) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        job,
                        spec.source,
                        spec.name or job,
                        rows.text(spec),
                        state,
                        now,
                        now if state == "preparing" else None,
                        None if spec.valid is None else now + spec.valid,
                        next_sync,
                    ),
                )
            except sqlite3.IntegrityError:
                other = self.unfinished_of(spec.source)
                if other is None:
                    raise
                raise JOB_UNFINISHED.fault(source=spec.source, job=other.id) from None
            return self.get(job)

    def get(self, job: str) -> JobRow:
        """The job with this id.

        Raises:
            LocalFault: UNKNOWN_JOB.
        """
        row = self._store.one("SELECT * FROM jobs WHERE id = ?", (job,))
        if row is None:
            raise UNKNOWN_JOB.fault(job=job)
        return rows.job(row)

    def find(self, job: str) -> JobRow | None:
        """The job with this id, or None."""
        row = self._store.one("SELECT * FROM jobs WHERE id = ?", (job,))
        return None if row is None else rows.job(row)

    def all(self) -> list[JobRow]:
        """All jobs, oldest first."""
        return [rows.job(row) for row in self._store.all("SELECT * FROM jobs ORDER BY created, id")]

    def unfinished(self) -> list[JobRow]:
        """The jobs that are not over, oldest first."""
        found = self._store.all("SELECT * FROM jobs WHERE state <> 'finished' ORDER BY created, id")
        return [rows.job(row) for row in found]

    def unfinished_of(self, source: str) -> JobRow | None:
        """The one job of a source that is not over."""
        row = self._store.one(
            "SELECT * FROM jobs WHERE source = ? AND state <> 'finished'", (source,)
        )
        return None if row is None else rows.job(row)

    def save(self, job: JobRow) -> JobRow:
        """Record all that may change of a job; the caller has made it with ``replace``.

        ``revision`` is the caller's: it grows when the source must be told something new. The
        epoch never goes back, should the caller have read it before a checkpoint was added.

        Raises:
            LocalFault: UNKNOWN_JOB: it has been deleted meanwhile.
        """
        changed = self._store.change(
            "UPDATE jobs SET name = ?, spec = ?, state = ?, outcome = ?, revision = ?,"
            " epoch = max(epoch, ?), held = ?, wanted = ?, error = ?, started = ?,"
            " valid_until = ?, next_sync = ?, verify = ?, verified = ? WHERE id = ?",
            (
                job.name,
                rows.text(job.spec),
                job.state,
                job.outcome,
                job.revision,
                job.epoch,
                int(job.held),
                rows.text_or_none(job.wanted),
                rows.text_or_none(job.error),
                job.started,
                job.valid_until,
                job.next_sync,
                rows.text_or_none(job.verify),
                rows.text_or_none(job.verified),
                job.id,
            ),
        )
        if changed != 1:
            raise UNKNOWN_JOB.fault(job=job.id)
        return self.get(job.id)

    def record_report(self, job: str, report: JobReport) -> None:
        """Keep the source's last word, for ``job show`` while the source is away."""
        if not report.disks and (known := self.get(job).report) is not None:
            # A source that has not opened its disks says nothing of them: keep what it said.
            report = msgspec.structs.replace(report, disks=known.disks)
        self._store.change("UPDATE jobs SET report = ? WHERE id = ?", (rows.text(report), job))

    def record_error(self, job: str, state: JobState, error: ErrorInfo) -> JobRow:
        """Put a job into ``state`` (``receiver.jobs.reports.after_fault``) with its reason."""
        with self._store.transaction():
            row = self.get(job)
            return self.save(
                msgspec.structs.replace(row, state=state, error=error, revision=row.revision + 1)
            )

    def want_checkpoint(self, job: str, order: CheckpointOrder, state: JobState) -> JobRow:
        """Ask the source for a checkpoint; the order stays until it is taken or has failed."""
        with self._store.transaction():
            row = self.get(job)
            return self.save(
                msgspec.structs.replace(row, wanted=order, state=state, revision=row.revision + 1)
            )

    def delete(self, job: str) -> None:
        """Forget a job, its disks and its checkpoints. Files are not this table's affair.

        Raises:
            LocalFault: UNKNOWN_JOB.
        """
        if self._store.change("DELETE FROM jobs WHERE id = ?", (job,)) != 1:
            raise UNKNOWN_JOB.fault(job=job)
