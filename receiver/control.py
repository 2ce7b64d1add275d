"""The receiver's control socket: its methods, typed, each a few lines onto the manager."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from protocol.admin.method import Final, Method
from protocol.errors import SOURCE_FORGOTTEN, UNKNOWN_DISK
from protocol.views import ActivationView, IntermediateView, JobView, SourceView
from receiver import activation
from receiver.authority import Authority
from receiver.catalog import Catalog, DiskRow, JobRow
from receiver.conversation import Conversations
from receiver.manager import Manager
from receiver.params import (
    CheckpointJob,
    CreateActivation,
    CreateJob,
    Job,
    JobDisk,
    MaybeJob,
    Named,
    SetJob,
    VerifyJob,
)
from receiver.views import intermediate_view, source_view, text

UPDATE_SECONDS = 0.5
"""Between updates while a command waits."""


class Control:
    """The methods."""

    def __init__(
        self, manager: Manager, conversations: Conversations, authority: Authority
    ) -> None:
        self._manager = manager
        self._conversations = conversations
        self._authority = authority

    def methods(self) -> dict[str, Method[Any]]:
        """By name, for the control socket."""
        return {
            "activation.create": Method(self.create_activation, CreateActivation),
            "activation.list": Method(self.list_activations),
            "source.list": Method(self.list_sources),
            "source.show": Method(self.show_source, Named),
            "source.forget": Method(self.forget_source, Named),
            "job.create": Method(self.create_job, CreateJob),
            "job.list": Method(self.list_jobs),
            "job.show": Method(self.show_job, Job),
            "job.start": Method(self.start_job, Job),
            "job.pause": Method(self.pause_job, Job),
            "job.resume": Method(self.resume_job, Job),
            "job.retry": Method(self.retry_job, Job),
            "job.cancel": Method(self.cancel_job, Job),
            "job.delete": Method(self.delete_job, Job),
            "job.set": Method(self.set_job, SetJob),
            "job.checkpoint": Method(self.checkpoint, CheckpointJob),
            "job.cutover": Method(self.cutover, CheckpointJob),
            "job.verify": Method(self.verify, VerifyJob),
            "disk.list": Method(self.list_disks, MaybeJob),
            "disk.path": Method(self.disk_path, JobDisk),
        }

    # --- activation codes and sources -----------------------------------------------------------

    async def create_activation(self, params: CreateActivation) -> ActivationView:
        """Make an activation code; the only time that it is shown."""
        code, row = await self._manager.shelf.do(
            lambda catalog: activation.create(
                catalog,
                self._authority.fingerprint(),
                uses=params.uses,
                valid=params.valid_seconds,
                now=time.time(),
            )
        )
        return ActivationView(code=code.format(), uses=row.uses, expires=text(row.expires) or "")

    async def list_activations(self, _: object) -> list[dict[str, Any]]:
        """The activation codes that exist, without the codes themselves."""
        rows = await self._manager.shelf.do(lambda catalog: catalog.activations.all())
        return [
            {
                "label": row.label,
                "uses": row.uses,
                "used": row.used,
                "created": text(row.created),
                "expires": text(row.expires),
            }
            for row in rows
        ]

    async def list_sources(self, _: object) -> list[SourceView]:
        """All enrolled sources."""
        rows = await self._manager.shelf.do(lambda catalog: catalog.sources.all())
        return [await self._source(row.name) for row in rows]

    async def show_source(self, params: Named) -> SourceView:
        """One source and the disks that it offers."""
        return await self._source(params.name)

    async def _source(self, name: str) -> SourceView:
        row, job = await self._manager.shelf.do(
            lambda catalog: (catalog.sources.get(name), catalog.jobs.unfinished_of(name))
        )
        return source_view(row, self._conversations.connected(name), job)

    async def forget_source(self, params: Named) -> dict[str, str]:
        """Refuse a source from now on; its unfinished job is cancelled."""
        name = params.name
        job = await self._manager.shelf.do(
            lambda catalog: (catalog.sources.get(name), catalog.jobs.unfinished_of(name))[1]
        )
        if job is not None:
            await self._manager.act(job.id, "cancel")
        await self._manager.shelf.do(lambda catalog: catalog.sources.forget(name, time.time()))
        self._conversations.dismiss(name, SOURCE_FORGOTTEN.fault(name=name))
        return {"forgotten": name}

    # --- jobs -----------------------------------------------------------------------------------

    async def create_job(self, params: CreateJob) -> JobView:
        """Make a job that copies a source."""
        return await self._manager.create(params.spec())

    async def list_jobs(self, _: object) -> list[JobView]:
        """All jobs."""
        rows = await self._manager.shelf.do(lambda catalog: catalog.jobs.all())
        return [await self._manager.view(row) for row in rows]

    async def show_job(self, params: Job) -> JobView:
        """All of one job."""
        return await self._manager.view(await self._manager.resolve(params.job))

    async def start_job(self, params: Job) -> JobView:
        """Start a job that is ready, or expired and given more time."""
        return await self._manager.act(params.job, "start")

    async def pause_job(self, params: Job) -> JobView:
        """Stop sending; what changes is remembered."""
        return await self._manager.act(params.job, "pause")

    async def resume_job(self, params: Job) -> JobView:
        """Go on after a pause, or release a held checkpoint."""
        return await self._manager.act(params.job, "resume")

    async def retry_job(self, params: Job) -> JobView:
        """Go on after an error."""
        return await self._manager.act(params.job, "retry")

    async def cancel_job(self, params: Job) -> JobView:
        """End a job; its intermediate disks stay."""
        return await self._manager.act(params.job, "cancel")

    async def delete_job(self, params: Job) -> dict[str, str]:
        """Forget a job that has ended, and remove its intermediate disks."""
        return {"deleted": await self._manager.delete(params.job)}

    async def set_job(self, params: SetJob) -> JobView:
        """Change bandwidth, compress, every, free_space, freeze_budget, keep, name or valid."""
        return await self._manager.edit(params.job, params.changes)

    async def checkpoint(self, params: CheckpointJob) -> AsyncIterator[object]:
        """Take a checkpoint; with ``wait``, updates until it is committed."""
        async for item in self._checkpoint(params, cutover=False):
            yield item

    async def cutover(self, params: CheckpointJob) -> AsyncIterator[object]:
        """Take the last checkpoint and end the job."""
        async for item in self._checkpoint(params, cutover=True):
            yield item

    async def _checkpoint(self, params: CheckpointJob, *, cutover: bool) -> AsyncIterator[object]:
        manager = self._manager
        job, request = await manager.checkpoint(params.job, hold=params.hold, cutover=cutover)
        async for item in self._asked(job, request, params.wait, manager.result):
            yield item

    async def verify(self, params: VerifyJob) -> AsyncIterator[object]:
        """Compare the copies with the source; with ``wait``, updates until that is done."""
        job, request = await self._manager.verify(params.job, repair=params.repair)
        async for item in self._asked(job, request, params.wait, self._manager.verified):
            yield item

    async def _asked(
        self,
        job: JobRow,
        request: str,
        wait: bool,
        end: Callable[[JobRow, str], Coroutine[Any, Any, object]],
    ) -> AsyncIterator[object]:
        """The answer to what the source must do first: its name, or updates and its result."""
        if not wait:
            yield Final({"request": request, "job": job.id})
            return
        manager = self._manager
        result = asyncio.ensure_future(end(job, request))
        try:
            while not result.done():
                yield await manager.view(await manager.resolve(job.id))
                await asyncio.wait([result], timeout=UPDATE_SECONDS)
            yield Final(result.result())
        finally:
            result.cancel()
            await asyncio.gather(result, return_exceptions=True)

    # --- disks ----------------------------------------------------------------------------------

    async def list_disks(self, params: MaybeJob) -> list[IntermediateView]:
        """The intermediate disks of all jobs, or of one."""
        wanted = None if params.job is None else (await self._manager.resolve(params.job)).id

        def find(catalog: Catalog) -> list[tuple[JobRow, DiskRow]]:
            return [
                (catalog.jobs.get(disk.job), disk)
                for disk in catalog.disks.all()
                if wanted in {None, disk.job}
            ]

        found = await self._manager.shelf.do(find)
        return [
            intermediate_view(
                job, disk, _allocated(disk), self._manager.sessions.of_job(job.id) is not None
            )
            for job, disk in found
        ]

    async def disk_path(self, params: JobDisk) -> dict[str, str]:
        """Where the copy of a disk is on this host."""
        job = await self._manager.resolve(params.job)
        disks = await self._manager.shelf.do(lambda catalog: catalog.disks.of_job(job.id))
        for disk in disks:
            if params.disk in {disk.source_path, str(disk.number)}:
                return {"path": disk.intermediate}
        raise UNKNOWN_DISK.fault(source=job.source, path=params.disk)


def _allocated(disk: DiskRow) -> int:
    """Bytes that an intermediate disk takes up on the receiver."""
    if disk.kind == "device":
        return disk.size
    try:
        return Path(disk.intermediate).stat().st_blocks * 512
    except OSError:
        return 0
