"""What administrators ask of jobs, and what happens to jobs: one place that decides.

Every change is made in one transaction of the catalog, with the pure rules of
:mod:`receiver.jobs`, and then told to the source as a whole order. Who waits for a checkpoint
waits here.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from protocol.errors import (
    CHECKPOINT_SUPERSEDED,
    JOB_STATE,
    UNKNOWN_JOB,
    USAGE,
    Fault,
    from_peer,
)
from protocol.local import log
from protocol.views import CheckpointResult, JobView
from protocol.wire.messages import (
    CheckpointFailed,
    CheckpointOrder,
    ErrorInfo,
    JobOrder,
    JobReport,
)
from receiver.catalog import Catalog, CheckpointRow, JobRow
from receiver.creation import create_job, delete_job, scheduled_checkpoint
from receiver.jobs.reports import after_fault, after_report, after_restart, when_due
from receiver.jobs.schedule import has_expired, is_due, next_sync
from receiver.jobs.spec import JobSpec, edited
from receiver.jobs.states import Action, after_action, outcome_of, releases_hold, wanted
from receiver.session import Session
from receiver.sessions import Sessions
from receiver.shelf import Shelf
from receiver.snapshot import sweep
from receiver.views import job_view

KEEP_REPORT_SECONDS = 10.0
"""Between writes of a source's report to the catalog, where it outlives the daemon."""

TICK_SECONDS = 0.5
"""Between looks at the schedule."""

CLOSE_SECONDS = 5.0
"""For a source to leave a session whose checkpoint is held, before who waits is told."""

_log = log.get("jobs")


class Told(Protocol):
    """Where orders go: the connected sources."""

    def tell(self, source: str, order: JobOrder) -> None: ...
    def connected(self, source: str) -> bool: ...


