"""Tells systemd how the daemon is: ready, what it does, still alive, stopping.

The protocol of ``sd_notify(3)`` is one datagram of ``KEY=value`` lines to the socket that
``NOTIFY_SOCKET`` names, so no library is needed. Nothing here waits: a service manager that
does not read must not hold up a daemon (which may have filesystems frozen).
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

# systemd cuts a status at its own limit; this keeps one datagram far below a socket's buffer.
LONGEST_STATUS: Final = 1000


class Notifier:
    """The service manager's socket, or nothing when there is no service manager.

    Every method returns whether the message was delivered.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        chosen = os.environ if environment is None else environment
        path = chosen.get("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        if path.startswith(("/", "@")):
            # "@" stands for the zero byte of the abstract namespace (unix(7)).
            self._address = "\0" + path[1:] if path.startswith("@") else path
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    def ready(self, status: str = "") -> bool:
        """The daemon serves: units ordered after it may start."""
        return self._send("READY=1", *_status(status))

    def status(self, status: str) -> bool:
        """One line that ``systemctl status`` shows."""
        return self._send(*_status(status))

    def stopping(self, status: str = "") -> bool:
        """The daemon is going down on purpose."""
        return self._send("STOPPING=1", *_status(status))

    def watchdog(self) -> bool:
        """The daemon is alive; see :func:`keep_alive`."""
        return self._send("WATCHDOG=1")

    def close(self) -> None:
        """Send nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> bool:
        if self._socket is None or not lines:
            return False
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            # Full, or gone: the service manager's own timeouts judge that, and there is
            # nobody else to tell. The caller sees it in the result.
            return False
        return True


def _status(status: str) -> tuple[str, ...]:
    line = " ".join(status.split())[:LONGEST_STATUS]
    return (f"STATUS={line}",) if line else ()


def watchdog_interval(environment: Mapping[str, str] | None = None) -> float | None:
    """Seconds within which systemd expects a sign of life, or None when it expects none."""
    chosen = os.environ if environment is None else environment
    microseconds, pid = chosen.get("WATCHDOG_USEC", ""), chosen.get("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return None  # meant for a parent that passed its environment on
    if not (microseconds.isascii() and microseconds.isdigit()) or int(microseconds) == 0:
        return None
    return int(microseconds) / 1_000_000


async def keep_alive(
    notifier: Notifier,
    interval: float | None,
    healthy: Callable[[], bool] = lambda: True,
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Send a sign of life twice an ``interval`` while ``healthy()``; until cancelled.

    It runs on the daemon's loop on purpose: a loop that hangs sends nothing and is restarted.
    """
    if interval is None:
        return
    while True:
        if healthy():
            notifier.watchdog()
        await pause(interval / 2)
