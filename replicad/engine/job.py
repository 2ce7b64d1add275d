"""The loop that obeys the receiver's order for this source's job.

The order is level-triggered: it says what is wanted now. Whatever breaks, the loop starts over
from the order and from what the dirty maps know: connection lost, wait and open a new session;
a fault that needs a person, say so and wait for a newer order. Nothing is remembered outside of
the maps that a restart would lose.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from protocol.errors import (
    CONNECTION_LOST,
    CORRUPT,
    HELLO_REFUSED,
    INTERNAL,
    PROTOCOL,
    SESSION_FENCED,
    SILENT,
    TAMPERED,
    TOO_MANY,
    UNREACHABLE,
    Fault,
    LocalFault,
)
from protocol.link.backoff import Backoff
from protocol.link.control import ControlLink
from protocol.local import log
from protocol.wire.messages import (
    CheckpointFailed,
    CheckpointOrder,
    CloseSession,
    Commit,
    Committed,
    ErrorInfo,
    JobOrder,
    JobReport,
    JobState,
    OpenSession,
    SessionOpened,
)
from replicad.engine.checkpoint import Checkpointer, Taken
from replicad.engine.disks import DiskSet
from replicad.engine.passes import run_pass
from replicad.freeze.hooks import HookContext
from replicad.pace import Pacer, Speedometer, remaining_seconds
from replicad.tracker import EbpfTracker, NoTracker
from replicad.transfer import Transfer

DRAIN_SECONDS = 1.0
"""Between drains while nothing else happens: how fresh dirty bytes and lag are."""

DELTA_SECONDS = 2.0
"""At least between the starts of two delta passes: a block that is written all the time is sent
once in this time, not as fast as the link allows."""

UNTRACKED_SECONDS = 60.0
"""Between compare passes where nothing is tracked: each reads everything."""

CLOSE_SECONDS = 2.0
"""For the receiver to be told that a session ends."""

TRANSIENT = frozenset(
    kind.code
    for kind in (
        CONNECTION_LOST,
        CORRUPT,
        HELLO_REFUSED,
        PROTOCOL,
        SESSION_FENCED,
        SILENT,
        TAMPERED,
        TOO_MANY,
        UNREACHABLE,
    )
)
"""Faults that a new connection may well mend; all others wait for a person."""

_log = log.get("job")


class Links(Protocol):
    """What the engine needs of the daemon: the receiver, when it can be reached."""

    @property
    def host(self) -> str:
        """The receiver's address, as the source was enrolled with."""

    @property
    def link(self) -> ControlLink | None:
        """The greeted control link, while there is one."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Of the configuration, what the engine needs."""

    runtime: Path
    hooks: Path
    disks: tuple[str, ...] = ()