class Manager:
    """Jobs. Lives on the loop; every method is safe to call at any time."""

    def __init__(self, shelf: Shelf, storage: Path, told: Told) -> None:
        self.shelf = shelf
        self.storage = storage
        self.sessions: Sessions
        self.errors: dict[str, int] = {}
        self._told = told
        self._reports: dict[str, JobReport] = {}
        self._kept: dict[str, float] = {}
        self._before: dict[str, tuple[int, int]] = {}
        self._waiting: dict[tuple[str, str], list[asyncio.Future[CheckpointResult]]] = {}
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- looking ------------------------------------------------------------------------------

    async def resolve(self, text: str) -> JobRow:
        """The job with this id, unambiguous beginning of an id, or name.

        Raises:
            LocalFault: UNKNOWN_JOB.
        """
        return await self.shelf.do(lambda catalog: _resolve(catalog, text))

    async def view(self, job: JobRow) -> JobView:
        """A job as it is printed."""
        disks, checkpoint = await self.shelf.do(
            lambda catalog: (
                catalog.disks.of_job(job.id),
                catalog.checkpoints.newest(job.id),
            )
        )
        report = self._reports.get(job.id) or job.report
        connected = self._told.connected(job.source)
        return job_view(job, disks, checkpoint, report, connected, self.received(job))

    def received(self, job: JobRow) -> tuple[int, int]:
        """Logical and wire bytes that a job's sessions have received in all."""
        before = self._before.get(job.id)
        if before is None:
            stored = job.report
            before = (stored.logical_bytes, stored.wire_bytes) if stored else (0, 0)
            self._before[job.id] = before
        logical, wire = self.sessions.bytes_of(job.id)
        return before[0] + logical, before[1] + wire

    def report(self, job: str) -> JobReport | None:
        """The source's last word about a job."""
        return self._reports.get(job)

    async def order(self, source: str) -> JobOrder:
        """What is wanted of a source now."""
        return await self.shelf.do(lambda catalog: _order_of(catalog, source))

    # --- asking -------------------------------------------------------------------------------

    async def create(self, spec: JobSpec) -> JobView:
        """Make a job.

        Raises:
            LocalFault: see :func:`receiver.creation.create_job`.
        """
        now = time.time()

        def make(catalog: Catalog) -> JobRow:
            job = create_job(catalog, self.storage, spec, now)
            if job.state == "preparing":
                job = catalog.jobs.save(_replace(job, wanted=scheduled_checkpoint(job, now)))
            return job

        job = await self.shelf.do(make)
        _log.info("job.created", job=job.id, source=job.source)
        await self._tell(job)
        return await self.view(job)

    async def act(self, text: str, action: Action) -> JobView:
        """Start, pause, resume, retry or cancel a job.

        Raises:
            LocalFault: UNKNOWN_JOB, JOB_STATE, JOB_EXPIRED.
        """
        now = time.time()
        job = await self._change(text, lambda row: self._acted(row, action, now))
        _log.info("job.changed", job=job.id, action=action, state=job.state)
        if action in {"pause", "cancel"}:
            gone = CHECKPOINT_SUPERSEDED.fault(detail=f"the job is {job.state}")
            self._fail_waiting(job.id, gone)
        if action == "cancel":
            await self.sessions.close(job.id)
        return await self.view(job)

    def _acted(self, row: JobRow, action: Action, now: float) -> JobRow:
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
            changes["wanted"] = None
        return _replace(row, **changes)

    async def edit(self, text: str, changes: dict[str, Any]) -> JobView:
        """``job set``.

        Raises:
            LocalFault: USAGE, UNKNOWN_JOB, JOB_STATE.
        """

        def apply(row: JobRow) -> JobRow:
            after_action(row.id, row.state, "set", held=row.held)
            spec = edited(row.spec, changes)
            valid = row.valid_until
            if "valid" in changes:
                valid = None if spec.valid is None else time.time() + spec.valid
            return _replace(row, spec=spec, name=spec.name or row.name, valid_until=valid)

        return await self.view(await self._change(text, apply))

    async def delete(self, text: str) -> str:
        """Forget a job that has ended, with its intermediate disks; its id.

        Raises:
            LocalFault: UNKNOWN_JOB, JOB_STATE.
        """
        job = await self.resolve(text)
        after_action(job.id, job.state, "delete", held=job.held)
        await self.sessions.close(job.id)

        def remove(catalog: Catalog) -> None:
            row = catalog.jobs.get(job.id)
            after_action(row.id, row.state, "delete", held=row.held)
            delete_job(catalog, self.storage, row)

        await self.shelf.do(remove)
        self._reports.pop(job.id, None)
        self._told.tell(job.source, await self.order(job.source))
        return job.id

    async def checkpoint(self, text: str, *, hold: bool, cutover: bool) -> tuple[JobRow, str]:
        """Ask for a checkpoint: the job and the request's name.

        Raises:
            LocalFault: UNKNOWN_JOB, JOB_STATE.
        """
        request = secrets.token_hex(8)
        order = CheckpointOrder(request=request, hold=hold, cutover=cutover)

        def ask(row: JobRow) -> JobRow:
            action: Action = "cutover" if cutover else "checkpoint"
            state = after_action(row.id, row.state, action, held=row.held)
            if row.wanted is not None and not row.wanted.request.startswith("scheduled"):
                raise JOB_STATE.fault(
                    job=row.id, state="about to take a checkpoint", action="checkpointed"
                )
            return _replace(row, state=state, wanted=order)

        job = await self._change(text, ask)
        return job, request

    async def result(self, job: JobRow, request: str) -> CheckpointResult:
        """Wait until a requested checkpoint is committed.

        Raises:
            Fault: why it was not taken.
        """
        waiting: asyncio.Future[CheckpointResult] = self._loop.create_future()
        key = (job.id, request)
        self._waiting.setdefault(key, []).append(waiting)
        try:
            row = await self.shelf.do(lambda c: c.checkpoints.answering(job.id, request))
            if row is not None:
                return _result(row, (await self.resolve(job.id)).held)
            now = await self.resolve(job.id)
            if now.wanted is None or now.wanted.request != request:
                raise CHECKPOINT_SUPERSEDED.fault(
                    detail=now.error.message if now.error else f"the job is {now.state}"
                )
            return await waiting
        finally:
            self._waiting[key].remove(waiting)
            if not self._waiting[key]:
                del self._waiting[key]

    # --- what happens -------------------------------------------------------------------------

    async def reported(self, source: str, report: JobReport) -> None:
        """A source's word about its job."""
        now = time.monotonic()
        known = self._reports.get(report.job)
        if known is None:
            job = await self.shelf.do(lambda catalog: catalog.jobs.get(report.job))
            if job.source != source:
                raise UNKNOWN_JOB.peer(job=report.job)
            self.received(job)
        self._reports[report.job] = report
        same = known is not None and known.state == report.state and known.error == report.error
        if same and now - self._kept.get(report.job, 0.0) < KEEP_REPORT_SECONDS:
            return
        self._kept[report.job] = now
        await self._keep_report(source, report)

    async def _keep_report(self, source: str, report: JobReport) -> None:
        def keep(catalog: Catalog) -> JobRow | None:
            row = catalog.jobs.get(report.job)
            if row.source != source:
                raise UNKNOWN_JOB.peer(job=report.job)
            logical, wire = self.received(row)
            stored = msgspec.structs.replace(report, logical_bytes=logical, wire_bytes=wire)
            catalog.jobs.record_report(row.id, stored)
            state = after_report(row.state, row.revision, report)
            if state == row.state:
                return None
            if state == "error":
                error = report.error or ErrorInfo(code="RPL-1900", message="no reason was given")
                return _failed(catalog, row, error)
            catalog.jobs.save(_replace(row, state=state, revision=row.revision))
            return None

        failed = await self.shelf.do(keep)
        if failed is not None and failed.error is not None:
            self._note_error(failed, failed.error)
            await self._tell(failed)

    async def checkpoint_failed(self, source: str, message: CheckpointFailed) -> None:
        """The source could not take the wanted checkpoint."""

        def record(catalog: Catalog) -> JobRow | None:
            row = catalog.jobs.get(message.job)
            if row.source != source or row.wanted is None or row.wanted.request != message.request:
                return None
            due = _next(row)
            state = "waiting" if due is not None else row.state
            changed = _replace(row, wanted=None, error=message.error, state=state, next_sync=due)
            return catalog.jobs.save(changed)

        row = await self.shelf.do(record)
        if row is None:
            return
        _log.warning("checkpoint.failed", job=row.id, code=message.error.code)
        self.errors[message.error.code] = self.errors.get(message.error.code, 0) + 1
        error = from_peer(message.error.code, message.error.message, message.error.remedy)
        self._fail_waiting(row.id, error, message.request)
        await self._tell(row)

    def session_failed(self, session: Session, fault: Fault) -> None:
        """A disk of a session failed: the job is in error and keeps everything."""
        task = self._loop.create_task(self._session_failed(session, fault))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _session_failed(self, session: Session, fault: Fault) -> None:
        error = ErrorInfo(code=fault.code, message=fault.sentence, remedy=fault.remedy)

        def record(catalog: Catalog) -> JobRow:
            row = catalog.jobs.get(session.job)
            return _failed(catalog, _replace(row, state=after_fault(row.state)), error)

        row = await self.shelf.do(record)
        self._note_error(row, error)
        await self._tell(row)
        await self.sessions.close_session(session.id)

    def _note_error(self, row: JobRow, error: ErrorInfo) -> None:
        _log.error("job.failed", job=row.id, code=error.code, because=error.message)
        self.errors[error.code] = self.errors.get(error.code, 0) + 1
        self._fail_waiting(row.id, from_peer(error.code, error.message, error.remedy))

    def committed(self, job: JobRow, row: CheckpointRow) -> None:
        """A checkpoint was recorded: tell who waits, once its disks stand still."""
        task = self._loop.create_task(self._announce(job, row))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _announce(self, job: JobRow, row: CheckpointRow) -> None:
        until = self._loop.time() + CLOSE_SECONDS
        if wanted(job.state) != "run":
            while self.sessions.of_job(job.id) is not None and self._loop.time() < until:
                await asyncio.sleep(0.02)
            await self.sessions.close(job.id)
        for waiting in self._waiting.get((job.id, row.request), []):
            if not waiting.done():
                waiting.set_result(_result(row, job.held))

    # --- time ---------------------------------------------------------------------------------

    async def restarted(self) -> None:
        """At start: what was going on when the daemon ended is begun anew."""

        def repair(catalog: Catalog) -> None:
            for row in catalog.jobs.unfinished():
                committed = [each.epoch for each in catalog.checkpoints.of_job(row.id)]
                sweep(self.storage, row.id, committed)
                state = after_restart(row.state)
                if state != row.state:
                    catalog.jobs.save(_replace(row, state=state))

        await self.shelf.do(repair)

    async def keep_time(self) -> None:
        """Start what is due and end what has expired, for ever."""
        while True:
            for row in await self.shelf.do(lambda catalog: catalog.jobs.unfinished()):
                now = time.time()
                if has_expired(row.state, row.valid_until, now):
                    await self._change(row.id, lambda r: _replace(r, state="expired", wanted=None))
                    await self.sessions.close(row.id)
                elif is_due(row.next_sync, now) and when_due(row.state) != row.state and not row.held:
                    await self._change(row.id, lambda r: _due(r, time.time()))
            await asyncio.sleep(TICK_SECONDS)

    # --- helpers ------------------------------------------------------------------------------

    async def _change(self, text: str, change: Callable[[JobRow], JobRow]) -> JobRow:
        """Change a job in one transaction and tell its source."""

        def apply(catalog: Catalog) -> JobRow:
            with catalog.transaction():
                return catalog.jobs.save(change(_resolve(catalog, text)))

        job = await self.shelf.do(apply)
        await self._tell(job)
        return job

    async def _tell(self, job: JobRow) -> None:
        self._told.tell(job.source, await self.order(job.source))

    def _fail_waiting(self, job: str, fault: Fault, request: str | None = None) -> None:
        """Tell whoever waits for a checkpoint of a job (or only for ``request``)."""
        for (waited, asked), futures in self._waiting.items():
            if waited == job and request in {None, asked}:
                for waiting in futures:
                    if not waiting.done():
                        waiting.set_exception(fault)


