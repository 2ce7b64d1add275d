"""The daemon of the source: one loop that dials the receiver and runs the job it is given.

Everything that outlives this process is elsewhere: the identity in the state directory, the
dirty maps in the runtime directory, the tracking in the kernel. So it can be killed and started
at any moment.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import uvloop

from protocol.admin.server import AdminServer
from protocol.errors import NOT_ENROLLED, UNREACHABLE, Fault, from_peer
from protocol.identity import Identity, load_identity
from protocol.link.backoff import Backoff
from protocol.link.control import ControlLink, dial
from protocol.local import crash, log
from protocol.local.descriptors import allow_many
from protocol.local.metrics import MetricsServer
from protocol.local.notify import Notifier, keep_alive, watchdog_interval
from protocol.local.runtime import RuntimeHold
from protocol.local.stopping import stop_event
from protocol.local.values import parse_address
from protocol.views import SourceStatus, TrackerView
from protocol.wire.greeting import Greeting
from protocol.wire.jobs import JobOrder
from protocol.wire.messages import Inventory, SessionFailed
from replicad import __version__
from replicad.commands import Commands
from replicad.engine.job import JobEngine, internal
from replicad.engine.session import Settings
from replicad.engine.standing import News
from replicad.freeze.leftover import thaw_leftovers
from replicad.inventory import present_disks
from replicad.report import Snapshot, compression_view, metrics, source_status
from replicad.tracker import (
    EbpfTracker,
    NoTracker,
    TrackerUnavailable,
    boot_id,
    collect_garbage,
    pin_directory,
)

if TYPE_CHECKING:
    from replicad.config import Config

REPORT_SECONDS = 1.0
"""Between reports to the receiver while there is a job."""

NEWS_SECONDS = 0.1
"""Between two tellings of what the receiver should know at once: a pass may take milliseconds."""

STEADY_SECONDS = 5.0
"""A connection that stood so long begins the next row of attempts anew."""

UNENROLLED_SECONDS = 1.0
"""Between looks for an identity before this source is enrolled."""

INVENTORY_SECONDS = 60.0
"""Between looks whether the disks of this machine have changed."""

_log = log.get("daemon")


class Daemon:
    """The source. :meth:`run` until a signal says otherwise."""

    def __init__(self, config: Config, tracker: EbpfTracker | NoTracker) -> None:
        self._config = config
        self._tracker = tracker
        self._identity: Identity | None = None
        self._link: ControlLink | None = None
        self._obeyed = False
        self._sentence = ""
        self._unusable: Fault | None = None
        self._errors: Counter[str] = Counter()
        self.latest = Snapshot()
        self.engine = JobEngine(
            Settings(
                runtime=config.runtime.directory,
                hooks=config.hooks.directory,
                disks=config.source.disks,
                longest_freeze=config.freeze.longest,
                tuning=config.tuning,
            ),
            tracker,
            self,
        )

    # --- what the engine asks -------------------------------------------------------------------

    @property
    def host(self) -> str:
        """The receiver's address."""
        return parse_address(self._identity.address, 0).host if self._identity else ""

    @property
    def link(self) -> ControlLink | None:
        """The control link, once the receiver has said on it what it wants."""
        return self._link if self._obeyed else None

    # --- the control connection -----------------------------------------------------------------

    async def keep_connected(self) -> None:
        """Dial the receiver again and again, for ever."""
        backoff = Backoff()
        while True:
            try:
                await self._converse(self._load(), backoff)
            except Fault as fault:
                self._note(fault)
                if fault.code == NOT_ENROLLED.code:
                    await asyncio.sleep(UNENROLLED_SECONDS)
                    continue
            except Exception as error:  # noqa: BLE001 - a bug must not end status and control
                _log.exception("receiver.bug")
                self._note(internal(error))
            await asyncio.sleep(backoff.next())

    def _load(self) -> Identity:
        """The identity of now: a new enrolment counts at once, and so does a damaged file."""
        try:
            self._identity, self._unusable = load_identity(self._config.state.directory), None
        except Fault as fault:
            self._identity, self._unusable = None, fault
            raise
        return self._identity

    def _note(self, fault: Fault) -> None:
        if self._sentence != fault.sentence and fault.code != NOT_ENROLLED.code:
            _log.warning("receiver.lost", code=fault.code, because=fault.sentence)
        self._sentence = fault.sentence
        if fault.code != NOT_ENROLLED.code:
            self._errors[fault.code] += 1

    async def _converse(self, identity: Identity, backoff: Backoff) -> None:
        address = parse_address(identity.address, 0)
        greeting = Greeting(software=f"replicad {__version__}", name=identity.name, boot=boot_id())
        context = identity.client_context()
        async with await dial(address.host, address.port, context, greeting, identity.name) as link:
            await link.greet()
            crash.here("daemon.greeted")
            begun = asyncio.get_running_loop().time()
            self._sentence = ""
            _log.info("receiver.connected", address=identity.address)
            failed: Fault | None = None
            try:
                async with asyncio.TaskGroup() as group:
                    telling = group.create_task(self._tell(link))
                    self._link = link
                    await self._listen(link)
                    telling.cancel()
            except* Fault as faults:
                # Raised below: what is raised here comes out in a group before Python 3.11.4.
                failed = _first(faults)
            finally:
                self._link = None
                self._obeyed = False
                # A receiver that greets and fails at once is not asked ever faster.
                if asyncio.get_running_loop().time() - begun > STEADY_SECONDS:
                    backoff.reset()
            # A cancellation that comes while the group ends by itself would be lost here.
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError
            if failed is not None:
                raise failed from None
        raise UNREACHABLE.fault(address=identity.address, detail="it closed the connection")

    async def _tell(self, link: ControlLink) -> None:
        """The inventory at first and whenever it changes; the job's report once a second, and at
        once when its state or a pass has changed."""
        loop = asyncio.get_running_loop()
        told: tuple[object, ...] | None = None
        said: News | None = None
        complained: tuple[str, str] | None = None
        look_at = say_at = 0.0
        while True:
            if loop.time() >= look_at:
                look_at = loop.time() + INVENTORY_SECONDS
                disks = self._config.source.disks
                found = tuple(await loop.run_in_executor(None, present_disks, disks))
                if found != told:
                    told = found
                    link.send(Inventory(disks=found))
                    crash.here("inventory.sent")
            news = self.engine.news()
            if news is not None and news.error != complained:
                # It may be about a disk: the receiver must know what is there now.
                complained, look_at = news.error, loop.time()
            telling = news is not None and self._obeyed
            if telling and (news != said or loop.time() >= say_at):
                said, say_at = news, loop.time() + REPORT_SECONDS
                if (report := self.engine.report()) is not None:
                    link.send(report)
                    crash.here("report.sent")
            next_look = loop.time() + NEWS_SECONDS
            until = min(look_at, say_at) if telling else look_at
            await self.engine.standing.bell.heard(until - loop.time())
            if (early := next_look - loop.time()) > 0:
                await asyncio.sleep(early)

    async def _listen(self, link: ControlLink) -> None:
        async for message in link.messages():
            if isinstance(message, JobOrder):
                self._obeyed = True
                self.engine.obey(message)
            elif isinstance(message, SessionFailed):
                error = message.error
                self.engine.session_failed(
                    message.session, from_peer(error.code, error.message, error.remedy)
                )

    # --- what people ask ------------------------------------------------------------------------

    def status(self) -> SourceStatus:
        """The source as it stands."""
        ebpf = isinstance(self._tracker, EbpfTracker)
        tracker = TrackerView(
            name=self._tracker.name,
            available=ebpf,
            sentence="" if isinstance(self._tracker, EbpfTracker) else self._tracker.reason,
            misses=self.latest.misses,
        )
        return source_status(
            self._config.source.name,
            f"replicad {__version__}",
            self._identity.address if self._identity else None,
            self._sentence,
            tracker,
            self.engine.order,
            self.snapshot(),
        )

    def snapshot(self) -> Snapshot:
        """A fresh snapshot, which the metrics see too."""
        report = self.engine.report()
        self.latest = Snapshot(
            connected=self._link is not None,
            report=report,
            frozen=tuple(self.engine.standing.frozen),
            verified=replace(self.engine.standing.tally),
            compression=compression_view(
                self.engine.order.compress, self.engine.standing.tuner.choice
            ),
            sending=self.engine.sending(),
            extent_fixed=self._config.tuning.extent,
            errors=dict(self._errors + self.engine.standing.errors),
            misses=report.tracker_misses if report else 0,
            reconnects=self.engine.standing.reconnects,
        )
        return self.latest

    def reachable(self) -> ControlLink:
        """The control link, to ask the receiver something.

        Raises:
            LocalFault: NOT_ENROLLED, UNREACHABLE or what is wrong with the identity.
        """
        if self._link is None:
            if self._identity is None:
                raise self._unusable or NOT_ENROLLED.fault()
            detail = self._sentence or "the connection is being made"
            raise UNREACHABLE.fault(address=self._identity.address, detail=detail)
        return self._link


