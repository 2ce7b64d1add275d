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
from collections.abc import Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Protocol

from protocol.errors import (
    CONNECTION_LOST,
    INTERNAL,
    SOURCE_DISK_GREW,
    SOURCE_DISK_MOVED,
    Fault,
    LocalFault,
)
from protocol.link.backoff import Backoff
from protocol.link.control import ControlLink
from protocol.local import crash, log
from protocol.wire.ciphers import check_choice, offer
from protocol.wire.jobs import JobOrder, JobReport
from protocol.wire.limits import HANDSHAKE_TIMEOUT
from protocol.wire.messages import CloseSession, OpenSession, SessionOpened
from replicad.convergence import Outlook
from replicad.engine.disks import DiskSet
from replicad.engine.frozen import THREADS
from replicad.engine.leftovers import remove_leftovers
from replicad.engine.orders import Orders
from replicad.engine.sending import sending
from replicad.engine.session import DRAIN_SECONDS, TRANSIENT, Session, Settings
from replicad.engine.standing import News, Standing
from replicad.pace import Pacer
from replicad.report import Sending
from replicad.threads import ended, to_end
from replicad.tracker import EbpfTracker, NoTracker
from replicad.transfer import Transfer

STEADY_SECONDS = 10.0
"""A session that stood so long was a good one: the next attempt after it waits no longer than
after the first failure."""

AGAIN_SECONDS = 0.05
"""Before a session that got somewhere is opened anew. Mostly one connection of it broke, and a long
line stands idle until then. Where the receiver itself is gone, finding it again takes its own time.
"""

_log = log.get("job")


class Links(Protocol):
    """What the engine needs of the daemon: the receiver, when it can be reached."""

    @property
    def host(self) -> str:
        """The receiver's address, as the source was enrolled with."""

    @property
    def link(self) -> ControlLink | None:
        """The greeted control link, while there is one."""


