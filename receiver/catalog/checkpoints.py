"""The committed checkpoints, newest last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from receiver.catalog import rows

if TYPE_CHECKING:
    from receiver.catalog.rows import CheckpointRow
    from receiver.catalog.store import Store


class Checkpoints:
    """The ``checkpoints`` table: what intermediate disks or snapshots hold exactly."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, checkpoint: CheckpointRow) -> CheckpointRow:
        """Record a checkpoint and make its epoch the job's. The moment it becomes true."""
        with self._store.transaction():
            self._store.change(
                "INSERT INTO checkpoints (job, epoch, request, consistency, taken, committed,"
                " frozen_seconds, snapshot, preserved) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    checkpoint.job,
                    checkpoint.epoch,
                    checkpoint.request,
                    checkpoint.consistency,
                    checkpoint.taken,
                    checkpoint.committed,
                    checkpoint.frozen_seconds,
                    checkpoint.snapshot,
                    checkpoint.preserved,
                ),
            )
            self._store.change(
                "UPDATE jobs SET epoch = ? WHERE id = ? AND epoch < ?",
                (checkpoint.epoch, checkpoint.job, checkpoint.epoch),
            )
        return checkpoint

    def of_job(self, job: str) -> list[CheckpointRow]:
        """A job's checkpoints, oldest first."""
        found = self._store.all("SELECT * FROM checkpoints WHERE job = ? ORDER BY epoch", (job,))
        return [rows.checkpoint(row) for row in found]

    def newest(self, job: str) -> CheckpointRow | None:
        """The last committed checkpoint."""
        row = self._store.one(
            "SELECT * FROM checkpoints WHERE job = ? ORDER BY epoch DESC LIMIT 1", (job,)
        )
        return None if row is None else rows.checkpoint(row)

    def get(self, job: str, epoch: int) -> CheckpointRow | None:
        """The checkpoint of an epoch, for a commit that is said twice."""
        row = self._store.one("SELECT * FROM checkpoints WHERE job = ? AND epoch = ?", (job, epoch))
        return None if row is None else rows.checkpoint(row)

    def answering(self, job: str, request: str) -> CheckpointRow | None:
        """The checkpoint that was taken for a request, so that asking twice is asking once."""
        row = self._store.one(
            "SELECT * FROM checkpoints WHERE job = ? AND request = ? AND request <> ''",
            (job, request),
        )
        return None if row is None else rows.checkpoint(row)

    def dropped(self, job: str, epoch: int, preserved: str) -> None:
        """Its snapshot is gone; ``preserved`` says why, in words."""
        self._store.change(
            "UPDATE checkpoints SET snapshot = NULL, preserved = ? WHERE job = ? AND epoch = ?",
            (preserved, job, epoch),
        )
