"""Strangers at the door: few at a time, briefly, and never in the way of those we know.

Every connection begins as a stranger: it costs a socket and a few buffers until it has proved
who it is. Only so many may be strangers at once; one more turns out the one that has been a
stranger longest (the idea is that of OpenSSH's MaxStartups, but without chance: whoever is
quick gets in, however many are slow).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

from protocol.local import log

Welcome = Callable[[socket.socket, "Visit"], Awaitable[None]]

_log = log.get("gate")


class Visit:
    """One connection. Call :meth:`known` when it has proved who it is."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.task: asyncio.Task[None] | None = None

    def known(self) -> None:
        """It is a stranger no more: it cannot be turned out for others."""
        self._gate._strangers.pop(self, None)


class Gate:
    """Accepts on one listening socket and hands connections to ``welcome``.

    Args:
        strangers: how many may be unproven at once.
        connections: how many in all.
    """

    def __init__(
        self, listener: socket.socket, welcome: Welcome, strangers: int, connections: int
    ) -> None:
        self._listener = listener
        self._welcome = welcome
        self._most_strangers = strangers
        self._most = connections
        self._strangers: dict[Visit, None] = {}
        self._visits: set[asyncio.Task[None]] = set()
        self.refused = 0

    @property
    def port(self) -> int:
        """The port that it listens on."""
        port: int = self._listener.getsockname()[1]
        return port

    async def serve(self) -> None:
        """Accept until cancelled; then end every visit."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    sock, _ = await loop.sock_accept(self._listener)
                except OSError as error:
                    # Out of descriptors, or the peer was gone already: others may still come.
                    _log.warning("accept.failed", because=error.strerror)
                    await asyncio.sleep(0.1)
                    continue
                self._let_in(sock)
        finally:
            for task in self._visits:
                task.cancel()
            await asyncio.gather(*self._visits, return_exceptions=True)
            self._listener.close()

    def _let_in(self, sock: socket.socket) -> None:
        if len(self._visits) >= self._most:
            self.refused += 1
            sock.close()
            return
        if len(self._strangers) >= self._most_strangers:
            self.refused += 1
            eldest = next(iter(self._strangers))
            del self._strangers[eldest]
            if eldest.task is not None:
                eldest.task.cancel()
        visit = Visit(self)
        self._strangers[visit] = None
        visit.task = asyncio.get_running_loop().create_task(self._receive(sock, visit))
        self._visits.add(visit.task)
        visit.task.add_done_callback(self._visits.discard)

    async def _receive(self, sock: socket.socket, visit: Visit) -> None:
        sock.setblocking(False)
        try:
            await self._welcome(sock, visit)
        except asyncio.CancelledError:
            sock.close()
            raise
        finally:
            visit.known()


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket, IPv4 or IPv6 as the host says.

    Raises:
        OSError: the address cannot be listened on.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, proto, _, address = found[0]
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            with contextlib.suppress(OSError):
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(256)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener
