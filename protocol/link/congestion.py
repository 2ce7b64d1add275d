"""Which congestion control a data connection has.

BBR sends each piece at a time of its own, by a timer of the kernel. On a long line that is why it
is chosen. On a short one a timer for every 64 KiB is all that it is: in virtual machines, where
setting a timer may leave the guest, a fifth of the processor time of a sender (measured,
docs/decisions/0184), and where the processor is short BBR takes its own lateness for a slow line
(Elmenhorst and Aschenbruck, *2BRobust*, arXiv 2601.05665). So where the system's default is BBR
and the peer is near, a connection has what Linux has by default. All others have the system's.

Before it is connected a socket has no pacing yet; once BBR has begun its pacing stays, whatever
is chosen afterwards. So the other one is chosen first, and BBR when the peer turns out to be far.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Final

from protocol.local import log

AUTO: Final = "auto"

NEAR_SECONDS: Final = 0.001
"""Round trip below which a peer is near: the same machine, rack or site."""

_UNPACED: Final = ("cubic", "reno")
"""What Linux has by default, and what every Linux has."""

_NAME_MAX: Final = 16
_MIN_RTT_AT: Final = 148
"""Of ``tcpi_min_rtt`` in ``struct tcp_info``, u32 microseconds; all ones: not known yet."""

_UNKNOWN: Final = 0xFFFFFFFF
_u32 = struct.Struct("=I")

_log = log.get("congestion")


def is_paced(name: str) -> bool:
    """Whether it is BBR, in any of its versions."""
    return name.startswith("bbr")


def of(sock: socket.socket) -> str:
    """The name of what a socket has now."""
    raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _NAME_MAX)
    return raw.split(b"\0", 1)[0].decode("ascii", "replace")


def choose(sock: socket.socket, name: str) -> None:
    """Give a socket what is called so.

    Raises:
        OSError: the kernel does not have it, or not for us.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode("ascii"))


def round_trip(sock: socket.socket) -> float | None:
    """The shortest that TCP has seen on a connected socket, in seconds; None: it is not known."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    if len(info) < _MIN_RTT_AT + _u32.size:
        return None
    (micros,) = _u32.unpack_from(info, _MIN_RTT_AT)
    return None if micros == _UNKNOWN else float(micros) / 1e6


class Congestion:
    """Of one socket: make it before the socket is connected.

    Args:
        fixed: a name that it is to have, :data:`AUTO` to choose. One that the kernel does not have
            for us is no reason not to copy: it is said, and the system's is used.
    """

    def __init__(self, sock: socket.socket, fixed: str = AUTO) -> None:
        self._sock = sock
        self._system = of(sock)
        self._instead = ""
        if fixed != AUTO:
            try:
                choose(sock, fixed)
            except OSError as error:
                because = error.strerror or str(error)
                _log.warning("congestion.refused", name=fixed, because=because, has=self._system)
        elif is_paced(self._system):
            self._instead = _first_of(sock, _UNPACED)

    def connected(self) -> str:
        """The peer has answered, so the length of the line is known; the name of what the socket
        has from now on."""
        # Connecting may have given it another one: that of the route (ip-route(8), congctl).
        if self._instead and of(self._sock) == self._instead and not _is_near(self._sock):
            with contextlib.suppress(OSError):  # what it has works
                choose(self._sock, self._system)
        return of(self._sock)


def _is_near(sock: socket.socket) -> bool:
    length = round_trip(sock)
    return length is not None and length < NEAR_SECONDS


def _first_of(sock: socket.socket, names: tuple[str, ...]) -> str:
    """Give a socket the first of these that it may have; '' when it stays as it is."""
    for name in names:
        with contextlib.suppress(OSError):
            choose(sock, name)
            return name
    return ""