def _resolve(catalog: Catalog, text: str) -> JobRow:
    rows = catalog.jobs.all()
    for matches in (
        [row for row in rows if row.id == text],
        [row for row in rows if row.name == text],
        [row for row in rows if text and row.id.startswith(text)],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            ids = ", ".join(row.id for row in matches)
            raise USAGE.fault(problem=f"{text} names {len(matches)} jobs: say which of {ids}")
    raise UNKNOWN_JOB.fault(job=text)


def _replace(row: JobRow, **changes: Any) -> JobRow:
    """A changed job, with the next revision unless the caller says which."""
    return msgspec.structs.replace(row, **{"revision": row.revision + 1, **changes})


def _failed(catalog: Catalog, row: JobRow, error: ErrorInfo) -> JobRow:
    """Record why a job stopped. What it was asked for is forgotten: who asked is told."""
    state = row.state if wanted(row.state) != "run" else "error"
    return catalog.jobs.save(_replace(row, state=state, error=error, wanted=None))


def _order_of(catalog: Catalog, source: str) -> JobOrder:
    job = catalog.jobs.unfinished_of(source)
    if job is None:
        ended = [row for row in catalog.jobs.all() if row.source == source]
        if not ended:
            return JobOrder(revision=1, want="none")
        job = ended[-1]
    return JobOrder(
        revision=job.revision,
        want=wanted(job.state),
        state=job.state,
        job=job.id,
        name=job.name,
        disks=tuple(disk.source_path for disk in catalog.disks.of_job(job.id)),
        bandwidth=job.spec.bandwidth,
        compress=job.spec.compress,
        freeze_budget=job.spec.freeze_budget,
        checkpoint=job.wanted,
        held=job.held,
    )


def _next(row: JobRow) -> float | None:
    """When the next scheduled sync is due; None without a schedule."""
    if row.spec.every is None:
        return None
    now = time.time()
    return next_sync(row.next_sync or row.started or now, row.spec.every, now)


def _due(row: JobRow, now: float) -> JobRow:
    """A job whose time has come."""
    return _replace(
        row,
        state=when_due(row.state),
        started=row.started or now,
        wanted=row.wanted or scheduled_checkpoint(row, now),
        next_sync=row.next_sync if row.spec.every is not None else None,
    )


def _result(row: CheckpointRow, held: bool) -> CheckpointResult:
    return CheckpointResult(
        epoch=row.epoch,
        consistency=row.consistency,
        frozen_seconds=row.frozen_seconds,
        snapshot=row.snapshot,
        preserved=row.preserved,
        held=held,
    )
