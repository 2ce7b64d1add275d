"""One open session: passes and checkpoints, for as long as it lasts and the job is to run.

It looks at the order whenever it decides what to do next, so a checkpoint that is asked for, or
withdrawn, needs no wiring. Whoever opened the session cancels this work when it is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

from protocol.errors import (
    CHECKPOINT_SUPERSEDED,
    CONNECTION_LOST,
    CORRUPT,
    HELLO_REFUSED,
    JOB_STATE,
    PROTOCOL,
    SESSION_FENCED,
    SILENT,
    SOURCE_DISK_GREW,
    SOURCE_DISK_MOVED,
    SOURCE_DISK_READ,
    TAMPERED,
    TARGET_TOUCHED,
    TOO_LONG,
    TOO_MANY,
    UNKNOWN_JOB,
    UNREACHABLE,
    LocalFault,
)
from protocol.link.control import ControlLink
from protocol.local import crash, log
from protocol.wire.jobs import CheckpointOrder
from protocol.wire.messages import CheckpointFailed, Commit, Committed
from replicad.config import Tuning
from replicad.engine.checkpoint import Checkpointer, Taken
from replicad.engine.disks import DiskSet
from replicad.engine.kept import KeptRanges
from replicad.engine.orders import Orders
from replicad.engine.passes import run_pass
from replicad.engine.standing import Standing, info
from replicad.engine.verify import Verifier
from replicad.freeze.hooks import HookContext
from replicad.rates import HORIZON_SECONDS
from replicad.threads import ended
from replicad.transfer import Transfer

DRAIN_SECONDS = 1.0
"""Between drains while nothing else happens: how fresh dirty bytes and lag are."""

DELTA_SECONDS = 2.0
"""At least between the starts of two delta passes: a block that is written all the time is sent
once in this time, not as fast as the link allows."""

UNTRACKED_SECONDS = 60.0
"""Between compare passes where nothing is tracked: each reads everything."""

COMMIT_SECONDS = 3600.0
"""For the receiver to preserve a checkpoint: without reflinks it copies whole disks. That it
is alive meanwhile is what heartbeats tell."""

TRANSIENT = frozenset(
    kind.code
    for kind in (
        CONNECTION_LOST,
        CORRUPT,
        HELLO_REFUSED,
        # These three: the receiver has changed its mind, its new order is on the way.
        JOB_STATE,
        UNKNOWN_JOB,
        CHECKPOINT_SUPERSEDED,
        PROTOCOL,
        SESSION_FENCED,
        SILENT,
        # The next session takes the new part in.
        SOURCE_DISK_GREW,
        SOURCE_DISK_MOVED,
        TAMPERED,
        # The next session compares.
        TARGET_TOUCHED,
        # A length that was changed on its way.
        TOO_LONG,
        TOO_MANY,
        UNREACHABLE,
    )
)
"""Faults that a new connection may well mend; all others wait for a person."""

_log = log.get("session")


@dataclass(frozen=True, slots=True)
class Settings:
    """Of the configuration, what the engine needs. ``longest_freeze``: seconds."""

    runtime: Path
    hooks: Path
    disks: tuple[str, ...] = ()
    longest_freeze: float = 60.0
    tuning: Tuning = field(default_factory=Tuning)

    @property
    def frozen_record(self) -> Path:
        """Says what is frozen while it is; see :mod:`replicad.freeze.leftover`."""
        return self.runtime / "frozen.json"


class Session:
    """The work of a session. :meth:`work` until cancelled, or until something breaks."""

    def __init__(
        self,
        job: str,
        orders: Orders,
        link: ControlLink,
        disks: DiskSet,
        transfer: Transfer,
        standing: Standing,
        settings: Settings,
        workers: Executor,
    ) -> None:
        self._job = job
        self._orders = orders
        self._link = link
        self._disks = disks
        self._transfer = transfer
        self._standing = standing
        self._settings = settings
        self._workers = workers
        self._told = ""
        kept = KeptRanges(settings.runtime, job)
        self._verifier = Verifier(job, orders, link, disks, transfer, standing, self._pass, kept)
        self._unreadable = sum(disk.unreadable.counted for disk in disks.disks)

    async def work(self) -> None:
        """Keep the copy close, and take the checkpoints that are wanted.

        Raises:
            Fault: the session cannot go on.
        """
        trying = asyncio.create_task(self._keep_trying())
        try:
            await self._work()
        finally:
            await ended(trying)

    async def _keep_trying(self) -> None:
        """What could not be read is tried again beside everything else, when it is due."""
        while True:
            await asyncio.sleep(DRAIN_SECONDS / 2)
            # A disk that is gone: the pass says so, and its fault ends the session.
            with contextlib.suppress(LocalFault):
                await self._disks.try_again()

    def _count_unreadable(self) -> None:
        """Each place once, in the errors by code."""
        counted = sum(disk.unreadable.counted for disk in self._disks.disks)
        if counted > self._unreadable:
            self._standing.errors[SOURCE_DISK_READ.code] += counted - self._unreadable
        self._unreadable = counted

    async def _work(self) -> None:
        due, revision = 0.0, self._orders.now.revision
        disks = self._disks
        await disks.leave_out(self._orders.now.free_space)
        passed = False
        while True:
            self._standing.state = "syncing"
            await disks.drain()
            for disk in disks.disks:
                disk.settle()
            if not disks.tracked:
                await disks.check()  # a tracker notices by itself that a disk has grown
            self._count_unreadable()
            order = self._orders.now
            if order.revision != revision:
                revision = order.revision
                disks.hurry()  # 'job retry', or whatever else an administrator wants
                await disks.leave_out(order.free_space)
            wanted = order.checkpoint
            if wanted is not None and wanted.request == self._standing.answered:
                self._refuse(wanted)
                wanted = None
            first = any(disk.waits_for_first for disk in disks.disks)
            verify = None if first else self._verifier.wanted
            # Passes and slices of a verification in turn, whichever of them takes long.
            turn, passed = verify is not None and passed, False
            if wanted is not None and not first:
                await self._checkpoint(wanted)
            elif not turn and disks.pending and (time.monotonic() >= due or wanted is not None):
                due = time.monotonic() + DELTA_SECONDS
                await self._pass()
                passed = True
            elif verify is not None:
                await self._verifier.step(verify)
            elif not disks.tracked and time.monotonic() >= due + UNTRACKED_SECONDS:
                disks.suspect_untracked()
            else:
                await self._orders.newer(order, min(DRAIN_SECONDS, DELTA_SECONDS / 4))

    async def _pass(self) -> None:
        """One pass, with drains meanwhile so that status stays true."""
        draining = asyncio.create_task(self._keep_draining())
        try:
            await self._disks.check()
            await self._disks.leave_out(self._orders.now.free_space)
            await run_pass(self._transfer, self._disks)
        finally:
            fault = await ended(draining)
        if fault is not None:
            raise fault

    async def _keep_draining(self) -> None:
        while True:
            await asyncio.sleep(HORIZON_SECONDS)
            await self._disks.drain()
            self._refuse_hopeless()

    # --- checkpoints --------------------------------------------------------------------------

    async def _checkpoint(self, wanted: CheckpointOrder) -> None:
        self._standing.state = "checkpointing"
        order = self._orders.now
        context = HookContext(
            job=order.job,
            job_name=order.name,
            epoch=self._standing.epoch + 1,
            disks=tuple(disk.path for disk in self._disks.disks),
        )
        checkpointer = Checkpointer(
            self._disks,
            self._transfer,
            order.freeze_budget,
            self._settings.hooks,
            context,
            self._workers,
            self._settings.frozen_record,
            self._standing.outlook,
        )
        try:
            await self._disks.check()
            await self._verifier.before_checkpoint()
            taken = await checkpointer.take(wanted)
        except LocalFault as fault:
            if fault.code in TRANSIENT and fault.code != CHECKPOINT_SUPERSEDED.code:
                raise
            self._not_taken(wanted, fault)
            return
        await self._commit(wanted, taken)

    def _not_taken(self, wanted: CheckpointOrder, fault: LocalFault) -> None:
        """The checkpoint could not be taken: say so, and go on."""
        _log.warning("checkpoint.failed", code=fault.code, because=fault.sentence)
        self._standing.errors[fault.code] += 1
        crash.here("checkpoint.failed")
        self._standing.answered = wanted.request
        self._standing.refusal = CheckpointFailed(
            job=self._job, request=wanted.request, error=info(fault)
        )
        self._refuse(wanted)

    def _refuse_hopeless(self) -> None:
        """In a pass: who has asked for a checkpoint that cannot fit need not wait for its end."""
        order, outlook = self._orders.now, self._standing.outlook
        wanted, budget = order.checkpoint, order.freeze_budget
        if wanted is None or wanted.request == self._standing.answered:
            return
        if outlook.hopeless(self._disks, budget):
            self._not_taken(wanted, outlook.too_long(self._disks, budget))

    def _refuse(self, wanted: CheckpointOrder) -> None:
        """Tell the receiver, once a session: of an earlier one it may never have heard."""
        refusal = self._standing.refusal
        if refusal is not None and refusal.request == wanted.request != self._told:
            self._told = wanted.request
            self._link.send(refusal)

    async def _commit(self, wanted: CheckpointOrder, taken: Taken) -> None:
        """Have the receiver record it. Until it has, nothing more is sent."""
        crash.here("commit.asked")
        committed = await self._link.request(
            Commit(
                id=self._link.new_id(),
                session=self._transfer.session,
                job=self._job,
                epoch=self._standing.epoch + 1,
                consistency=taken.consistency,
                frozen_seconds=taken.frozen_seconds,
                taken=taken.taken,
                request=wanted.request,
                hold=wanted.hold,
                cutover=wanted.cutover,
            ),
            Committed,
            COMMIT_SECONDS,
        )
        crash.here("commit.heard")
        standing = self._standing
        standing.answered = wanted.request
        standing.refusal = None
        standing.epoch = committed.epoch
        standing.frozen.append(taken.frozen_seconds)
        self._verifier.after_checkpoint()
        self._disks.set_epoch(committed.epoch)
        crash.here("commit.noted")
        _log.info(
            "checkpoint.committed",
            epoch=committed.epoch,
            consistency=taken.consistency,
            frozen_seconds=round(taken.frozen_seconds, 4),
            forecast_seconds=round(taken.forecast, 4),
            **{f"{step}_ms": spent for step, spent in taken.milliseconds.items()},
        )
        if committed.held or wanted.cutover:
            # The next order follows at once; nothing may be written before it is here.
            while (order := self._orders.now).checkpoint == wanted:
                await self._orders.newer(order)
