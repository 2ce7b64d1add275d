"""Strangers by the thousand on both ports: idle, half begun, garbage, a byte now and then.

From one address or from many: the whole of 127.0.0.0/8 is the loopback's, so each connection can
come from an address of its own without any set-up.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable

from protocol.identity import RECEIVER_NAME, fetching_context
from protocol.wire.data import DATA_VERSION, MAGIC

COUNT = 1000
"""Connections at once on each port."""

HOST = "127.0.0.1"


def _client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = fetching_context().wrap_bio(incoming, outgoing, server_hostname=RECEIVER_NAME)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


CLIENT_HELLO = _client_hello()
DATA_HELLO = MAGIC + bytes([DATA_VERSION]) + os.urandom(20)


def _dial(port: int, address: str) -> socket.socket:
    sock = socket.socket()
    try:
        sock.settimeout(2.0)
        sock.bind((address, 0))
        sock.connect((HOST, port))
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def crowd(
    ports: tuple[int, int], addresses: int, first: Callable[[int], bytes], later: bytes = b""
) -> Callable[[threading.Event], None]:
    """Keep :data:`COUNT` connections open on each port: who is turned out comes again.

    ``first``: what is said at once, by the number of the port (0 control, 1 data); ``later``: what
    is said about once a second then.
    """

    def attack(over: threading.Event) -> None:
        held: list[list[socket.socket]] = [[], []]
        number = 0
        try:
            while not over.is_set():
                for which, port in enumerate(ports):
                    row = held[which]
                    for _ in range(100):
                        number += 1
                        where = number % addresses
                        address = f"127.1.{where >> 8}.{(where & 255) or 1}"
                        with contextlib.suppress(OSError):
                            sock = _dial(port, address)
                            row.append(sock)
                            sock.send(first(which))
                    while len(row) > COUNT:
                        row.pop(0).close()
                    for sock in row if later else []:
                        with contextlib.suppress(OSError):
                            sock.send(later)
                over.wait(0.05)
        finally:
            for row in held:
                for sock in row:
                    sock.close()

    return attack


def _garbage(_which: int) -> bytes:
    return os.urandom(1 << 14)


def _half(which: int) -> bytes:
    return DATA_HELLO if which else CLIENT_HELLO[:200]


def _whole(which: int) -> bytes:
    """All that a client says first: the receiver answers, and is not answered."""
    return DATA_HELLO + bytes(32) if which else CLIENT_HELLO


STRANGERS: dict[str, Callable[[int, int], Callable[[threading.Event], None]]] = {
    "idle, one address": lambda *ports: crowd(ports, 1, lambda _: b""),
    "idle, 500 addresses": lambda *ports: crowd(ports, 500, lambda _: b""),
    "half a handshake, 500 addresses": lambda *ports: crowd(ports, 500, _half),
    "a handshake and no more, one address": lambda *ports: crowd(ports, 1, _whole),
    "garbage": lambda *ports: crowd(ports, 500, _garbage),
    "a byte now and then": lambda *ports: crowd(ports, 500, lambda _: b"R", b"P"),
}
