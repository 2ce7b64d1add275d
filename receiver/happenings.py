"""What happens to jobs that nobody asked for: the source's word, commits, faults, time.

Each is recorded in one transaction, with the rules of :mod:`receiver.changes`; then whoever
waits is told, and the source. None of it may end the daemon: the catalog can be full or its
disk gone, and then the sentence is logged and those who wait hear it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

from protocol.errors import CHECKPOINT_SUPERSEDED, INTERNAL, Fault, from_peer
from protocol.local import crash, log
from protocol.views import CheckpointResult
from protocol.wire.jobs import ErrorInfo, JobOrder, JobReport
from protocol.wire.messages import CheckpointFailed
from receiver import changes
from receiver.catalog import Catalog, CheckpointRow, JobRow
from receiver.creation import sweep_storage
from receiver.figures import Figures
from receiver.jobs.reports import after_fault, after_report, after_restart
from receiver.jobs.states import wanted
from receiver.session import Session
from receiver.sessions import Sessions
from receiver.shelf import Shelf
from receiver.verification import Verifications
from receiver.waiting import Waiting

TICK_SECONDS = 0.5
"""Between looks at the schedule."""

LEAVE_SECONDS = 5.0
"""For a source to leave a session that is wanted no more, before it is closed."""

_log = log.get("jobs")


class Told(Protocol):
    """Where orders go: the connected sources."""

    def tell(self, source: str, order: JobOrder) -> None:
        """Give a source its order, if it is here; it gets it when it comes otherwise."""

    def connected(self, source: str) -> bool:
        """Whether a source is here."""

    def on_this_machine(self, source: str) -> bool:
        """Whether a source is here and runs on our own kernel."""


class Happenings:
    """Lives on the loop; every method is safe to call at any time.

    Attributes:
        errors: how often each code has come up, for the metrics.
        frozen: seconds that the source was frozen for each checkpoint (job, epoch), likewise.
        verifications: who asks for them, who waits, and what they found.
    """

    def __init__(
        self,
        shelf: Shelf,
        storage: Path,
        told: Told,
        figures: Figures,
        waiting: Waiting[CheckpointResult],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.sessions: Sessions
        self.errors: Counter[str] = Counter()
        self.frozen: dict[tuple[str, int], float] = {}
        self._shelf = shelf
        self._storage = storage
        self._told = told
        self._figures = figures
        self._waiting = waiting
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self.verifications = Verifications(shelf, self.tell, self.errors)

    async def tell(self, job: JobRow) -> None:
        """Give a job's source the order that is now in force."""
        order = await self._shelf.do(lambda catalog: changes.order_of(catalog, job.source))
        self._told.tell(job.source, order)

    def beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that nobody waits for; what goes wrong in it is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("job.bug", exc_info=error)

    async def finish(self) -> None:
        """The daemon stops: what was begun is ended, and the last figures are kept."""
        while self._tasks:
            await asyncio.wait(self._tasks)

        def keep(catalog: Catalog) -> None:
            known = {row.id for row in catalog.jobs.all()}
            for report in self._figures.last_words():
                if report.job in known:
                    catalog.jobs.record_report(report.job, report)

        await self._shelf.do(keep)

    # --- the source's word --------------------------------------------------------------------

    async def reported(self, source: str, report: JobReport) -> None:
        """A source's word about its job. One about a job that is gone is old news.

        Raises:
            PeerFault: UNKNOWN_JOB: the job is another source's.
        """
        if self._figures.owner(report.job) is None:
            job = await self._shelf.do(lambda catalog: catalog.jobs.find(report.job))
            if job is None:
                return
            self._figures.adopt(job)
        keep = self._figures.take(source, report)
        if keep is not None:
            await self._keep_report(source, keep)

    async def _keep_report(self, source: str, report: JobReport) -> None:
        def keep(catalog: Catalog) -> JobRow | None:
            with catalog.transaction():
                row = catalog.jobs.find(report.job)
                if row is None:
                    return None
                catalog.sources.seen(source, self._clock())
                catalog.jobs.record_report(row.id, report)
                state = after_report(row.state, row.revision, report)
                if state == row.state:
                    return None
                if state == "error":
                    error = report.error or _no_reason()
                    return catalog.jobs.save(changes.failed(row, error))
                catalog.jobs.save(changes.changed(row, state=state, revision=row.revision))
                return None

        failed = await self._shelf.do(keep)
        crash.here("report.kept")
        if failed is not None and failed.error is not None:
            self._note_error(failed.id, failed.error)
            await self.tell(failed)

    async def checkpoint_failed(self, source: str, message: CheckpointFailed) -> None:
        """The source could not take the wanted checkpoint."""

        def record(catalog: Catalog) -> JobRow | None:
            with catalog.transaction():
                row = catalog.jobs.find(message.job)
                if row is None or row.source != source:
                    return None
                after = changes.not_taken(row, message, self._clock())
                return None if after is None else catalog.jobs.save(after)

        row = await self._shelf.do(record)
        if row is None:
            return
        crash.here("refusal.recorded")
        error = message.error
        _log.warning("checkpoint.failed", job=row.id, code=error.code, because=error.message)
        self.errors[error.code] += 1
        fault = from_peer(error.code, error.message, error.remedy)
        self._waiting.failed(row.id, fault, message.request)
        await self.tell(row)

    # --- sessions and commits -----------------------------------------------------------------

    def session_failed(self, session: Session, fault: Fault) -> None:
        """A disk of a session failed: the job is in error and keeps everything."""
        self.beside(self._session_failed(session, fault))

    def session_doubted(self, session: Session, fault: Fault) -> None:
        """Somebody else wrote to a disk of a session: it ends, and the source opens another."""
        _log.warning("disk.touched", job=session.job, code=fault.code, because=fault.sentence)
        self.errors[fault.code] += 1
        self.beside(self.sessions.close_session(session.id))

    async def _session_failed(self, session: Session, fault: Fault) -> None:
        error = ErrorInfo(code=fault.code, message=fault.sentence, remedy=fault.remedy)

        def record(catalog: Catalog) -> JobRow | None:
            with catalog.transaction():
                row = catalog.jobs.find(session.job)
                if row is None:
                    return None
                state = after_fault(row.state)
                return catalog.jobs.save(changes.changed(changes.failed(row, error), state=state))

        try:
            # Whatever becomes of the record: a failed session is closed, who waits is told.
            row = await self._shelf.do(record)
        except Fault as trouble:
            _log.error("catalog.unusable", code=trouble.code, because=trouble.sentence)
            row = None
        self._note_error(session.job, error)
        if row is not None:
            await self.tell(row)
        await self.sessions.close_session(session.id)

    def _note_error(self, job: str, error: ErrorInfo) -> None:
        _log.error("job.failed", job=job, code=error.code, because=error.message)
        self.errors[error.code] += 1
        fault = from_peer(error.code, error.message, error.remedy)
        self._waiting.failed(job, fault)
        self.verifications.ended(job, fault)

    def committed(self, job: JobRow, row: CheckpointRow) -> None:
        """A checkpoint was recorded: tell who waits, once its disks stand still."""
        self.frozen[job.id, row.epoch] = row.frozen_seconds
        self.beside(self._announce(job, row))

    async def _announce(self, job: JobRow, row: CheckpointRow) -> None:
        try:
            session = self.sessions.of_job(job.id)
            if job.state == "finished":
                self.verifications.superseded(job.id, "the job is finished")
            if wanted(job.state) != "run" and session is not None:
                await self.sessions.leave(session, LEAVE_SECONDS)
        finally:
            self._waiting.done(job.id, row.request, result_of(row, held=job.held))

    # --- time ---------------------------------------------------------------------------------

    async def restarted(self) -> None:
        """At start: what was going on when the daemon ended is begun anew, and what it left
        half made is removed."""

        def repair(catalog: Catalog) -> list[str]:
            for row in catalog.jobs.unfinished():
                state = after_restart(row.state)
                if state != row.state:
                    catalog.jobs.save(changes.changed(row, state=state))
            crash.here("restart.repaired")
            return sweep_storage(catalog, self._storage)

        for removed in await self._shelf.do(repair):
            _log.info("storage.swept", removed=removed)

    async def keep_time(self) -> None:
        """Start what is due and end what has expired, for ever."""
        while True:
            try:
                await self.tick()
            except Fault as fault:  # the catalog's disk may be full: it is tried again
                _log.error("schedule.stuck", code=fault.code, because=fault.sentence)
            except Exception:  # noqa: BLE001 - a bug in one job must not stop the clock of all
                _log.exception("schedule.bug")
                self.errors[INTERNAL.code] += 1
            await asyncio.sleep(TICK_SECONDS)

    async def tick(self) -> None:
        """One look at the schedule."""
        now = self._clock()

        def look(catalog: Catalog) -> list[JobRow]:
            changed = []
            for row in catalog.jobs.unfinished():
                after = changes.expired(row, now) or changes.due(row, now)
                if after is not None:
                    changed.append(catalog.jobs.save(after))
            return changed

        for row in await self._shelf.do(look):
            _log.info("job.changed", job=row.id, action="clock", state=row.state)
            await self.tell(row)
            if row.state == "expired":
                gone = CHECKPOINT_SUPERSEDED.fault(detail=f"the job is {row.state}")
                self._waiting.failed(row.id, gone)
                self.verifications.superseded(row.id, f"the job is {row.state}")
                self.beside(self.sessions.close(row.id))


def result_of(row: CheckpointRow, *, held: bool) -> CheckpointResult:
    """A committed checkpoint as ``--wait`` prints it."""
    return CheckpointResult(
        epoch=row.epoch,
        consistency=row.consistency,
        frozen_seconds=row.frozen_seconds,
        snapshot=row.snapshot,
        preserved=row.preserved,
        held=held,
    )


def _no_reason() -> ErrorInfo:
    fault = INTERNAL.fault(detail="the source gave no reason")
    return ErrorInfo(code=fault.code, message=fault.sentence, remedy=fault.remedy)
