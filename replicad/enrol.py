"""Enrolment: from an activation code to a certificate.

Two connections (see :mod:`protocol.identity`): on the first, which trusts nobody, only the
authority's certificate is asked for and held against the code; on the second, which trusts only
that authority, the secret is said. The key is made here and never leaves the machine.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, TypeVar

from protocol.activation import ActivationCode
from protocol.errors import ALREADY_ENROLLED, CONNECTION_LOST, LocalFault
from protocol.identity import (
    Identity,
    check_authority,
    fetching_context,
    issued,
    load_identity,
    make_request,
    pinned_context,
)
from protocol.link.control import ControlLink, dial
from protocol.local.runtime import make_safe
from protocol.wire.greeting import Greeting
from protocol.wire.messages import (
    Authority,
    AuthorityRequest,
    ControlMessage,
    Enrol,
    Enrolled,
)
from replicad import __version__

if TYPE_CHECKING:
    from replicad.config import Config

Answered = TypeVar("Answered", bound=ControlMessage)


def enrol(config: Config, code: str, host: str, port: int, replace: bool = False) -> None:
    """Enrol this source and store its identity under the state directory.

    Raises:
        Fault: what is wrong with the code, the receiver or the network; nothing changed then.
    """
    activation = ActivationCode.parse(code)
    if not replace and (present := _present(config)) is not None:
        raise ALREADY_ENROLLED.fault(receiver=present.address)
    # Before the code is spent on an identity that cannot be kept.
    make_safe(config.state.directory)
    asyncio.run(_enrol(config, activation, host, port, replace))


def _present(config: Config) -> Identity | None:
    """The identity this source already has; a damaged one is as good as none."""
    try:
        return load_identity(config.state.directory)
    except LocalFault:
        return None


async def _enrol(
    config: Config, activation: ActivationCode, host: str, port: int, replace: bool
) -> None:
    address = f"{host}:{port}"
    greeting = Greeting(software=f"replicad {__version__}", name=config.source.name)
    first = await _ask(host, port, fetching_context(), greeting, AuthorityRequest(id=1), Authority)
    check_authority(first.certificate_pem, activation.authority, address)
    context = pinned_context(first.certificate_pem, activation.authority, address)
    request = make_request(config.source.name)
    message = Enrol(
        id=1,
        secret=activation.secret.hex(),
        name=config.source.name,
        request_pem=request.request_pem,
        replace=replace,
    )
    answer = await _ask(host, port, context, greeting, message, Enrolled)
    # The authority that signed is the one that the code vouches for, not merely a trusted peer's.
    check_authority(answer.authority_pem, activation.authority, address)
    issued(
        request,
        answer.certificate_pem,
        answer.authority_pem,
        address=address,
        receiver=answer.receiver,
    ).store(config.state.directory)


async def _ask(
    host: str,
    port: int,
    context: ssl.SSLContext,
    greeting: Greeting,
    message: AuthorityRequest | Enrol,
    answer: type[Answered],
) -> Answered:
    """One question on a connection of its own."""
    async with await dial(host, port, context, greeting, None) as link:
        await link.greet()
        listening = asyncio.create_task(_listen(link))
        try:
            return await link.request(message, answer)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


async def _listen(link: ControlLink) -> None:
    async for message in link.messages():
        raise CONNECTION_LOST.peer(
            peer="the receiver", detail=f"it said {type(message).__name__} instead of an answer"
        )
