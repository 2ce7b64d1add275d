"""Committing a checkpoint: sync, preserve, record; then it is true.

The order matters (restic's design names it for its files): everything it consists of is on
stable storage before the catalog says that it exists, and the catalog says so before the source
is told, so a crash between any two steps leaves either no checkpoint or a whole one. The next
pass writes only after the source has been told, and by then it is preserved or released.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec

from protocol.errors import JOB_STATE, PROTOCOL, SESSION_FENCED, Fault
from protocol.local import crash, log
from protocol.units import format_instant, parse_instant
from protocol.wire.messages import Commit, Committed
from receiver.catalog import Catalog, CheckpointRow, JobRow
from receiver.jobs.reports import Standing, after_commit
from receiver.jobs.schedule import next_sync
from receiver.session import Session
from receiver.sessions import Sessions
from receiver.shelf import Shelf
from receiver.snapshot import Preserved, drop, epochs_to_drop, let_go_sentence, preserve
from receiver.verification import mended

_log = log.get("checkpoint")


async def commit(
    shelf: Shelf, storage: Path, sessions: Sessions, source: str, message: Commit
) -> tuple[Committed, JobRow, CheckpointRow]:
    """Record a checkpoint that a source says is complete.

    Saying it twice (the answer was lost) is saying it once. From the first look to the record
    nobody can open another session, and this one takes no content: what is preserved and
    recorded is what was synced.

    Raises:
        Fault: it is not this source's job, session or next epoch, or cannot be stored.
    """
    job = await shelf.do(lambda catalog: catalog.jobs.get(message.job))
    if job.source != source:
        raise PROTOCOL.peer(detail="a commit of another source's job")
    async with sessions.alone(job.id) as session:
        job, present = await shelf.do(
            lambda catalog: (
                catalog.jobs.get(message.job),
                catalog.checkpoints.answering(message.job, message.request),
            )
        )
        if present is not None:
            return _answer(message, present, job.held), job, present
        if session is None or session.id != message.session:
            raise SESSION_FENCED.peer()
        if message.epoch != job.epoch + 1:
            raise PROTOCOL.peer(detail=f"a commit of epoch {message.epoch} after {job.epoch}")
        session.still = True
        try:
            job, row = await _commit(shelf, storage, session, message)
        except BaseException:
            session.still = False
            raise
        # Held at this checkpoint: whatever the source sends, it stays as it is.
        session.still = job.held or job.state == "finished"
    await _let_go(shelf, storage, job)
    return _answer(message, row, job.held), job, row


async def _commit(
    shelf: Shelf, storage: Path, session: Session, message: Commit
) -> tuple[JobRow, CheckpointRow]:
    crash.here("commit.received")
    await session.sync()
    crash.here("commit.synced")
    for disk in session.disks.values():
        # Not a checkpoint if somebody else has written to it.
        await asyncio.to_thread(disk.look)
    paths = [Path(disk.path) for disk in session.disks.values()]
    kept = await asyncio.to_thread(preserve, storage, session.job, message.epoch, paths)
    crash.here("commit.preserved")
    row = CheckpointRow(
        job=session.job,
        epoch=message.epoch,
        request=message.request,
        consistency=message.consistency,
        taken=_instant(message.taken),
        committed=time.time(),
        frozen_seconds=message.frozen_seconds,
        snapshot=str(kept.path) if kept.path else None,
        preserved=_sentence(kept, message),
    )
    try:
        job = await shelf.do(lambda catalog: _record(catalog, row, message))
    except Fault:
        # Never committed: nobody may take it for a checkpoint.
        await asyncio.to_thread(drop, storage, row.job, row.epoch)
        raise
    crash.here("commit.recorded")
    _log.info(
        "checkpoint.committed",
        job=job.id,
        epoch=row.epoch,
        consistency=row.consistency,
        frozen_seconds=round(row.frozen_seconds, 4),
        preserved=row.preserved,
    )
    return job, row


def _instant(text: str) -> str:
    """The source's word for when it was taken, in our form of RFC 3339.

    Raises:
        PeerFault: PROTOCOL: it is no instant.
    """
    try:
        return format_instant(parse_instant(text))
    except ValueError as error:
        raise PROTOCOL.peer(detail=f"'taken' of a Commit: {error}") from error


def _sentence(kept: Preserved, message: Commit) -> str:
    if kept.path is None and (message.hold or message.cutover):
        return "the intermediate disks hold it"
    return kept.sentence


def _record(catalog: Catalog, row: CheckpointRow, message: Commit) -> JobRow:
    """The checkpoint and what it makes of the job, in one transaction.

    What becomes of the job is for the order to say, not for the source. A checkpoint that was
    wanted before the present one (a scheduled one, while an administrator asked for his) is as
    good as any, but it holds and ends nothing, and the present one is still wanted.
    """
    with catalog.transaction():
        job = catalog.jobs.get(row.job)
        order = job.wanted
        if order is None:
            # Nobody asks: else a source could rotate every good snapshot away by committing.
            raise JOB_STATE.fault(job=job.id, state=job.state, action="checkpointed unasked")
        answers = order.request == message.request
        hold = order.hold and answers
        due = None
        if job.spec.every is not None:
            anchor = job.next_sync or job.started or row.committed
            due = next_sync(anchor, job.spec.every, row.committed)
        standing = after_commit(
            job.id,
            Standing(job.state, job.outcome, job.held, job.next_sync),
            hold=hold,
            cutover=order.cutover and answers,
            next_sync=due,
        )
        if not answers or (job.verify is not None and standing.state == "waiting" and not hold):
            standing = replace(standing, state="syncing")
        catalog.checkpoints.add(row)
        crash.here("commit.recording")
        return catalog.jobs.save(
            msgspec.structs.replace(
                job,
                revision=job.revision + 1,
                epoch=row.epoch,
                state=standing.state,
                outcome=standing.outcome,
                held=standing.held,
                next_sync=standing.next_sync,
                wanted=None if answers else order,
                error=None,
                verify=job.verify if standing.state != "finished" else None,
                verified=mended(job.verified),
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
    """Remove the snapshots that ``keep`` no longer keeps. One that cannot be removed now is
    tried again after the next checkpoint; this one is committed whatever becomes of it."""
    try:
        rows = await shelf.do(lambda catalog: catalog.checkpoints.of_job(job.id))
        preserved = [row.epoch for row in rows if row.snapshot is not None]
        for epoch in epochs_to_drop(preserved, job.spec.keep):
            sentence = let_go_sentence(job.spec.keep)
            # The catalog first: what it names must be whole. What is left then is swept.
            await shelf.do(partial(_dropped, job.id, epoch, sentence))
            crash.here("snapshot.struck")
            await asyncio.to_thread(drop, storage, job.id, epoch)
    except Fault as fault:
        _log.warning("snapshot.left", job=job.id, code=fault.code, because=fault.sentence)
