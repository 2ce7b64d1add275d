"""The control port: greet, enrol, and talk with the sources that are known.

A connection is a stranger's until TLS has shown a certificate of ours that the catalog knows.
A stranger may ask who the authority is and redeem an activation code, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from cryptography import x509

from protocol.errors import INTERNAL, PROTOCOL, SESSION_FENCED, Fault
from protocol.identity import certificate_fingerprint, common_name
from protocol.link.control import READ_SIZE, ControlLink
from protocol.local import log
from protocol.wire.greeting import Greeting
from protocol.wire.limits import HANDSHAKE_TIMEOUT
from protocol.wire.messages import (
    Ask,
    Authority,
    AuthorityRequest,
    CheckpointFailed,
    CloseSession,
    Commit,
    ControlMessage,
    Enrol,
    Enrolled,
    ErrorInfo,
    Inventory,
    JobOrder,
    JobReport,
    OpenSession,
    Refused,
    SessionFailed,
)
from protocol.wire.rules import Role
from receiver import __version__
from receiver.activation import enrol
from receiver.authority import Authority as Ca
from receiver.catalog import SourceRow
from receiver.checkpoint import commit
from receiver.gate import Visit
from receiver.manager import Manager
from receiver.requests import answer
from receiver.session import Session

_log = log.get("sources")


@dataclass(slots=True, eq=False)
class Present:
    """A source that is connected now."""

    name: str
    link: ControlLink
    address: str
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
        self._manager.session_failed(session, fault)

    def dismiss(self, source: str, fault: Fault) -> None:
        """Send a source away: it has been forgotten."""
        here = self._here.pop(source, None)
        if here is not None:
            with contextlib.suppress(Fault):
                here.link.send(_refusal(fault))
            here.link.abort()

    # --- a connection ---------------------------------------------------------------------------

    async def welcome(self, sock: socket.socket, visit: Visit) -> None:
        """Serve one connection of the control port to its end."""
        try:
            reader, writer = await self._handshake(sock)
        except (OSError, TimeoutError):
            sock.close()
            return
        try:
            await self._converse(reader, writer, visit)
        except Fault as fault:
            _log.info("connection.ended", code=fault.code, because=fault.sentence)
        finally:
            writer.close()

    async def _handshake(
        self, sock: socket.socket
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=READ_SIZE)
        protocol = asyncio.StreamReaderProtocol(reader)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        async with asyncio.timeout(HANDSHAKE_TIMEOUT):
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                sock,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT,
                ssl_shutdown_timeout=2.0,
            )
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, visit: Visit
    ) -> None:
        presented = _certificate(writer)
        source: SourceRow | None = None
        refused: Fault | None = None
        if presented is not None:
            try:
                source = await self._manager.shelf.do(
                    lambda catalog: catalog.sources.with_certificate(
                        certificate_fingerprint(presented), _name(presented)
                    )
                )
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
                link.send(_refusal(refused))
                return
            greeted = await link.greet()
            if source is None:
                await self._enrolling(link)
                return
            visit.known()
            await self._serve(link, source.name, greeted.peer.software)

    async def _enrolling(self, link: ControlLink) -> None:
        async for message in link.messages():
            try:
                if isinstance(message, AuthorityRequest):
                    link.send(Authority(answers=message.id, certificate_pem=self._authority.pem))
                elif isinstance(message, Enrol):
                    link.send(await self._enrol(message))
            except Fault as fault:
                number: int = getattr(message, "id", 0)
                link.send(_refusal(fault, number))
            return

    async def _enrol(self, message: Enrol) -> Enrolled:
        try:
            secret = bytes.fromhex(message.secret)
        except ValueError:
            raise PROTOCOL.peer(detail="the secret is not hex") from None
        certificate = await self._manager.shelf.do(
            lambda catalog: enrol(
                catalog,
                self._authority,
                secret=secret,
                name=message.name,
                request_pem=message.request_pem,
                now=time.time(),
            )
        )
        _log.info("source.enrolled", source=message.name)
        return Enrolled(
            answers=message.id,
            certificate_pem=certificate.pem,
            authority_pem=self._authority.pem,
            receiver=os.uname().nodename,
        )

    # --- a known source -------------------------------------------------------------------------

    async def _serve(self, link: ControlLink, name: str, software: str) -> None:
        """From the greeting to the end. A second connection of a source replaces the first."""
        here = Present(name, link, link.peer_address, set())
        older = self._here.get(name)
        self._here[name] = here
        if older is not None:
            with contextlib.suppress(Fault):
                older.link.send(_refusal(SESSION_FENCED.fault()))
            older.link.abort()
        await self._seen(here, software)
        _log.info("source.connected", source=name, address=here.address)
        try:
            await self._listen(here)
        finally:
            if self._here.get(name) is here:
                del self._here[name]
            for session in here.sessions:
                await asyncio.shield(self._manager.sessions.close_session(session))
            with contextlib.suppress(Fault):
                await self._seen(here, software)
            _log.info("source.gone", source=name)

    async def _seen(self, here: Present, software: str) -> None:
        await self._manager.shelf.do(
            lambda catalog: catalog.sources.seen(
                here.name, time.time(), address=here.address, software=software
            )
        )

    async def _listen(self, here: Present) -> None:
        try:
            async for message in here.link.messages():
                if isinstance(message, ControlMessage):
                    await self._take(here, message)
        finally:
            here.link.closed.set()

    async def _take(self, here: Present, message: ControlMessage) -> None:
        manager = self._manager
        if isinstance(message, Inventory):
            disks = message.disks
            await manager.shelf.do(lambda catalog: catalog.sources.offer(here.name, disks))
            here.link.send(await manager.order(here.name))
        elif isinstance(message, JobReport):
            await manager.reported(here.name, message)
        elif isinstance(message, CheckpointFailed):
            await manager.checkpoint_failed(here.name, message)
        elif isinstance(message, CloseSession):
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
            _log.warning("request.refused", source=here.name, code=fault.code, because=fault.sentence)
            reply = _refusal(fault, number)
        except Exception as error:  # a bug in one request must not end all others
            _log.exception("request.bug", source=here.name)
            detail = f"{type(error).__name__}: {error}"
            reply = _refusal(INTERNAL.fault(detail=detail), number)
        with contextlib.suppress(Fault):
            here.link.send(reply)

    async def _open(self, here: Present, message: OpenSession) -> ControlMessage:
        opened = await self._manager.sessions.open(here.name, message, self.data_port)
        if here.link.closed.is_set():
            await self._manager.sessions.close_session(opened.session)
            raise SESSION_FENCED.peer()
        here.sessions.add(opened.session)
        return opened

    async def _commit(self, here: Present, message: Commit) -> ControlMessage:
        manager = self._manager
        session = manager.sessions.of_job(message.job)
        reply, job, row = await commit(
            manager.shelf, manager.storage, session, here.name, message
        )
        here.link.send(reply)
        manager.committed(job, row)
        return await manager.order(here.name)


def _certificate(writer: asyncio.StreamWriter) -> bytes | None:
    """The peer's verified certificate, DER; None when it has shown none."""
    tls: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
    return tls.getpeercert(binary_form=True) if tls is not None else None


def _name(der: bytes) -> str:
    return common_name(x509.load_der_x509_certificate(der))


def _refusal(fault: Fault, number: int = 0) -> Refused:
    return Refused(
        code=fault.code, message=fault.sentence, remedy=fault.remedy, answers=number
    )