class JobEngine:
    """Runs the one job of this source. ``order`` is set from outside, ``report()`` read."""

    def __init__(
        self, settings: Settings, tracker: EbpfTracker | NoTracker, links: Links
    ) -> None:
        self.order = JobOrder(revision=0, want="none")
        self.pacer = Pacer()
        self.reconnects = 0
        self.frozen: list[float] = []
        self.errors: Counter[str] = Counter()
        self._settings = settings
        self._tracker = tracker
        self._links = links
        self._changed = asyncio.Event()
        self._drainer: Executor = ThreadPoolExecutor(1, "disks")
        self._workers: Executor = ThreadPoolExecutor(6, "frozen")
        self._disks: DiskSet | None = None
        self._transfer: Transfer | None = None
        self._limbo: list[Transfer] = []
        self._state: JobState = "ready"
        self._error: Fault | None = None
        self._failed: tuple[str, int] | None = None
        self._sentence = ""
        self._speed = Speedometer()
        self._backoff = Backoff()
        self._past_logical = 0
        self._past_wire = 0
        self._epoch = 0
        self._done: str = ""
        self._local_limit: int | None = None

    # --- orders -------------------------------------------------------------------------------

    def obey(self, order: JobOrder) -> None:
        """A newer order, or the same again after a reconnection."""
        self.order = order
        self.pacer.set_rate(order.bandwidth)
        if self._transfer is not None:
            self._transfer.set_compress(order.compress)
        self._changed.set()

    def session_failed(self, session: str, fault: Fault) -> None:
        """The receiver says that a session cannot go on."""
        if self._transfer is not None and self._transfer.session == session:
            self._transfer.fail(fault)

    async def run(self) -> None:
        """Obey for ever; cancelling closes everything and keeps what the next start needs."""
        try:
            while True:
                self._changed.clear()
                try:
                    await self._obey_once()
                    self._backoff.reset()
                except Fault as fault:
                    self.errors[fault.code] += 1
                    if fault.code in TRANSIENT:
                        self._sentence = f"{fault.sentence}; trying again"
                        _log.warning("session.lost", code=fault.code, because=fault.sentence)
                        self.reconnects += 1
                        await self._wait(self._backoff.next())
                    else:
                        self._fail(fault)
                except Exception as error:  # a bug must not take status and control with it
                    _log.exception("job.bug")
                    self._fail(internal(error))
        finally:
            await self._close(forget=False)

    def _fail(self, fault: Fault) -> None:
        """Stop until there is a newer order, and say why."""
        _log.error("job.failed", code=fault.code, because=fault.sentence)
        self._error = fault
        self._state = "error"
        self._sentence = fault.sentence
        self._failed = (self.order.job, self.order.revision)

    async def _obey_once(self) -> None:
        order = self.order
        if self._disks is not None and self._disks.job != order.job:
            await self._close(forget=order.want in {"none", "stop"} or bool(order.job))
        if order.want in {"none", "stop"}:
            await self._close(forget=order.revision > 0)
            self._rest(order)
        elif order.want == "pause":
            self._rest(order)
            await self._idle()
        elif self._failed == (order.job, order.revision):
            await self._idle()
        else:
            self._error = None
            await self._replicate(order)
            return
        await self._wait(None if self._disks is None else DRAIN_SECONDS)

    def _rest(self, order: JobOrder) -> None:
        self._state = order.state
        self._sentence = ""
        self._speed.restart()
        if order.want != "pause" or order.state != "error":
            self._error = None

    async def _idle(self) -> None:
        """Nothing is sent, but what is written is still counted."""
        if self._disks is not None:
            await self._disks.drain()

    async def _wait(self, seconds: float | None) -> None:
        """Until the order changes, or so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _close(self, forget: bool) -> None:
        disks, self._disks = self._disks, None
        if disks is not None:
            self._limbo.clear()
            self._past_logical = self._past_wire = 0
            await disks.close(forget)

    # --- a session ----------------------------------------------------------------------------

    async def _replicate(self, order: JobOrder) -> None:
        """Open a session and keep the copy close until something else is wanted."""
        self._state = "preparing"
        link = await self._reach()
        if self._disks is None:
            disks = DiskSet(order.job, self._settings.runtime, self._tracker, self._drainer)
            await disks.open(order.disks, self._settings.disks)
            self._disks = disks
        else:
            disks = self._disks
            await disks.check()
        opened = await link.request(
            OpenSession(
                id=link.new_id(), job=order.job, disks=tuple(disk.offer() for disk in disks.disks)
            ),
            SessionOpened,
        )
        self._epoch = opened.epoch
        try:
            # The receiver has fenced every older writer: what was in flight is lost for good.
            for past in self._limbo:
                past.release()
            self._limbo.clear()
            await disks.attach(opened)
            async with Transfer(
                self._links.host, opened, disks.disks, self.pacer, order.compress
            ) as transfer:
                self._transfer = transfer
                self._speed.restart()
                _log.info("session.opened", job=order.job, session=opened.session)
                watch = asyncio.create_task(self._watch_link(link, transfer))
                try:
                    await self._until_unwanted(order, self._sync(link, disks, transfer))
                finally:
                    watch.cancel()
                    await asyncio.gather(watch, return_exceptions=True)
        finally:
            if (ended := self._transfer) is not None:
                if ended.acked_bytes:
                    # It worked: its loss is the first of a row, however many were lost before.
                    self._backoff.reset()
                self._past_wire += ended.wire_bytes
                self._past_logical += ended.acked_bytes
                self._limbo.append(ended)
                self._transfer = None
            with contextlib.suppress(Fault, OSError):
                link.send(CloseSession(session=opened.session))

    async def _reach(self) -> ControlLink:
        """The receiver's control link; while there is none, what is written is still counted."""
        while (link := self._links.link) is None:
            await self._idle()
            await self._wait(DRAIN_SECONDS)
            if self.order.want != "run":
                raise CONNECTION_LOST.peer(peer="the receiver", detail="nothing is wanted now")
        return link

    async def _watch_link(self, link: ControlLink, transfer: Transfer) -> None:
        """A session lives no longer than the control connection it was opened on."""
        await link.closed.wait()
        transfer.fail(
            CONNECTION_LOST.peer(peer="the receiver", detail="the control connection ended")
        )

    async def _until_unwanted(self, order: JobOrder, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` until it ends or the order no longer is to run this job."""
        task = asyncio.get_running_loop().create_task(work)
        try:
            while not task.done():
                changed = asyncio.ensure_future(self._changed.wait())
                try:
                    await asyncio.wait({task, changed}, return_when="FIRST_COMPLETED")
                finally:
                    changed.cancel()
                if self.order.want != "run" or self.order.job != order.job:
                    return
                if not task.done():
                    # _sync looks at self.order by itself; the event only wakes its waits.
                    await asyncio.sleep(0)
                    self._changed.clear()
            task.result()
        finally:
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _sync(self, link: ControlLink, disks: DiskSet, transfer: Transfer) -> None:
        """Passes and checkpoints, for as long as the session lasts."""
        due = 0.0
        while True:
            self._state = "syncing"
            await disks.drain()
            wanted = self.order.checkpoint
            if wanted is not None and wanted.request != self._done and not self._first(disks):
                await self._checkpoint(link, disks, transfer, wanted)
            elif disks.differ and (time.monotonic() >= due or wanted is not None):
                due = time.monotonic() + DELTA_SECONDS
                await self._pass(disks, transfer)
            elif not disks.tracked and time.monotonic() >= due + UNTRACKED_SECONDS:
                disks.suspect_untracked()
            else:
                await self._wait(min(DRAIN_SECONDS, DELTA_SECONDS / 4))

    def _first(self, disks: DiskSet) -> bool:
        """Whether a disk still waits for its first copy or its comparison."""
        return any(disk.waits_for_first for disk in disks.disks)

    async def _pass(self, disks: DiskSet, transfer: Transfer) -> None:
        """One pass, with drains meanwhile so that status stays true."""
        draining = asyncio.create_task(self._keep_draining(disks))
        try:
            await disks.check()
            await run_pass(transfer, disks)
        finally:
            draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)

    async def _keep_draining(self, disks: DiskSet) -> None:
        while True:
            await asyncio.sleep(5 * DRAIN_SECONDS)
            await disks.drain()

    # --- checkpoints --------------------------------------------------------------------------

    async def _checkpoint(
        self, link: ControlLink, disks: DiskSet, transfer: Transfer, wanted: CheckpointOrder
    ) -> None:
        self._state = "checkpointing"
        order = self.order
        context = HookContext(
            job=order.job,
            job_name=order.name,
            epoch=self._epoch + 1,
            disks=tuple(disk.path for disk in disks.disks),
        )
        checkpointer = Checkpointer(
            disks, transfer, order.freeze_budget, self._settings.hooks, context, self._workers
        )
        try:
            taken = await checkpointer.take(wanted)
        except LocalFault as fault:
            if fault.code in TRANSIENT:
                raise
            self._done = wanted.request
            _log.warning("checkpoint.failed", code=fault.code, because=fault.sentence)
            link.send(CheckpointFailed(job=order.job, request=wanted.request, error=info(fault)))
            return
        await self._commit(link, disks, transfer, wanted, taken)

    async def _commit(
        self,
        link: ControlLink,
        disks: DiskSet,
        transfer: Transfer,
        wanted: CheckpointOrder,
        taken: Taken,
    ) -> None:
        """Have the receiver record it. Until it has, nothing more is sent."""
        committed = await link.request(
            Commit(
                id=link.new_id(),
                session=transfer.session,
                job=self.order.job,
                epoch=self._epoch + 1,
                consistency=taken.consistency,
                frozen_seconds=taken.frozen_seconds,
                taken=taken.taken,
                request=wanted.request,
                hold=wanted.hold,
                cutover=wanted.cutover,
            ),
            Committed,
        )
        self._done = wanted.request
        self._epoch = committed.epoch
        self.frozen.append(taken.frozen_seconds)
        disks.set_epoch(committed.epoch)
        _log.info(
            "checkpoint.committed",
            epoch=committed.epoch,
            consistency=taken.consistency,
            frozen_seconds=round(taken.frozen_seconds, 4),
        )
        if committed.held or wanted.cutover:
            # The next order follows at once; nothing may be written before it is here.
            while self.order.want == "run" and (self.order.checkpoint == wanted):
                await self._wait(DRAIN_SECONDS)

    # --- the report ---------------------------------------------------------------------------

    def report(self) -> JobReport | None:
        """The job as it stands; None when there is none."""
        order = self.order
        if not order.job:
            return None
        now = time.monotonic()
        disks = tuple(disk.report() for disk in self._disks.disks) if self._disks else ()
        transfer = self._transfer
        logical = self._past_logical + (transfer.acked_bytes if transfer else 0)
        self._speed.sample(now, logical)
        total = sum(disk.total_bytes for disk in disks if disk.pass_ != "idle")
        done = sum(disk.transferred_bytes for disk in disks if disk.pass_ != "idle")
        oldest = self._disks.oldest if self._disks else None
        return JobReport(
            job=order.job,
            revision=order.revision,
            state=self._state,
            epoch=self._epoch,
            speed_bytes_per_second=self._speed.speed,
            remaining_seconds=remaining_seconds(total, done, self._speed.speed),
            logical_bytes=logical,
            wire_bytes=self._past_wire + (transfer.wire_bytes if transfer else 0),
            lag_seconds=max(0.0, now - oldest) if oldest is not None else 0.0,
            sentence=self._sentence,
            error=info(self._error) if self._error else None,
            disks=disks,
            reconnects=self.reconnects,
            tracker_misses=self._disks.misses if self._disks else 0,
        )


def info(fault: Fault) -> ErrorInfo:
    """A fault as it travels."""
    return ErrorInfo(code=fault.code, message=fault.sentence, remedy=fault.remedy)


def internal(error: BaseException) -> LocalFault:
    """A bug, as a fault with a code."""
    return INTERNAL.fault(detail=f"{type(error).__name__}: {error}")
