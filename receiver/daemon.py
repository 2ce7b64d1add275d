"""The daemon of the receiver: two ports, a control socket, a catalog, and the clock."""

from __future__ import annotations

import asyncio
import datetime as dt
import errno
import socket
from typing import TYPE_CHECKING

import uvloop

from protocol.admin.server import AdminServer
from protocol.errors import ALREADY_RUNNING, CONFIGURATION, Fault
from protocol.local import crash, log
from protocol.local.descriptors import allow_many
from protocol.local.metrics import MetricsServer
from protocol.local.notify import Notifier, keep_alive, watchdog_interval
from protocol.local.runtime import RuntimeHold, make_safe
from protocol.local.stopping import stop_event
from protocol.wire.jobs import JobOrder
from receiver.authority import Authority
from receiver.control import Control
from receiver.conversation import Conversations
from receiver.dataport import DataPort
from receiver.gate import Crowd, Gate, Welcome, listen
from receiver.manager import Manager
from receiver.report import Snapshot, metrics
from receiver.sessions import Sessions
from receiver.shelf import Shelf

if TYPE_CHECKING:
    from protocol.local.values import Address
    from receiver.config import Config

REFRESH_SECONDS = 1.0
"""Between refreshes of what Prometheus and systemd see."""

RENEW_SECONDS = 86400.0
"""Between looks whether the server's certificate is near its end."""

_log = log.get("daemon")


class Daemon:
    """The receiver, put together. :meth:`run` until stopped."""

    def __init__(self, config: Config, shelf: Shelf, authority: Authority) -> None:
        storage = config.storage.directory
        self._config = config
        self.manager = Manager(shelf, storage, self)
        limits = config.limits
        self.conversations = Conversations(self.manager, authority, limits.heartbeat)
        self.sessions = Sessions(
            shelf,
            storage,
            limits.memory,
            self.conversations.failed,
            limits.heartbeat,
            config.tuning,
        )
        self.manager.sessions = self.sessions
        self.control = Control(self.manager, self.conversations, authority)
        self.data = DataPort(self.sessions)
        self.latest = Snapshot()
        self._authority = authority
        self._crowd = Crowd(config.limits.connections)
        self._control_gate = self._gate(config.listen.control, self.conversations.welcome)
        self._data_gate = self._gate(config.listen.data, self.data.welcome)
        self.conversations.data_port = self._data_gate.port

    def _gate(self, address: Address, welcome: Welcome) -> Gate:
        limits = self._config.limits
        return Gate(open_port(address), welcome, limits.handshakes, self._crowd)

    # The manager tells sources through us, because it is made before the conversations.

    def tell(self, source: str, order: JobOrder) -> None:
        """Give a connected source its order."""
        self.conversations.tell(source, order)

    def connected(self, source: str) -> bool:
        """Whether a source is here."""
        return self.conversations.connected(source)

    def on_this_machine(self, source: str) -> bool:
        """Whether a source is here, and on our own machine."""
        return self.conversations.on_this_machine(source)

    async def run(self, stop: asyncio.Event, notifier: Notifier) -> None:
        """Serve until ``stop``; then end everything in order."""
        await self.manager.happenings.restarted()
        runtime = self._config.runtime
        async with (
            AdminServer(runtime.control_socket, self.control.methods(), runtime.group),
            asyncio.TaskGroup() as group,
        ):
            tasks = [
                group.create_task(self._control_gate.serve()),
                group.create_task(self._data_gate.serve()),
                group.create_task(self.manager.happenings.keep_time()),
                group.create_task(self._refresh(notifier)),
                group.create_task(self._renew_certificate()),
                group.create_task(keep_alive(notifier, watchdog_interval())),
            ]
            notifier.ready("running")
            _log.info("daemon.ready", control=self._control_gate.port, data=self._data_gate.port)
            await stop.wait()
            notifier.stopping()
            for task in tasks:
                task.cancel()
        await self.conversations.finish()
        crash.here("receiver.stopping")
        await self.sessions.close_all()
        await self.manager.happenings.finish()

    async def _renew_certificate(self) -> None:
        """Once a day: a receiver that runs for years must not end with its certificate."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                now = dt.datetime.now(dt.UTC)
                if await asyncio.to_thread(self._authority.renew_server, now):
                    self.conversations.certificate_renewed()
                    _log.info("certificate.renewed")
            except (Fault, OSError) as error:  # there are weeks left to try again
                _log.error("certificate.not_renewed", because=str(error))

    async def _refresh(self, notifier: Notifier) -> None:
        while True:
            try:
                self.latest = await self._look()
            except Fault as fault:  # the catalog's disk may be full: it is tried again
                _log.warning("figures.old", code=fault.code, because=fault.sentence)
            now = self.latest
            notifier.status(f"{now.sources} sources, {now.sessions} sessions")
            await asyncio.sleep(REFRESH_SECONDS)

    async def _look(self) -> Snapshot:
        rows = await self.manager.shelf.do(lambda catalog: catalog.jobs.all())
        return Snapshot(
            jobs=tuple([await self.manager.view(row) for row in rows]),
            sources=self.conversations.count(),
            sessions=len(self.sessions.open_sessions()),
            refused=self.data.refused + self._control_gate.refused + self._data_gate.refused,
            received={row.id: self.manager.figures.since_start(row.id) for row in rows},
            reports={row.id: said for row in rows if (said := self.manager.figures.report(row))},
            frozen=tuple(self.manager.happenings.frozen.values()),
            compared=dict(self.manager.happenings.verifications.compared),
            differing=dict(self.manager.happenings.verifications.differing),
            errors=dict(self.manager.happenings.errors),
        )


def open_port(address: Address) -> socket.socket:
    """A listening socket.

    Raises:
        LocalFault: ALREADY_RUNNING or CONFIGURATION.
    """
    try:
        return listen(address.host, address.port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ALREADY_RUNNING.fault(path=f"the address {address}") from error
        detail = f"{address} cannot be listened on ({error.strerror})"
        raise CONFIGURATION.fault(path="[listen]", problems=detail) from error


async def serve(config: Config) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = stop_event()
    storage = config.storage.directory
    make_safe(storage)
    authority = Authority.open(storage, dt.datetime.now(dt.UTC))
    shelf = await Shelf.open(storage / "catalog.db")
    notifier = Notifier()
    exposition = None
    try:
        daemon = Daemon(config, shelf, authority)
        if config.listen.metrics is not None:
            exposition = MetricsServer(config.listen.metrics, lambda: metrics(daemon.latest))
        await daemon.run(stop, notifier)
    finally:
        if exposition is not None:
            exposition.close()
        notifier.close()
        await shelf.close()
        _log.info("daemon.ended")


def run(config: Config) -> int:
    """Be the daemon; the exit code of ``receiver run``."""
    configured = log.configure(config.log.format, config.log.level)
    allow_many()
    try:
        with RuntimeHold(config.runtime.directory):
            uvloop.run(serve(config))
    finally:
        configured.close()
    return 0