def _first(faults: BaseExceptionGroup[Fault]) -> Fault:
    found: BaseException = faults
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, Fault)
    return found


def open_tracker(config: Config) -> EbpfTracker | NoTracker:
    """The kernel's tracker, or the reason why there is none."""
    if config.tracker.enabled == "off":
        return NoTracker("switched off in the configuration ([tracker] enabled)")
    try:
        collect_garbage()
        directory = config.runtime.directory
        return EbpfTracker.open(pin_directory(directory), directory)
    except TrackerUnavailable as error:
        return NoTracker(error.reason)


async def serve(config: Config, tracker: EbpfTracker | NoTracker) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = stop_event()
    daemon = Daemon(config, tracker)
    notifier = Notifier()
    listener = config.metrics.listen
    exposition = MetricsServer(listener, lambda: metrics(daemon.latest)) if listener else None
    try:
        socket = config.runtime.control_socket
        async with (
            AdminServer(socket, Commands(daemon).methods(), config.runtime.group),
            asyncio.TaskGroup() as group,
        ):
            tasks = [
                group.create_task(daemon.keep_connected()),
                group.create_task(daemon.engine.run()),
                group.create_task(_refresh(daemon, notifier)),
                group.create_task(keep_alive(notifier, watchdog_interval())),
            ]
            notifier.ready("running")
            _log.info("daemon.ready", name=config.source.name, tracker=tracker.name)
            await stop.wait()
            notifier.stopping()
            for task in tasks:
                task.cancel()
    finally:
        if exposition is not None:
            exposition.close()
        notifier.close()
        _log.info("daemon.ended")


