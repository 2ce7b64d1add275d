"""Strangers at the door: few at a time, briefly, and never in the way of those we know.

Every connection begins as a stranger: it costs a socket and a few buffers until it has proved
who it is. Only so many may be strangers at once; one more turns out the eldest of those that
come from the address with most of them (the idea is that of OpenSSH's MaxStartups, but without
chance). So who floods from one address is in nobody's way but his own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections import Counter
from collections.abc import Awaitable, Callable

from protocol.local import log

Welcome = Callable[[socket.socket, "Visit"], Awaitable[None]]

_log = log.get("gate")


class Crowd:
    """The connections of all gates together; at most ``most`` at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def full(self) -> bool:
        """Whether nobody else may come in."""
        return len(self._tasks) >= self._most

    def add(self, task: asyncio.Task[None]) -> None:
        """One more, until it ends."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Visit:
    """One connection, from its accept to its end. ``network`` is where it comes from."""

    def __init__(self, strangers: dict[Visit, asyncio.Task[None]], network: str) -> None:
        self._strangers = strangers
        self.network = network
        self.taken = False

    def take(self) -> None:
        """Its socket has another owner now, who closes it; until then the gate does."""
        self.taken = True

    def known(self) -> None:
        """It has proved who it is: it is a stranger no more and cannot be turned out."""
        self._strangers.pop(self, None)


class Gate:
    """Accepts on one listening socket and hands connections to ``welcome``.

    Args:
        strangers: how many may be unproven at once.
        crowd: counts the connections of this gate and its neighbours.
    """

    def __init__(
        self, listener: socket.socket, welcome: Welcome, strangers: int, crowd: Crowd
    ) -> None:
        self._listener = listener
        self._welcome = welcome
        self._most_strangers = strangers
        self._crowd = crowd
        self._strangers: dict[Visit, asyncio.Task[None]] = {}
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
                    sock, address = await loop.sock_accept(self._listener)
                except OSError as error:
                    # Out of descriptors, or the peer was gone already: others may still come.
                    _log.warning("accept.failed", because=error.strerror)
                    await asyncio.sleep(0.1)
                    continue
                self._let_in(sock, _network(address[0]))
        finally:
            self._listener.close()
            for task in self._visits:
                task.cancel()
            await asyncio.gather(*self._visits, return_exceptions=True)

    def _let_in(self, sock: socket.socket, network: str) -> None:
        if self._crowd.full and not self._turn_out():
            self.refused += 1
            sock.close()
            return
        if len(self._strangers) >= self._most_strangers:
            self._turn_out()
        visit = Visit(self._strangers, network)
        task = asyncio.get_running_loop().create_task(self._receive(sock, visit))
        self._strangers[visit] = task
        self._crowd.add(task)
        self._visits.add(task)
        task.add_done_callback(self._visits.discard)

    def _turn_out(self) -> bool:
        """Send the eldest stranger of the busiest network away; False when there is none."""
        if not self._strangers:
            return False
        busiest, _ = Counter(visit.network for visit in self._strangers).most_common(1)[0]
        eldest = next(visit for visit in self._strangers if visit.network == busiest)
        self.refused += 1
        self._strangers.pop(eldest).cancel()
        return True

    async def _receive(self, sock: socket.socket, visit: Visit) -> None:
        try:
            sock.setblocking(False)
            await self._welcome(sock, visit)
        except Exception:  # noqa: BLE001 - a bug in one visit ends this visit, aloud
            _log.exception("visit.bug")
        finally:
            visit.known()
            if not visit.taken:
                sock.close()


def _network(host: str) -> str:
    """What one owner usually has: an IPv4 address, or an IPv6 /64."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


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
