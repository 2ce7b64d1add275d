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
        fixed: a name that it is to have, :data:`AUTO` to choose.

    Raises:
        OSError: the kernel does not have what is fixed, or not for us.
    """

    def __init__(self, sock: socket.socket, fixed: str = AUTO) -> None:
        self._sock = sock
        self._system = of(sock)
        if fixed != AUTO:
            choose(sock, fixed)
            self._system = fixed
        elif is_paced(self._system):
            _first_of(sock, _UNPACED)

    def connected(self) -> None:
        """The connection is there, and with it the length of the line."""
        length = round_trip(self._sock)
        if of(self._sock) != self._system and (length is None or length >= NEAR_SECONDS):
            choose(self._sock, self._system)


def _first_of(sock: socket.socket, names: tuple[str, ...]) -> None:
    """Give a socket the first of these that it may have; none of them: it stays as it is."""
    for name in names:
        with contextlib.suppress(OSError):
            choose(sock, name)
            return
