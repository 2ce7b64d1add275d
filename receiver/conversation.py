"""The control port: greet, enrol, and talk with the sources that are known.

A connection is a stranger's until TLS has shown a certificate of ours that the catalog knows.
A stranger may ask who the authority is and redeem an activation code, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from protocol.errors import INTERNAL, SESSION_FENCED, TARGET_TOUCHED, Fault
from protocol.identity import certificate_fingerprint
from protocol.link.control import ControlLink
from protocol.local import crash, log
from protocol.wire.control import Greeted
from protocol.wire.greeting import Greeting
from protocol.wire.jobs import ErrorInfo, JobOrder, JobReport
from protocol.wire.messages import (
    Ask,
    CheckpointFailed,
    CloseSession,
    Commit,
    ControlMessage,
    Hello,
    Inventory,
    OpenSession,
    SessionFailed,
    Verified,
    VerifyFailed,
)
from protocol.wire.rules import Role
from receiver import __version__
from receiver.authority import Authority as Ca
from receiver.catalog import SourceRow
from receiver.checkpoint import commit
from receiver.disk.device import same_machine
from receiver.enrolling import certificate_of, handshake, name_in, refusal, serve_stranger
from receiver.gate import Visit
from receiver.manager import Manager
from receiver.requests import answer
from receiver.session import Session

_log = log.get("sources")


@dataclass(slots=True, eq=False)
class Present:
    """A source that is connected now. ``boot``: the kernel's boot that it runs on, as it says;
    ``sessions``: those that were opened on this connection."""

    name: str
    link: ControlLink
    address: str
    boot: str
    sessions: set[str]


class Conversations:
    """All control connections; knows which sources are here.

    Args:
        heartbeat: seconds between heartbeats.
    """

    def __init__(self, manager: Manager, authority: Ca, heartbeat: float) -> None:
        self._manager = manager
        self._authority = authority
        self._context = authority.server_context()
        self._heartbeat = heartbeat
        self._here: dict[str, Present] = {}
        self._requests: set[asyncio.Task[None]] = set()
        self.data_port = 0

    # --- who is here ----------------------------------------------------------------------------

    def connected(self, source: str) -> bool:
        """Whether a source's control connection stands."""
        return source in self._here

    def on_this_machine(self, source: str) -> bool:
        """Whether a source is here and says that it runs on our own kernel."""
        here = self._here.get(source)
        return here is not None and same_machine(here.boot)

    def certificate_renewed(self) -> None:
        """Use the new server certificate for connections to come."""
        self._authority.load_server_certificate(self._context)

    def count(self) -> int:
        """How many sources are here."""
        return len(self._here)

    def tell(self, source: str, order: JobOrder) -> None:
        """Give a source its order, if it is here; otherwise it gets it when it comes."""
        here = self._here.get(source)
        if here is not None:
            with contextlib.suppress(Fault):
                here.link.send(order)

    def failed(self, session: Session, fault: Fault) -> None:
        """A disk of a session failed: tell its source, and the manager."""
        here = self._here.get(session.source)
        if here is not None:
            error = ErrorInfo(code=fault.code, message=fault.sentence, remedy=fault.remedy)
            with contextlib.suppress(Fault):
                here.link.send(SessionFailed(session=session.id, error=error))
        if fault.code == TARGET_TOUCHED.code:
            # Nothing for a person to mend: the next session compares.
            self._manager.happenings.session_doubted(session, fault)
        else:
            self._manager.happenings.session_failed(session, fault)

    def dismiss(self, source: str, fault: Fault) -> None:
        """Send a source away: it has been forgotten."""
        here = self._here.pop(source, None)
        if here is not None:
            self._send_away(here, fault)

    # --- a connection ---------------------------------------------------------------------------

    async def welcome(self, sock: socket.socket, visit: Visit) -> None:
        """Serve one connection of the control port to its end."""
        try:
            reader, writer = await handshake(sock, self._context)
        except (OSError, TimeoutError):
            return
        visit.take()
        try:
            await self._converse(reader, writer, visit)
        except Fault as fault:
            _log.info("connection.ended", code=fault.code, because=fault.sentence)
        except asyncio.CancelledError:
            # Turned out, or the daemon stops: who is slow to say goodbye is not waited for.
            writer.transport.abort()
            raise
        finally:
            writer.close()

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, visit: Visit
    ) -> None:
        presented = certificate_of(writer)
        source: SourceRow | None = None
        refused: Fault | None = None
        if presented is not None:
            try:
                source = await self._known(presented)
            except Fault as fault:
                refused = fault
        greeting = Greeting(
            software=f"receiver {__version__}",
            data_port=self.data_port,
            heartbeat=self._heartbeat,
        )
        name = source.name if source else None
        async with ControlLink(Role.RECEIVER, greeting, name, reader, writer) as link:
            if refused is not None:
                link.send(refusal(refused))
                return
            greeted = await link.greet()
            if source is None:
                await serve_stranger(link, self._manager.shelf, self._authority)
                return
            assert presented is not None
            visit.known()
            await self._serve(link, source.name, greeted, presented)

    async def _known(self, presented: bytes) -> SourceRow:
        """The source with this certificate.

        Raises:
            PeerFault: SOURCE_FORGOTTEN.
        """
        fingerprint, name = certificate_fingerprint(presented), name_in(presented)
        return await self._manager.shelf.do(
            lambda catalog: catalog.sources.with_certificate(fingerprint, name)
        )

    # --- a known source -------------------------------------------------------------------------

    async def _serve(
        self, link: ControlLink, name: str, greeted: Greeted, presented: bytes
    ) -> None:
        """From the greeting to the end. A second connection of a source replaces the first."""
        peer = greeted.peer
        boot = peer.boot if isinstance(peer, Hello) else ""
        here = Present(name, link, link.peer_address, boot, set())
        older = self._here.get(name)
        self._here[name] = here
        if older is not None:
            self._send_away(older, SESSION_FENCED.fault())
        try:
            # Once more, now that it can be dismissed: it may have been forgotten meanwhile.
            await self._known(presented)
            await self._seen(here, peer.software)
            _log.info("source.connected", source=name, address=here.address)
            await self._listen(here)
        finally:
            await asyncio.shield(self._gone(here, peer.software))

    async def _gone(self, here: Present, software: str) -> None:
        here.link.closed.set()
        if self._here.get(here.name) is here:
            del self._here[here.name]
        for session in tuple(here.sessions):
            await self._manager.sessions.close_session(session)
        with contextlib.suppress(Fault):  # a figure; the catalog's trouble is told elsewhere
            await self._seen(here, software)
        _log.info("source.gone", source=here.name)

    def _send_away(self, here: Present, fault: Fault) -> None:
        with contextlib.suppress(Fault):
            here.link.send(refusal(fault))
        here.link.abort()

    async def _seen(self, here: Present, software: str) -> None:
        await self._manager.shelf.do(
            lambda catalog: catalog.sources.seen(
                here.name, time.time(), address=here.address, software=software
            )
        )

    async def _listen(self, here: Present) -> None:
        async for message in here.link.messages():
            if here.link.closed.is_set():
                return  # sent away: what it still says counts no more
            if isinstance(message, ControlMessage):
                await self._take(here, message)

    async def _take(self, here: Present, message: ControlMessage) -> None:
        manager = self._manager
        if isinstance(message, Inventory):
            disks = message.disks
            await manager.shelf.do(lambda catalog: catalog.sources.offer(here.name, disks))
            here.link.send(await manager.order(here.name))
        elif isinstance(message, JobReport):
            await manager.happenings.reported(here.name, message)
        elif isinstance(message, CheckpointFailed):
            await manager.happenings.checkpoint_failed(here.name, message)
        elif isinstance(message, Verified):
            await manager.happenings.verifications.verified(here.name, message)
        elif isinstance(message, VerifyFailed):
            await manager.happenings.verifications.failed(here.name, message)
        elif isinstance(message, CloseSession):
            # Only what was opened here, and once: ids of others are none of its business.
            if message.session in here.sessions:
                here.sessions.discard(message.session)
                self._beside(manager.sessions.close_session(message.session))
        elif isinstance(message, OpenSession):
            self._beside(self._answer(here, message.id, self._open(here, message)))
        elif isinstance(message, Commit):
            self._beside(self._answer(here, message.id, self._commit(here, message)))
        elif isinstance(message, Ask):
            self._beside(self._answer(here, message.id, answer(manager, here.name, message)))

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what takes long beside the listening. It is not cancelled when the connection
        ends: a disk that is being opened must be closed again by whoever opened it."""
        task = asyncio.get_running_loop().create_task(work)
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    async def finish(self) -> None:
        """Wait for the requests that are being carried out: the daemon stops."""
        while self._requests:
            await asyncio.wait(self._requests)

    async def _answer(
        self, here: Present, number: int, work: Coroutine[Any, Any, ControlMessage]
    ) -> None:
        """Carry out a request and answer it, with a refusal if need be."""
        try:
            reply = await work
        except Fault as fault:
            _log.warning(
                "request.refused", source=here.name, code=fault.code, because=fault.sentence
            )
            reply = refusal(fault, number)
        except Exception as error:  # noqa: BLE001 - a bug in one request must not end all others
            _log.exception("request.bug", source=here.name)
            detail = f"{type(error).__name__}: {error}"
            reply = refusal(INTERNAL.fault(detail=detail), number)
        with contextlib.suppress(Fault):
            here.link.send(reply)

    async def _open(self, here: Present, message: OpenSession) -> ControlMessage:
        opened = await self._manager.sessions.open(
            here.name,
            message,
            self.data_port,
            here=same_machine(here.boot),
            boot=here.boot,
        )
        if here.link.closed.is_set():
            await self._manager.sessions.close_session(opened.session)
            raise SESSION_FENCED.peer()
        here.sessions.add(opened.session)
        return opened

    async def _commit(self, here: Present, message: Commit) -> ControlMessage:
        manager = self._manager
        reply, job, row = await commit(
            manager.shelf, manager.storage, manager.sessions, here.name, message
        )
        # Recorded: who waits is told, whether or not the source can still be.
        manager.happenings.committed(job, row)
        crash.here("commit.unanswered")
        here.link.send(reply)
        return await manager.order(here.name)
