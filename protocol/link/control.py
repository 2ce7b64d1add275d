"""The control connection on asyncio: TLS streams around the sans-I/O conversation.

``ControlLink`` is the same object on both sides. Messages of the peer are pulled with
:meth:`ControlLink.messages`; requests wait for their answer; heartbeats go by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
from collections.abc import AsyncGenerator
from typing import Any, Self, TypeVar

from protocol.errors import (
    CA_MISMATCH,
    CERTIFICATE_REFUSED,
    CONNECTION_LOST,
    UNREACHABLE,
    Fault,
    from_peer,
)
from protocol.identity import RECEIVER_NAME
from protocol.link.allowance import Allowance
from protocol.wire.control import ControlConnection, Greeted
from protocol.wire.greeting import Greeting
from protocol.wire.limits import (
    CONTROL_BURST,
    CONTROL_RATE,
    HANDSHAKE_TIMEOUT,
    MESSAGES_BURST,
    MESSAGES_RATE,
)
from protocol.wire.messages import ControlMessage, Refused
from protocol.wire.rules import Role

Answered = TypeVar("Answered", bound=ControlMessage)

READ_SIZE = 64 << 10
"""Bytes asked of the stream at a time."""

REQUEST_TIMEOUT = 120.0
"""Seconds to wait for an answer. Opening a session may wait for the writes of an older one, a
commit for the sync and the snapshot of large disks."""


UNREAD_MAX = 4 << 20
"""Bytes that may wait for a peer that does not read: four of the largest messages. A peer that
asks and never listens would otherwise fill our memory with answers."""

LOOK_SECONDS = 1.0
"""Before the greeting is over, which changes when something is due, it is looked at so often."""

MOST_SECONDS = 60.0
"""And afterwards."""

GOODBYE_SECONDS = 2.0
"""For the last words to go out before the connection is cut."""


class ControlLink:
    """A greeted, or soon greeted, control connection.

    Use as ``async with``: the heartbeat task lives as long as the block.

    Attributes:
        round_trip: seconds from our greeting to the peer's, which it says when it has heard ours;
            0 before.
    """

    def __init__(
        self,
        role: Role,
        greeting: Greeting,
        authenticated: str | None,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.core = ControlConnection(role, greeting, authenticated, self._loop.time())
        self.greeted: Greeted | None = None
        self._reader = reader
        self._writer = writer
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._beating: asyncio.Task[None] | None = None
        self._bytes = Allowance(CONTROL_RATE, CONTROL_BURST, self._loop.time())
        self._events = Allowance(MESSAGES_RATE, MESSAGES_BURST, self._loop.time())
        self._counted = 0
        self._silent: Fault | None = None
        self._heard = False
        self.round_trip = 0.0
        self.closed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._flush(self.core.take_output())
        self._beating = self._loop.create_task(self._beat(), name="heartbeat")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed.set()
        if self._beating is not None:
            self._beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._beating
        self._fail_waiting(CONNECTION_LOST.peer(peer="the peer", detail="closed"))
        self._writer.close()
        with contextlib.suppress(OSError, ssl.SSLError, TimeoutError):
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self._writer.wait_closed()
                return
        self._writer.transport.abort()

    @property
    def peer_address(self) -> str:
        """``host:port`` of the other side."""
        peer = self._writer.get_extra_info("peername")
        return f"{peer[0]}:{peer[1]}" if peer else "unknown"

    @property
    def heartbeat(self) -> float:
        """Seconds between signs of life, as the receiver wishes it."""
        return self.core.heartbeat

    def abort(self) -> None:
        """Close without waiting: what was sent still goes out, for a moment; who pulls
        :meth:`messages` looks at ``closed`` and believes nothing more."""
        self.closed.set()
        self._writer.close()

    # --- speaking -----------------------------------------------------------------------------

    def send(self, message: ControlMessage) -> None:
        """Say something that needs no answer. Messages are small: nothing waits.

        Raises:
            Fault: CONNECTION_LOST when the connection is over, or the peer reads nothing.
        """
        if self._writer.is_closing():
            raise CONNECTION_LOST.fault(peer="the peer", detail="the connection is closed")
        self._flush(self.core.send(message))

    def new_id(self) -> int:
        """An id for a request."""
        return next(self._ids)

    async def request(
        self, message: ControlMessage, answer: type[Answered], limit: float = REQUEST_TIMEOUT
    ) -> Answered:
        """Ask and wait. ``message.id`` came from :meth:`new_id`. Somebody must be pulling
        :meth:`messages` meanwhile.

        Raises:
            PeerFault: what the peer refused with, or CONNECTION_LOST.
        """
        number: int = message.id  # type: ignore[union-attr]
        waiting = self._waiting[number] = self._loop.create_future()
        try:
            self.send(message)
            async with asyncio.timeout(limit):
                found: Answered = await waiting
            return found
        except TimeoutError:
            raise CONNECTION_LOST.peer(
                peer="the peer", detail=f"no answer to {type(message).__name__} in {limit:g} s"
            ) from None
        finally:
            self._waiting.pop(number, None)

    def _flush(self, data: bytes) -> None:
        if not data or self._writer.is_closing():
            return
        self._writer.write(data)
        if self._writer.transport.get_write_buffer_size() > UNREAD_MAX:
            self._cut(CONNECTION_LOST.peer(peer="the peer", detail="it reads nothing"))

    def _cut(self, fault: Fault) -> None:
        """End it now: nothing that waits to be written will ever be read."""
        self._silent = fault
        self.closed.set()
        self._writer.transport.abort()

    # --- listening ----------------------------------------------------------------------------

    async def greet(self) -> Greeted:
        """Wait until both sides have agreed.

        Raises:
            PeerFault: refused, silent or garbled.
        """
        first, begun = self.messages(), self._loop.time()
        try:
            await anext(first, None)
        except Fault as fault:
            raise self._unheard(fault) from fault
        finally:
            await first.aclose()
        if self.greeted is None:
            raise CONNECTION_LOST.peer(peer="the peer", detail="it said no greeting")
        self.round_trip = self._loop.time() - begun
        return self.greeted

    def _unheard(self, fault: Fault) -> Fault:
        """What it means that the greeting failed. In TLS 1.3 a server looks at our certificate
        after our side of the handshake is over (RFC 8446, section 4.4.2), and asyncio closes
        without sending the alert: all that we see is an end before the first word.
        """
        ours = self.core.role is Role.SOURCE and self.core.authenticated is not None
        if ours and not self._heard and fault.code == CONNECTION_LOST.code:
            detail = "the receiver hung up when it had seen it; it may be of another authority"
            return CERTIFICATE_REFUSED.peer(detail=detail)
        return fault

    async def messages(self) -> AsyncGenerator[ControlMessage | Greeted, None]:
        """What the peer says, without answers to our requests, until it closes.

        Raises:
            PeerFault: CONNECTION_LOST, SILENT, PROTOCOL ..., or the peer's refusal.
        """
        fault: Fault | None = None
        try:
            while True:
                while (event := self.core.next_event(self._loop.time())) is not None:
                    self._flush(self.core.take_output())
                    await self._not_too_fast()
                    if isinstance(event, Greeted):
                        self.greeted = event
                        yield event
                    elif not self._is_answer(event):
                        yield event
                self._flush(self.core.take_output())
                if self.core.over:
                    return
                await self._not_too_fast()
                data = await self._read()
                if not data:
                    if self._silent is not None:
                        raise self._silent
                    self.core.ended()
                    return
                self._heard = True
                await _pause(self._bytes.spend(len(data), self._loop.time()))
                self.core.receive(data, self._loop.time())
        except Fault as error:
            fault = error
            with contextlib.suppress(OSError):
                self._flush(self.core.take_output())
            raise
        finally:
            self._fail_waiting(
                fault or CONNECTION_LOST.peer(peer="the peer", detail="it closed the connection")
            )

    async def _not_too_fast(self) -> None:
        """Let a peer wait that says more messages than it may, heartbeats among them."""
        new, self._counted = self.core.taken - self._counted, self.core.taken
        await _pause(self._events.spend(new, self._loop.time()))

    async def _read(self) -> bytes:
        try:
            return await self._reader.read(READ_SIZE)
        except ssl.SSLError as error:
            detail = error.reason or str(error)
            if self.greeted is not None:
                # Who has greeted has seen our certificate: what came was changed on its way.
                raise CONNECTION_LOST.peer(peer="the peer", detail=detail) from error
            raise CERTIFICATE_REFUSED.peer(detail=detail) from error
        except OSError as error:
            raise CONNECTION_LOST.peer(
                peer="the peer", detail=error.strerror or str(error)
            ) from error

    def _is_answer(self, message: ControlMessage) -> bool:
        number: int = getattr(message, "answers", 0)
        if not number:
            return False
        waiting = self._waiting.get(number)
        if waiting is not None and not waiting.done():
            if isinstance(message, Refused):
                waiting.set_exception(from_peer(message.code, message.message, message.remedy))
            else:
                waiting.set_result(message)
        return True

    def _fail_waiting(self, fault: Fault) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(fault)

    async def _beat(self) -> None:
        """Heartbeats when they are due; when the peer is silent, the end of the connection."""
        try:
            while not self.core.over:
                now = self._loop.time()
                self._flush(self.core.beat(now))
                # Once both have greeted, what is due only moves later by itself: a thousand idle
                # connections that looked every second cost a tenth of a processor.
                longest = LOOK_SECONDS if self.greeted is None else MOST_SECONDS
                await asyncio.sleep(max(0.01, min(longest, self.core.due(now) - now)))
        except Fault as fault:
            # Who is silent will not read our goodbye either: it is written, but not waited for.
            self._flush(self.core.take_output())
            self._cut(fault)
        except OSError:
            self._writer.close()


async def _pause(seconds: float) -> None:
    """Let a peer that says too much wait."""
    if seconds > 0:
        await asyncio.sleep(seconds)


async def dial(
    host: str, port: int, context: ssl.SSLContext, greeting: Greeting, authenticated: str | None
) -> ControlLink:
    """Connect to a receiver's control port. Enter the link, then :meth:`ControlLink.greet`.

    Raises:
        LocalFault: UNREACHABLE.
        PeerFault: CA_MISMATCH when its certificate is of another authority.
    """
    address = f"{host}:{port}"
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT):
            reader, writer = await asyncio.open_connection(
                host, port, ssl=context, server_hostname=RECEIVER_NAME, limit=READ_SIZE
            )
    except TimeoutError:
        raise UNREACHABLE.fault(address=address, detail="no answer in time") from None
    except ssl.SSLCertVerificationError as error:
        raise CA_MISMATCH.peer(address=address) from error
    except ssl.SSLError as error:
        raise CERTIFICATE_REFUSED.peer(detail=error.reason or str(error)) from error
    except OSError as error:
        raise UNREACHABLE.fault(address=address, detail=error.strerror or str(error)) from error
    return ControlLink(Role.SOURCE, greeting, authenticated, reader, writer)
