"""At the control port before a source is known: TLS, certificates, and enrolment.

A stranger may ask who the authority is and redeem an activation code, once, and nothing else.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time

from cryptography import x509

from protocol.errors import INTERNAL, PROTOCOL, SOURCE_NAME_TAKEN, Fault, PeerFault
from protocol.identity import common_name
from protocol.link.control import READ_SIZE, ControlLink
from protocol.link.data import USER_TIMEOUT_MS
from protocol.local import log
from protocol.wire.limits import HANDSHAKE_TIMEOUT
from protocol.wire.messages import Authority, AuthorityRequest, Enrol, Enrolled, Refused
from receiver.activation import enrol
from receiver.authority import Authority as Ca
from receiver.shelf import Shelf

_log = log.get("sources")

GOODBYE_SECONDS = 2.0
"""For TLS to be ended in order before the socket is closed."""


async def handshake(
    sock: socket.socket, context: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Be the TLS server on an accepted socket, which the streams own from then on.

    Raises:
        OSError: it was no TLS of ours, or no peer; also TimeoutError.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=READ_SIZE)
    protocol = asyncio.StreamReaderProtocol(reader)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    async with asyncio.timeout(HANDSHAKE_TIMEOUT):
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            sock,
            ssl=context,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT,
            ssl_shutdown_timeout=GOODBYE_SECONDS,
        )
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def serve_stranger(link: ControlLink, shelf: Shelf, authority: Ca) -> None:
    """Answer the one request that a stranger may make."""
    async for message in link.messages():
        try:
            if isinstance(message, AuthorityRequest):
                link.send(Authority(answers=message.id, certificate_pem=authority.pem))
            elif isinstance(message, Enrol):
                link.send(await _enrol(message, shelf, authority))
        except Fault as fault:
            number: int = getattr(message, "id", 0)
            link.send(refusal(_for_strangers(fault), number))
        return


def _for_strangers(fault: Fault) -> Fault:
    """What a stranger may know: his own mistakes, not what is wrong on our disks."""
    if isinstance(fault, PeerFault) or fault.code == SOURCE_NAME_TAKEN.code:
        return fault
    _log.error("enrolment.failed", code=fault.code, because=fault.sentence)
    return INTERNAL.fault(detail="the receiver's log says which")


async def _enrol(message: Enrol, shelf: Shelf, authority: Ca) -> Enrolled:
    try:
        secret = bytes.fromhex(message.secret)
    except ValueError:
        raise PROTOCOL.peer(detail="the secret is not hex") from None
    certificate = await shelf.do(
        lambda catalog: enrol(
            catalog,
            authority,
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
        authority_pem=authority.pem,
        receiver=os.uname().nodename,
    )


def certificate_of(writer: asyncio.StreamWriter) -> bytes | None:
    """The peer's verified certificate, DER; None when it has shown none."""
    tls: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
    return tls.getpeercert(binary_form=True) if tls is not None else None


def name_in(der: bytes) -> str:
    """The common name in a certificate, for sentences only."""
    return common_name(x509.load_der_x509_certificate(der))


def refusal(fault: Fault, number: int = 0) -> Refused:
    """A fault as an answer to request ``number``, or as the end of the connection."""
    return Refused(code=fault.code, message=fault.sentence, remedy=fault.remedy, answers=number)
