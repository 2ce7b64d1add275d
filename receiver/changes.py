"""How a job's row changes, and the order that follows from it: pure functions of rows.

Each takes the row as the catalog has it *now* (they run inside its transaction), so that what
was decided on an older look cannot revive a job that has ended meanwhile. ``revision`` grows
with every change that the source must hear of.
"""

from __future__ import annotations

from typing import Any

import msgspec

from protocol.errors import JOB_STATE, UNKNOWN_JOB, USAGE
from protocol.wire.jobs import CheckpointOrder, ErrorInfo, JobOrder, KnownDisk
from protocol.wire.messages import CheckpointFailed
from receiver.catalog import Catalog, JobRow
from receiver.creation import scheduled_checkpoint
from receiver.jobs.schedule import has_expired, is_due, next_sync
from receiver.jobs.spec import edited
from receiver.jobs.states import Action, after_action, outcome_of, releases_hold, wanted

_SCHEDULED = "scheduled"


def resolve(catalog: Catalog, text: str) -> JobRow:
    """The job with this id, name, or unambiguous beginning of an id.

    Raises:
        LocalFault: UNKNOWN_JOB, or USAGE when it names several.
    """
    if (exactly := catalog.jobs.find(text)) is not None:  # what programs say, of hundreds of jobs
        return exactly
    rows = catalog.jobs.all()
    for matches in (
        [row for row in rows if row.name == text],
        [row for row in rows if text and row.id.startswith(text)],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            ids = ", ".join(row.id for row in matches)
            raise USAGE.fault(problem=f"{text} names {len(matches)} jobs: say which of {ids}")
    raise UNKNOWN_JOB.fault(job=text)


def changed(row: JobRow, **changes: Any) -> JobRow:
    """A changed job, with the next revision unless the caller says which."""
    return msgspec.structs.replace(row, **{"revision": row.revision + 1, **changes})


def order_of(catalog: Catalog, source: str) -> JobOrder:
    """What is wanted of a source now."""
    job = catalog.jobs.unfinished_of(source)
    if job is None:
        ended = [row for row in catalog.jobs.all() if row.source == source]
        if not ended:
            return JobOrder(revision=1, want="none")
        job = ended[-1]
    disks = catalog.disks.of_job(job.id)
    return JobOrder(
        revision=job.revision,
        want=wanted(job.state),
        state=job.state,
        job=job.id,
        name=job.name,
        disks=tuple(disk.source_path for disk in disks),
        known=tuple(
            KnownDisk(path=disk.source_path, size=disk.size, identity=disk.identity)
            for disk in disks
        ),
        bandwidth=job.spec.bandwidth,
        compress=job.spec.compress,
        free_space=job.spec.free_space,
        freeze_budget=job.spec.freeze_budget,
        checkpoint=job.wanted,
        held=job.held,
        verify=job.verify,
        differing=() if job.verified is None else job.verified.differing,
    )


# --- what administrators ask ------------------------------------------------------------------


def acted(row: JobRow, action: Action, now: float) -> JobRow:
    """After start, pause, resume, retry or cancel.

    Raises:
        LocalFault: JOB_STATE, JOB_EXPIRED.
    """
    state = after_action(
        row.id, row.state, action, held=row.held, valid_until=row.valid_until, now=now
    )
    assert state is not None  # only delete makes it None
    changes: dict[str, Any] = {"state": state, "outcome": outcome_of(action, row.outcome)}
    if releases_hold(action):
        changes["held"] = False
    if action in {"start", "resume", "retry"}:
        changes["error"] = None
        changes["started"] = row.started or now
        changes["wanted"] = row.wanted or scheduled_checkpoint(row, now)
        if action == "start":
            changes["next_sync"] = None
    if action in {"pause", "cancel"}:
        # Who asked is told that it was not taken; it must not be taken later by surprise.
        changes["wanted"] = changes["verify"] = None
    return changed(row, **changes)


def set_to(row: JobRow, changes: dict[str, Any], now: float) -> JobRow:
    """After ``job set``. A schedule that is set, changed or ended takes effect at once.

    Raises:
        LocalFault: USAGE, JOB_STATE.
    """
    after_action(row.id, row.state, "set", held=row.held)
    spec = edited(row.spec, changes)
    more: dict[str, Any] = {}
    if "valid" in changes:
        more["valid_until"] = None if spec.valid is None else now + spec.valid
    edited_row = changed(row, spec=spec, name=spec.name or row.name, **more)
    return edited_row if spec.every == row.spec.every else _rescheduled(edited_row, row, now)


def _rescheduled(row: JobRow, before: JobRow, now: float) -> JobRow:
    if row.spec.every is None:
        # It waits for nothing more: the copy is kept close again, at once.
        due = now if row.state == "waiting" else None
        return row if row.state == "ready" else msgspec.structs.replace(row, next_sync=due)
    if row.state == "waiting":
        last = now
        if row.next_sync is not None and before.spec.every is not None:
            last = row.next_sync - before.spec.every
        return msgspec.structs.replace(row, next_sync=next_sync(last, row.spec.every, now))
    if wanted(row.state) == "run":
        # A job with a schedule waits between its checkpoints, so it needs a first one.
        wish = row.wanted or scheduled_checkpoint(row, now)
        return msgspec.structs.replace(row, wanted=wish)
    return row


def asked(row: JobRow, order: CheckpointOrder) -> JobRow:
    """With a checkpoint wanted; it takes the place of a scheduled one.

    Raises:
        LocalFault: JOB_STATE.
    """
    present = row.wanted
    if (
        present is not None
        and not present.request.startswith(_SCHEDULED)
        and (present.hold, present.cutover) == (order.hold, order.cutover)
    ):
        return row  # the same was asked before: whoever asks again waits for the same
    action: Action = "cutover" if order.cutover else "checkpoint"
    state = after_action(row.id, row.state, action, held=row.held)
    if row.wanted is not None and not row.wanted.request.startswith(_SCHEDULED):
        raise JOB_STATE.fault(job=row.id, state="about to take a checkpoint", action="checkpointed")
    return changed(row, state=state, wanted=order)


# --- what happens -----------------------------------------------------------------------------


def failed(row: JobRow, error: ErrorInfo) -> JobRow:
    """Why a job stopped. What it was asked for is forgotten: who asked is told."""
    state = row.state if wanted(row.state) != "run" else "error"
    return changed(row, state=state, error=error, wanted=None, verify=None)


def not_taken(row: JobRow, message: CheckpointFailed, now: float) -> JobRow | None:
    """After a source could not take the wanted checkpoint; None when it is not wanted."""
    if row.wanted is None or row.wanted.request != message.request:
        return None
    due = None
    if row.spec.every is not None:
        due = next_sync(row.next_sync or row.started or now, row.spec.every, now)
    # Not left to the source's next report: who was refused may ask again at once.
    state = "syncing" if row.state == "checkpointing" else row.state
    if due is not None and row.verify is None:
        state = "waiting"
    return changed(row, wanted=None, error=message.error, state=state, next_sync=due)


def expired(row: JobRow, now: float) -> JobRow | None:
    """A job whose validity is over; None when it is not."""
    if not has_expired(row.state, row.valid_until, now):
        return None
    return changed(row, state="expired", wanted=None, verify=None)


def due(row: JobRow, now: float) -> JobRow | None:
    """A job whose time has come, to start or to sync; None when it has not."""
    if row.held or row.state not in {"ready", "waiting"} or not is_due(row.next_sync, now):
        return None
    return changed(
        row,
        state="preparing",
        started=row.started or now,
        wanted=row.wanted or scheduled_checkpoint(row, now),
        next_sync=row.next_sync if row.spec.every is not None else None,
    )
