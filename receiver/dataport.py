"""The data port: 57 bytes decide whether a connection belongs to a session."""

from __future__ import annotations

import asyncio
import socket

from protocol.errors import HELLO_REFUSED, Fault
from protocol.link.data import tune
from protocol.local import crash, log
from protocol.wire.data import HELLO_SIZE, DataHello
from protocol.wire.limits import HANDSHAKE_TIMEOUT
from receiver.gate import Visit
from receiver.sessions import Sessions

_log = log.get("dataport")


class DataPort:
    """Hands verified data connections to their sessions."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self.refused = 0

    async def welcome(self, sock: socket.socket, visit: Visit) -> None:
        """Read the hello and admit the connection, or close it without a word: who cannot
        prove himself learns nothing. The visit lasts as long as the connection, which its
        session closes."""
        try:
            tune(sock)
            hello = DataHello.parse(await _hello(sock))
            crash.here("hello.heard")
            session = self._sessions.find(hello.session)
            if session is None:
                raise HELLO_REFUSED.peer(detail="there is no such session")
            ended = session.admit(hello, sock)
        except (Fault, OSError, TimeoutError, EOFError) as error:
            self.refused += 1
            _log.debug("hello.refused", because=str(error))
            return
        visit.take()
        visit.known()
        await ended.wait()


async def _hello(sock: socket.socket) -> bytes:
    """Exactly the hello, no byte more: what follows belongs to the connection."""
    loop = asyncio.get_running_loop()
    said = b""
    async with asyncio.timeout(HANDSHAKE_TIMEOUT):
        while len(said) < HELLO_SIZE:
            more = await loop.sock_recv(sock, HELLO_SIZE - len(said))
            if not more:
                raise EOFError("closed before its hello was complete")
            said += more
    return said
