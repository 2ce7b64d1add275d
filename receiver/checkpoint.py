"""Committing a checkpoint: sync, preserve, record; then it is true.

The order matters (restic's design names it for its files): everything it consists of is on
stable storage before the catalog says that it exists, and the catalog says so before the source
is told, so a crash between any two steps leaves either no checkpoint or a whole one. The next
pass writes only after the source has been told, and by then it is preserved or released.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path

import msgspec

from protocol.errors import JOB_STATE, PROTOCOL, SESSION_FENCED
from protocol.local import log
from protocol.wire.messages import Commit, Committed
from receiver.catalog import Catalog, CheckpointRow, JobRow
from receiver.jobs.reports import Standing, after_commit
from receiver.jobs.schedule import next_sync
from receiver.session import Session
from receiver.shelf import Shelf
from receiver.snapshot import Preserved, drop, epochs_to_drop, preserve

_log = log.get("checkpoint")


async def commit(
    shelf: Shelf, storage: Path, session: Session | None, source: str, message: Commit
) -> tuple[Committed, JobRow, CheckpointRow]:
    """Record a checkpoint that a source says is complete.

    Saying it twice (the answer was lost) is saying it once.

    Raises:
        Fault: it is not this source's job, session or next epoch, or cannot be stored.
    """
    job, present = await shelf.do(
        lambda catalog: (
            catalog.jobs.get(message.job),
            catalog.checkpoints.answering(message.job, message.request),
        )
    )
    if job.source != source:
        raise PROTOCOL.peer(detail="a commit of another source's job")
    if present is not None:
        return _answer(message, present, job.held), job, present
    if session is None or session.id != message.session or session.job != message.job:
        raise SESSION_FENCED.peer()
    if message.epoch != job.epoch + 1:
        raise PROTOCOL.peer(detail=f"a commit of epoch {message.epoch} after {job.epoch}")
    await session.sync()
    paths = [Path(disk.path) for disk in session.disks.values()]
    kept = await asyncio.to_thread(preserve, storage, job.id, message.epoch, paths)
    row = CheckpointRow(
        job=job.id,
        epoch=message.epoch,
        request=message.request,
        consistency=message.consistency,
        taken=message.taken,
        committed=time.time(),
        frozen_seconds=message.frozen_seconds,
        snapshot=str(kept.path) if kept.path else None,
        preserved=_sentence(kept, message),
    )
    job = await shelf.do(lambda catalog: _record(catalog, row, message))
    _log.info(
        "checkpoint.committed",
        job=job.id,
        epoch=row.epoch,
        consistency=row.consistency,
        frozen_seconds=round(row.frozen_seconds, 4),
        preserved=row.preserved,
    )
    await _let_go(shelf, storage, job)
    return _answer(message, row, job.held), job, row


def _sentence(kept: Preserved, message: Commit) -> str:
    if kept.path is None and (message.hold or message.cutover):
        return "the intermediate disks hold it"
    return kept.sentence


def _record(catalog: Catalog, row: CheckpointRow, message: Commit) -> JobRow:
    """The checkpoint and what it makes of the job, in one transaction."""
    with catalog.transaction():
        job = catalog.jobs.get(row.job)
        due = None
        if job.spec.every is not None:
            anchor = job.next_sync or job.started or row.committed
            due = next_sync(anchor, job.spec.every, row.committed)
        standing = after_commit(
            job.id,
            Standing(job.state, job.outcome, job.held, job.next_sync),
            hold=message.hold,
            cutover=message.cutover,
            next_sync=due,
        )
        if job.wanted is not None and job.wanted.request != message.request:
            raise JOB_STATE.fault(
                job=job.id, state="waiting for another checkpoint", action="checkpointed"
            )
        catalog.checkpoints.add(row)
        return catalog.jobs.save(
            msgspec.structs.replace(
                job,
                revision=job.revision + 1,
                epoch=row.epoch,
                state=standing.state,
                outcome=standing.outcome,
                held=standing.held,
                next_sync=standing.next_sync,
                wanted=None,
                error=None,
            )
        )


def _answer(message: Commit, row: CheckpointRow, held: bool) -> Committed:
    return Committed(
        answers=message.id,
        epoch=row.epoch,
        held=held,
        snapshot=row.snapshot,
        preserved=row.preserved,
    )


def _dropped(job: str, epoch: int, sentence: str, catalog: Catalog) -> None:
    catalog.checkpoints.dropped(job, epoch, sentence)


async def _let_go(shelf: Shelf, storage: Path, job: JobRow) -> None:
    """Remove the snapshots that ``keep`` no longer keeps."""
    rows = await shelf.do(lambda catalog: catalog.checkpoints.of_job(job.id))
    preserved = [row.epoch for row in rows if row.snapshot is not None]
    for epoch in epochs_to_drop(preserved, job.spec.keep):
        sentence = f"let go: {job.spec.keep} are kept"
        # The catalog first: what it names must be whole.
        await shelf.do(partial(_dropped, job.id, epoch, sentence))
        await asyncio.to_thread(drop, storage, job.id, epoch)