class JobEngine:
    """Runs the one job of this source. :meth:`obey` is told orders, :meth:`report` read.

    Attributes:
        standing: what is counted over all sessions.
    """

    def __init__(self, settings: Settings, tracker: EbpfTracker | NoTracker, links: Links) -> None:
        self.orders = Orders()
        self.pacer = Pacer()
        self.standing = Standing(Outlook(settings.longest_freeze))
        self._settings = settings
        self._tracker = tracker
        self._links = links
        self._drainer = ThreadPoolExecutor(1, "disks")
        self._workers: Executor = ThreadPoolExecutor(THREADS, "frozen")
        self._disks: DiskSet | None = None
        self._transfer: Transfer | None = None
        self._limbo: list[Transfer] = []
        self._obeyed = self.orders.now
        self._failed: tuple[str, int] | None = None
        self._reopen = False
        self._swept: str | None = None
        self._backoff = Backoff(first=AGAIN_SECONDS)

    # --- orders -------------------------------------------------------------------------------

    @property
    def order(self) -> JobOrder:
        """What is wanted now."""
        return self.orders.now

    def obey(self, order: JobOrder) -> None:
        """A newer order, or the same again after a reconnection."""
        crash.here("order.received")
        self.pacer.set_rate(order.bandwidth)
        if self._transfer is not None:
            self._transfer.set_compress(order.compress)
        self.orders.put(order)
        self.standing.bell.ring()

    def session_failed(self, session: str, fault: Fault) -> None:
        """The receiver says that a session cannot go on."""
        if self._transfer is not None and self._transfer.session == session:
            self._transfer.fail(fault)

    def report(self) -> JobReport | None:
        """The job as it stands; None when there is none."""
        return self.standing.report(self.order, self._disks, self._transfer)

    def news(self) -> News | None:
        """Of the report, what should be told at once; None when there is no job."""
        return self.standing.news(self.order, self._disks)

    def sending(self) -> Sending:
        """How the present session sends."""
        return sending(self._transfer, self._disks)

    async def run(self) -> None:
        """Obey for ever; cancelling closes everything and keeps what the next start needs."""
        try:
            while True:
                order = self._obeyed = self.order
                try:
                    await self._obey(order)
                    self._backoff.reset()
                except Fault as fault:
                    if fault.code == SOURCE_DISK_GREW.code:
                        await self._grow(fault)
                        continue
                    self.standing.errors[fault.code] += 1
                    if fault.code == SOURCE_DISK_MOVED.code:
                        self._reopen = True
                    if fault.code in TRANSIENT:
                        await self._try_again(fault)
                    else:
                        self._fail(fault)
                except Exception as error:  # noqa: BLE001 - a bug must not end status and control
                    _log.exception("job.bug")
                    self._fail(internal(error))
        finally:
            await self._close(forget=False)
            self._drainer.shutdown(wait=False)
            self._workers.shutdown(wait=False)

    async def _try_again(self, fault: Fault) -> None:
        """After a fault that mends itself: wait, shorter if there is a newer order."""
        if self.orders.wants(self._obeyed.job):
            self.standing.sentence = f"{fault.sentence}; trying again"
            self.standing.reconnects += 1
            _log.warning("session.lost", code=fault.code, because=fault.sentence)
            await self.orders.newer(self._obeyed, self._backoff.next())

    async def _grow(self, fault: Fault) -> None:
        """A disk has grown: the next session begins with disks that are opened anew, and asks
        the receiver for the new size. One that grows all the time does not make us spin."""
        _log.info("disk.grew", because=fault.sentence)
        self._reopen = True
        if self.orders.wants(self._obeyed.job):
            self.standing.sentence = f"{fault.sentence}; taking it in"
            await self.orders.newer(self._obeyed, self._backoff.next())

    def _fail(self, fault: Fault) -> None:
        """Stop until there is another order than the one that was obeyed, and say why."""
        _log.error("job.failed", code=fault.code, because=fault.sentence)
        self.standing.error = fault
        self.standing.state = "error"
        self.standing.sentence = fault.sentence
        self._failed = (self._obeyed.job, self._obeyed.revision)
        self._reopen = True

    async def _obey(self, order: JobOrder) -> None:
        self.standing.speak_of(order)
        over = order.want in {"none", "stop"}
        if self._disks is not None and (over or self._disks.job != order.job):
            await self._close(forget=True)
        await self._sweep(order, "" if over else order.job)
        if over:
            self._rest(order)
        elif order.want == "pause":
            self._rest(order)
            await self._idle()
        elif self._failed == (order.job, order.revision):
            await self._idle()
        else:
            self.standing.error = None
            await self._replicate(order)
            return
        await self.orders.newer(order, DRAIN_SECONDS if self._disks else None)

    def _rest(self, order: JobOrder) -> None:
        self.standing.state = order.state
        self.standing.speed.restart()
        if order.want != "pause" or order.state != "error":
            self.standing.error = None
            self.standing.sentence = ""

    async def _idle(self) -> None:
        """Nothing is sent, but what is written is still counted."""
        if self._disks is not None and not self._reopen:
            await self._disks.drain()

    async def _sweep(self, order: JobOrder, job: str) -> None:
        """Once for each job: remove what others left. Before the first order nothing is known."""
        if order.revision > 0 and self._swept != job:
            await to_end(
                self._drainer,
                remove_leftovers,
                self._settings.runtime,
                self._tracker,
                job,
                order.disks if job else (),
            )
            self._swept = job

    async def _close(self, forget: bool) -> None:
        """Close the disks. ``forget``: their job is over, and so is tracking."""
        disks, self._disks = self._disks, None
        self._limbo.clear()  # a map that is opened again takes what was in flight for dirty
        self._reopen = False
        self.standing.bell.ring()
        if forget:
            self.standing.forget()
        if disks is not None:
            await disks.close(forget)

    # --- a session ----------------------------------------------------------------------------

    async def _replicate(self, order: JobOrder) -> None:
        """Open a session and keep the copy close until something else is wanted."""
        self.standing.state = "preparing"
        link = await self._reach(order)
        if link is None:
            return
        disks = await self._open_disks(order)
        ciphers = offer(self._settings.tuning.cipher)
        opened = await link.request(
            OpenSession(
                id=link.new_id(),
                job=order.job,
                disks=await disks.offers(),
                round_trip=round(min(link.round_trip, HANDSHAKE_TIMEOUT), 6),
                ciphers=ciphers,
            ),
            SessionOpened,
        )
        crash.here("session.answered")
        begun = time.monotonic()
        try:
            check_choice(opened.cipher, ciphers)
            # The receiver has fenced every older writer: what was in flight is lost for good.
            for past in self._limbo:
                past.release()
            self._limbo.clear()
            await disks.attach(opened)
            crash.here("session.attached")
            self.standing.epoch = opened.epoch
            async with Transfer(
                self._links.host,
                opened,
                disks.disks,
                self.pacer,
                self.order.compress,
                self.standing.outlook.sending,
                link.heartbeat,
                self.standing.tuner,
                self._settings.tuning,
            ) as transfer:
                self._transfer = transfer
                self.standing.speed.restart()
                self.standing.sentence = ""
                _log.info(
                    "session.opened",
                    job=order.job,
                    session=opened.session,
                    cipher=opened.cipher,
                    congestion=transfer.congestion,
                )
                crash.here("session.running")
                session = Session(
                    order.job,
                    self.orders,
                    link,
                    disks,
                    transfer,
                    self.standing,
                    self._settings,
                    self._workers,
                )
                await self._until_unwanted(order, link, transfer, session.work())
        finally:
            if (past_one := self._transfer) is not None:
                self.standing.add(past_one)
                self._limbo.append(past_one)
                self._transfer = None
            crash.here("session.left")
            with contextlib.suppress(Fault, OSError):
                link.send(CloseSession(session=opened.session))
            carried = past_one is not None and past_one.acked_bytes > 0
            if carried or time.monotonic() - begun > STEADY_SECONDS:
                # It got somewhere, however short it was: the next attempt may well, too.
                self._backoff.reset()

    async def _reach(self, order: JobOrder) -> ControlLink | None:
        """The receiver's control link; None when something else is wanted before there is one.
        Meanwhile what is written is still counted."""
        while (link := self._links.link) is None:
            await self._idle()
            await self.orders.newer(order, DRAIN_SECONDS)
            if self.order is not order:
                return None
        return link

    async def _open_disks(self, order: JobOrder) -> DiskSet:
        """The disks of the job: those that are open, or after a fault all of them anew."""
        if self._reopen:
            await self._close(forget=False)
        if self._disks is None:
            disks = DiskSet(
                order.job,
                self._settings.runtime,
                self._tracker,
                self._drainer,
                self.standing.outlook,
                self.standing.bell,
                self._settings.tuning.extent,
            )
            # Kept at once: also when it is cancelled halfway there is something to close.
            self._disks = disks
            try:
                await disks.open(order.disks, self._settings.disks, order.known)
                self.standing.bell.ring()
            except BaseException:
                self._reopen = True
                raise
        else:
            await self._disks.check()
        return self._disks

    async def _until_unwanted(
        self,
        order: JobOrder,
        link: ControlLink,
        transfer: Transfer,
        work: Coroutine[Any, Any, None],
    ) -> None:
        """Run ``work`` until it ends, the session is over, or this job is not to run any more.

        Raises:
            Fault: what ended the work, or the session.
        """
        loop = asyncio.get_running_loop()
        task = loop.create_task(work)
        gone = loop.create_task(link.closed.wait())
        try:
            while self.orders.wants(order.job):
                order = self._obeyed = self.order
                changed = loop.create_task(self.orders.newer(order))
                try:
                    ends: set[asyncio.Future[Any]] = {task, gone, transfer.failure, changed}
                    await asyncio.wait(ends, return_when="FIRST_COMPLETED")
                finally:
                    changed.cancel()
                if task.done() or transfer.failure.done() or gone.done():
                    break
        finally:
            gone.cancel()
            fault = await ended(task)
        if transfer.failure.done():
            transfer.failure.result()
        if fault is not None and self.orders.wants(order.job):
            raise fault
        if fault is not None:
            _log.info("session.ended", because=str(fault))
        if gone.done() and not gone.cancelled():
            detail = "the control connection ended"
            raise CONNECTION_LOST.peer(peer="the receiver", detail=detail)


def internal(error: BaseException) -> LocalFault:
    """A bug, as a fault with a code."""
    return INTERNAL.fault(detail=f"{type(error).__name__}: {error}")
