"""What administrators ask of jobs: one place that decides.

Every change is made in one transaction of the catalog, with the pure rules of
:mod:`receiver.changes`, and then told to the source as a whole order. What happens to jobs
without being asked is in :mod:`receiver.happenings`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from protocol.errors import CHECKPOINT_SUPERSEDED, USAGE
from protocol.local import crash, log
from protocol.views import CheckpointResult, JobView, VerifiedView
from protocol.wire.jobs import CheckpointOrder, JobOrder
from receiver import changes
from receiver.accepting import accept_disk
from receiver.catalog import Catalog, CheckpointRow, JobRow
from receiver.creation import create_job, delete_job, scheduled_checkpoint
from receiver.figures import Figures
from receiver.happenings import LEAVE_SECONDS, Happenings, Told, result_of
from receiver.jobs.spec import JobSpec
from receiver.jobs.states import Action, after_action
from receiver.sessions import Sessions
from receiver.shelf import Shelf
from receiver.views import Presence, job_view
from receiver.waiting import Waiting

_log = log.get("jobs")


class Manager:
    """Jobs. Lives on the loop; every method is safe to call at any time.

    Args:
        told: where orders go, and who says which sources are here.
        clock: Unix seconds.

    Attributes:
        happenings: the other half: what nobody asked for.
    """

    def __init__(
        self, shelf: Shelf, storage: Path, told: Told, clock: Callable[[], float] = time.time
    ) -> None:
        self.shelf = shelf
        self.storage = storage
        self.figures = Figures()
        self._waiting: Waiting[CheckpointResult] = Waiting()
        self._told = told
        self._clock = clock
        self.happenings = Happenings(shelf, storage, told, self.figures, self._waiting, clock)

    @property
    def sessions(self) -> Sessions:
        """The open sessions; set once, by whoever makes them."""
        return self.happenings.sessions

    @sessions.setter
    def sessions(self, sessions: Sessions) -> None:
        self.happenings.sessions = sessions
        self.figures.sessions = sessions

    # --- looking ------------------------------------------------------------------------------

    async def resolve(self, text: str) -> JobRow:
        """The job with this id, unambiguous beginning of an id, or name.

        Raises:
            LocalFault: UNKNOWN_JOB, USAGE.
        """
        return await self.shelf.do(lambda catalog: changes.resolve(catalog, text))

    async def view(self, job: JobRow) -> JobView:
        """A job as it is printed."""
        disks, checkpoint, seen = await self.shelf.do(
            lambda catalog: (
                catalog.disks.of_job(job.id),
                catalog.checkpoints.newest(job.id),
                catalog.sources.last_seen(job.source),
            )
        )
        presence = Presence(self._told.connected(job.source), seen, self._clock())
        report, received = self.figures.report(job), self.figures.received(job)
        grouping = self.figures.grouping(job.id)
        return job_view(job, disks, checkpoint, report, presence, received, grouping)

    async def order(self, source: str) -> JobOrder:
        """What is wanted of a source now."""
        return await self.shelf.do(lambda catalog: changes.order_of(catalog, source))

    # --- asking -------------------------------------------------------------------------------

    async def create(self, spec: JobSpec) -> JobView:
        """Make a job.

        Raises:
            LocalFault: see :func:`receiver.creation.create_job`.
        """
        now, here = self._clock(), self._told.on_this_machine(spec.source)

        def make(catalog: Catalog) -> JobRow:
            job = create_job(catalog, self.storage, spec, now, here=here)
            if job.state == "preparing":
                wish = scheduled_checkpoint(job, now)
                job = catalog.jobs.save(changes.changed(job, wanted=wish))
            return job

        job = await self.shelf.do(make)
        crash.here("job.created")
        _log.info("job.created", job=job.id, source=job.source)
        await self.happenings.tell(job)
        return await self.view(job)

    async def act(self, text: str, action: Action) -> JobView:
        """Start, pause, resume, retry or cancel a job.

        Raises:
            LocalFault: UNKNOWN_JOB, JOB_STATE, JOB_EXPIRED.
        """
        now = self._clock()
        job = await self._change(text, lambda row: changes.acted(row, action, now))
        _log.info("job.changed", job=job.id, action=action, state=job.state)
        if action in {"pause", "cancel"}:
            gone = CHECKPOINT_SUPERSEDED.fault(detail=f"the job is {job.state}")
            self._waiting.failed(job.id, gone)
            self.happenings.verifications.superseded(job.id, f"the job is {job.state}")
        if action == "pause":
            # The source leaves by itself; one that does not is shown out.
            self.happenings.beside(self._leave_paused(job.id))
        if action == "cancel":
            await self.sessions.close(job.id)
        return await self.view(job)

    async def _leave_paused(self, job: str) -> None:
        session = self.sessions.of_job(job)
        if session is not None:
            await self.sessions.leave(session, LEAVE_SECONDS)

    async def edit(self, text: str, edits: dict[str, Any]) -> JobView:
        """``job set``.

        Raises:
            LocalFault: USAGE, UNKNOWN_JOB, JOB_STATE.
        """
        now = self._clock()
        if "accept" not in edits:
            return await self.view(
                await self._change(text, lambda row: changes.set_to(row, edits, now))
            )
        path, others = edits["accept"], {k: v for k, v in edits.items() if k != "accept"}
        job = await self.resolve(text)
        if not isinstance(path, str):
            raise USAGE.fault(problem="accept: the path of a disk of the job")
        if not self._told.connected(job.source):
            raise USAGE.fault(
                problem=f"accept: source {job.source} is not connected: it must say what is there"
            )
        await self.sessions.close(job.id)

        def accept(catalog: Catalog) -> JobRow:
            with catalog.transaction():
                row = catalog.jobs.get(job.id)
                accept_disk(catalog, self.storage, row, path)
                return catalog.jobs.save(changes.set_to(row, others, now))

        job = await self.shelf.do(accept)
        await self.happenings.tell(job)
        return await self.view(job)

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
        crash.here("job.deleted")
        self._waiting.failed(job.id, CHECKPOINT_SUPERSEDED.fault(detail="the job is deleted"))
        self.figures.forget(job.id)
        self.sessions.forget(job.id)
        await self.happenings.tell(job)
        return job.id

    async def checkpoint(self, text: str, *, hold: bool, cutover: bool) -> tuple[JobRow, str]:
        """Ask for a checkpoint: the job and the request's name.

        Raises:
            LocalFault: UNKNOWN_JOB, JOB_STATE.
        """
        order = CheckpointOrder(request=secrets.token_hex(8), hold=hold, cutover=cutover)
        job = await self._change(text, lambda row: changes.asked(row, order))
        return job, job.wanted.request if job.wanted is not None else order.request

    async def verify(self, text: str, *, repair: bool) -> tuple[JobRow, str]:
        """Ask for a verification: the job and the request's name.

        Raises:
            LocalFault: UNKNOWN_JOB, JOB_STATE.
        """
        verifications = self.happenings.verifications
        return await verifications.ask(lambda catalog: changes.resolve(catalog, text), repair)

    async def verified(self, job: JobRow, request: str) -> VerifiedView:
        """Wait until a requested verification has come to its end.

        Raises:
            Fault: why it has not.
        """
        return await self.happenings.verifications.result(job.id, request)

    async def result(self, job: JobRow, request: str) -> CheckpointResult:
        """Wait until a requested checkpoint is committed.

        Raises:
            Fault: why it was not taken.
        """

        def look(catalog: Catalog) -> tuple[CheckpointRow | None, JobRow]:
            return catalog.checkpoints.answering(job.id, request), catalog.jobs.get(job.id)

        with self._waiting.waiter(job.id, request) as waiter:
            # One look at both: a commit between two would look like a refusal.
            row, now = await self.shelf.do(look)
            if row is not None:
                return result_of(row, held=now.held)
            if now.wanted is None or now.wanted.request != request:
                raise CHECKPOINT_SUPERSEDED.fault(
                    detail=now.error.message if now.error else f"the job is {now.state}"
                )
            return await waiter

    async def _change(self, text: str, change: Callable[[JobRow], JobRow]) -> JobRow:
        """Change a job in one transaction and tell its source."""

        def apply(catalog: Catalog) -> JobRow:
            with catalog.transaction():
                return catalog.jobs.save(change(changes.resolve(catalog, text)))

        job = await self.shelf.do(apply)
        crash.here("job.changed")
        await self.happenings.tell(job)
        return job
