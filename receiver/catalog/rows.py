"""What comes out of the catalog: one frozen value a row, with the types of the messages.

Instants are Unix seconds, sizes bytes. ``from_row`` of each is the only place that knows
column names, so a renamed column is one edit.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import msgspec

from protocol.wire.jobs import (
    CheckpointOrder,
    Consistency,
    DiskIdentity,
    DiskInfo,
    ErrorInfo,
    JobReport,
    JobState,
    VerifyOrder,
)
from protocol.wire.messages import Verified
from receiver.jobs.spec import JobSpec

if TYPE_CHECKING:
    from receiver.jobs.states import Outcome

Shape = TypeVar("Shape")

DiskKind = Literal["raw", "device"]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all rows."""


class ActivationRow(Row, frozen=True, kw_only=True):
    """An activation code as the receiver knows it: never the code itself."""

    label: str
    uses: int
    used: int
    created: float
    expires: float


class SourceRow(Row, frozen=True, kw_only=True):
    """An enrolled source. ``forgotten``: since when it may not come back, or None."""

    name: str
    certificate_fingerprint: str
    certificate_serial: str
    enrolled: float
    last_seen: float | None
    address: str
    software: str
    inventory: tuple[DiskInfo, ...]
    forgotten: float | None


class JobRow(Row, frozen=True, kw_only=True):
    """A job: what is wanted (``spec``, ``wanted``) and where it stands (the rest).

    ``wanted`` is the checkpoint that has been asked for and not been taken yet, ``verify`` the
    verification; ``verified`` is what the last one said, ``differing`` less by what was repaired.
    """

    id: str
    source: str
    name: str
    spec: JobSpec
    state: JobState
    outcome: Outcome
    revision: int
    epoch: int
    held: bool
    wanted: CheckpointOrder | None
    error: ErrorInfo | None
    report: JobReport | None
    created: float
    started: float | None
    valid_until: float | None
    next_sync: float | None
    verify: VerifyOrder | None = None
    verified: Verified | None = None


class TargetIdentity(Row, frozen=True, kw_only=True):
    """What an intermediate disk looked like when this job made or first took it.

    ``inode`` (raw files) tells a file from a copy of it put back later; ``marks`` (devices)
    are serial numbers and the like, whatever the kernel knows.
    """

    size: int = 0
    inode: int = 0
    marks: dict[str, str] = {}


class DiskRow(Row, frozen=True, kw_only=True):
    """A disk of a job and where its copy is. ``fresh``: known to hold only zeros. ``growing``:
    bytes that it is being extended to; see :mod:`receiver.growth`. ``reason``: why its generation
    is not the first one. ``full``: everything is to be sent, zeros too."""

    job: str
    number: int
    source_path: str
    size: int
    identity: DiskIdentity
    kind: DiskKind
    intermediate: str
    target: TargetIdentity
    generation: str
    fresh: bool
    growing: int | None = None
    reason: str = ""
    full: bool = False


class CheckpointRow(Row, frozen=True, kw_only=True):
    """A committed checkpoint. ``snapshot``: its directory, None when it is not preserved."""

    job: str
    epoch: int
    request: str
    consistency: Consistency
    taken: str
    committed: float
    frozen_seconds: float
    snapshot: str | None
    preserved: str


class DamagedRowError(sqlite3.DatabaseError):
    """A row that SQLite can read and we cannot: bytes of the file have changed. For whoever asks
    it is the same as a database that is malformed."""


def _read(row: sqlite3.Row, column: str, shape: type[Shape]) -> Shape:
    """A structure that is stored as JSON text.

    Raises:
        DamagedRowError: naming the column.
    """
    try:
        return msgspec.json.decode(row[column], type=shape)
    except (msgspec.DecodeError, RecursionError) as error:
        raise DamagedRowError(f"a row is damaged in {column}: {error}") from error


def _read_or_none(row: sqlite3.Row, column: str, shape: type[Shape]) -> Shape | None:
    return None if row[column] is None else _read(row, column, shape)


def _one_of(row: sqlite3.Row, column: str, choices: Any) -> Any:
    """A word of a Literal.

    Raises:
        DamagedRowError: naming the column.
    """
    try:
        return msgspec.convert(row[column], choices)
    except msgspec.ValidationError as error:
        raise DamagedRowError(f"a row is damaged in {column}: {error}") from error


def activation(row: sqlite3.Row) -> ActivationRow:
    """From a row of ``activations``."""
    return ActivationRow(
        label=row["label"],
        uses=row["uses"],
        used=row["used"],
        created=row["created"],
        expires=row["expires"],
    )


def source(row: sqlite3.Row) -> SourceRow:
    """From a row of ``sources``."""
    return SourceRow(
        name=row["name"],
        certificate_fingerprint=row["certificate_fingerprint"],
        certificate_serial=row["certificate_serial"],
        enrolled=row["enrolled"],
        last_seen=row["last_seen"],
        address=row["address"],
        software=row["software"],
        inventory=_read(row, "inventory", tuple[DiskInfo, ...]),
        forgotten=row["forgotten"],
    )


def job(row: sqlite3.Row) -> JobRow:
    """From a row of ``jobs``."""
    return JobRow(
        id=row["id"],
        source=row["source"],
        name=row["name"],
        spec=_read(row, "spec", JobSpec),
        state=_one_of(row, "state", JobState),
        outcome=cast("Outcome", row["outcome"]),
        revision=row["revision"],
        epoch=row["epoch"],
        held=bool(row["held"]),
        wanted=_read_or_none(row, "wanted", CheckpointOrder),
        error=_read_or_none(row, "error", ErrorInfo),
        report=_read_or_none(row, "report", JobReport),
        created=row["created"],
        started=row["started"],
        valid_until=row["valid_until"],
        next_sync=row["next_sync"],
        verify=_read_or_none(row, "verify", VerifyOrder),
        verified=_read_or_none(row, "verified", Verified),
    )


def disk(row: sqlite3.Row) -> DiskRow:
    """From a row of ``disks``."""
    return DiskRow(
        job=row["job"],
        number=row["number"],
        source_path=row["source_path"],
        size=row["size"],
        identity=_read(row, "identity", DiskIdentity),
        kind=_one_of(row, "kind", DiskKind),
        intermediate=row["intermediate"],
        target=_read(row, "target", TargetIdentity),
        generation=row["generation"],
        fresh=bool(row["fresh"]),
        growing=row["growing"],
        reason=row["reason"],
        full=bool(row["full"]),
    )


def checkpoint(row: sqlite3.Row) -> CheckpointRow:
    """From a row of ``checkpoints``."""
    return CheckpointRow(
        job=row["job"],
        epoch=row["epoch"],
        request=row["request"],
        consistency=_one_of(row, "consistency", Consistency),
        taken=row["taken"],
        committed=row["committed"],
        frozen_seconds=row["frozen_seconds"],
        snapshot=row["snapshot"],
        preserved=row["preserved"],
    )


def text(value: msgspec.Struct | tuple[msgspec.Struct, ...]) -> str:
    """A structure as the JSON text that is stored."""
    return msgspec.json.encode(value).decode()


def text_or_none(value: msgspec.Struct | None) -> str | None:
    """The same, with NULL for what is absent."""
    return None if value is None else text(value)
