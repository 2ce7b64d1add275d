"""The intermediate disks: which job each belongs to, and how it is recognised."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from receiver.catalog import rows

if TYPE_CHECKING:
    from protocol.wire.jobs import DiskIdentity
    from receiver.catalog.rows import DiskRow, TargetIdentity
    from receiver.catalog.store import Store


def new_generation() -> str:
    """A name for "this content and its history": 96 random bits, hex."""
    return secrets.token_hex(12)


class Disks:
    """The ``disks`` table."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, disk: DiskRow) -> DiskRow:
        """Record a disk of a job before its intermediate disk is first written."""
        self._store.change(
            "INSERT INTO disks (job, number, source_path, size, identity, kind, intermediate,"
            " target, generation, fresh) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                disk.job,
                disk.number,
                disk.source_path,
                disk.size,
                rows.text(disk.identity),
                disk.kind,
                disk.intermediate,
                rows.text(disk.target),
                disk.generation,
                int(disk.fresh),
            ),
        )
        return disk

    def of_job(self, job: str) -> list[DiskRow]:
        """A job's disks in the order of their numbers."""
        found = self._store.all("SELECT * FROM disks WHERE job = ? ORDER BY number", (job,))
        return [rows.disk(row) for row in found]

    def all(self) -> list[DiskRow]:
        """All disks of all jobs."""
        found = self._store.all("SELECT * FROM disks ORDER BY job, number")
        return [rows.disk(row) for row in found]

    def devices(self) -> list[DiskRow]:
        """The intermediate disks that are block devices, of every job that exists."""
        found = self._store.all("SELECT * FROM disks WHERE kind = 'device' ORDER BY job, number")
        return [rows.disk(row) for row in found]

    def written(self, job: str, number: int) -> None:
        """It no longer holds only zeros, and what is to be sent has been said. Call before the
        first byte is accepted."""
        self._store.change(
            "UPDATE disks SET fresh = 0, full = 0 WHERE job = ? AND number = ?", (job, number)
        )

    def growing(self, job: str, number: int, size: int) -> None:
        """It is to have ``size`` bytes; until :meth:`grown` it may have these or as many as now."""
        self._store.change(
            "UPDATE disks SET growing = ? WHERE job = ? AND number = ?", (size, job, number)
        )

    def grown(self, job: str, number: int, size: int, target: TargetIdentity, reason: str) -> None:
        """It has ``size`` bytes now; ``reason``: why it is not known what it holds, if so."""
        self._store.change(
            "UPDATE disks SET size = ?, target = ?, growing = NULL, reason = ?"
            " WHERE job = ? AND number = ?",
            (size, rows.text(target), reason, job, number),
        )

    def recognised(self, job: str, number: int, identity: DiskIdentity) -> None:
        """These are the marks that the source's disk bears now."""
        self._store.change(
            "UPDATE disks SET identity = ? WHERE job = ? AND number = ?",
            (rows.text(identity), job, number),
        )

    def accept(self, disk: DiskRow) -> None:
        """It is to become the copy of another disk: ``disk`` has its marks and its size. Another
        generation is minted, and everything is to be sent."""
        self._store.change(
            "UPDATE disks SET identity = ?, size = ?, target = ?, growing = NULL, generation = ?,"
            " reason = ?, full = 1 WHERE job = ? AND number = ?",
            (
                rows.text(disk.identity),
                disk.size,
                rows.text(disk.target),
                new_generation(),
                disk.reason,
                disk.job,
                disk.number,
            ),
        )

    def renew(
        self, job: str, number: int, target: TargetIdentity, *, fresh: bool, reason: str = ""
    ) -> str:
        """Its content cannot be vouched for, or it was made anew: mint another generation."""
        generation = new_generation()
        self._store.change(
            "UPDATE disks SET generation = ?, target = ?, fresh = ?, reason = ?"
            " WHERE job = ? AND number = ?",
            (generation, rows.text(target), int(fresh), reason, job, number),
        )
        return generation