async def _refresh(daemon: Daemon, notifier: Notifier) -> None:
    """Keep the snapshot that scrapes see fresh, and systemd's status line."""
    while True:
        status = daemon.status()
        job = status.job
        notifier.status(f"{job.state}: {job.name}" if job else status.sentence or "no job")
        await asyncio.sleep(REPORT_SECONDS)


def _thaw_leftovers(config: Config) -> None:
    """Before all else: what may wait for a filesystem that a killed predecessor left frozen."""
    record = Settings(config.runtime.directory, config.hooks.directory).frozen_record
    try:
        thawed = thaw_leftovers(record)
    except ValueError as error:
        _log.error("freeze.record_unusable", because=str(error))
        return
    if thawed:
        _log.warning("freeze.leftover_thawed", mounts=thawed)


def _let_go(tracker: EbpfTracker) -> None:
    """Tracking goes on for the disks of a job; without one the kernel is left as it was."""
    if tracker.tracked():
        tracker.close()
    else:
        tracker.destroy()


def run(config: Config) -> int:
    """Be the daemon; the exit code of ``replicad run``."""
    configured = log.configure(config.log.format, config.log.level)
    allow_many()
    # An import while a filesystem is frozen may read from it, but not wait to write beside it.
    sys.dont_write_bytecode = True
    try:
        with RuntimeHold(config.runtime.directory):
            _thaw_leftovers(config)
            tracker = open_tracker(config)
            if isinstance(tracker, NoTracker):
                _log.warning("tracker.unavailable", because=tracker.reason)
            try:
                uvloop.run(serve(config, tracker))
            finally:
                if isinstance(tracker, EbpfTracker):
                    _let_go(tracker)
    finally:
        configured.close()
    return 0
