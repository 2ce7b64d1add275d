"""A line between source and receiver that can be cut at any byte, and that remembers hellos.

The receiver listens on another address of the loopback, the source dials this one at the same
port (the source learns ports from the receiver, and the address at its enrolment).
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from types import TracebackType
from typing import Self

CHUNK = 1 << 16
REMEMBERED = 64
"""Bytes that are kept of what a client said first: a data hello and a little more."""

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes a close a reset: what is under way is lost, as when a line breaks."""


class Proxy:
    """Forwards connections to ``port`` of ``host`` from the same port of 127.0.0.1.

    Attributes:
        cuts: connections that were cut in the middle.
        hellos: what clients said first on each connection.
    """

    def __init__(self, host: str, port: int, seed: int) -> None:
        self.cuts = 0
        self.hellos: list[bytes] = []
        self._to = (host, port)
        self._random = random.Random(seed)
        self._most: int | None = None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=64)
        self._accepting = threading.Thread(target=self._accept)
        self._carrying: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        self.cut_all()
        for thread in self._carrying:
            thread.join()

    def cut_within(self, most: int | None) -> None:
        """From now on each new connection is cut after at most so many bytes; None: not."""
        self._most = most

    def cut_all(self) -> None:
        """Cut what stands now, wherever it is."""
        with self._lock:
            standing = list(self._open)
        for sock in standing:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._to, 5)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, server}
            most = self._most
            left = [self._random.randrange(1, most) if most else 1 << 62]
            self._carrying.append(threading.Thread(target=self._pair, args=(client, server, left)))
            self._carrying[-1].start()

    def _pair(self, client: socket.socket, server: socket.socket, left: list[int]) -> None:
        """Both directions of one connection; ``left`` is what may still pass, either way."""
        server.settimeout(None)
        back = threading.Thread(target=self._carry, args=(server, client, left, False))
        back.start()
        self._carry(client, server, left, True)
        back.join()
        with self._lock:
            self._open -= {client, server}
        client.close()
        server.close()

    def _carry(
        self, here: socket.socket, there: socket.socket, left: list[int], first: bool
    ) -> None:
        said = b""
        with contextlib.suppress(OSError):
            while data := here.recv(CHUNK):
                if first and len(said) < REMEMBERED:
                    said = (said + data)[:REMEMBERED]
                passing = data[: max(0, left[0])]
                left[0] -= len(data)
                there.sendall(passing)
                if left[0] <= 0:
                    self.cuts += 1
                    for sock in (here, there):
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    break
        if first and said:
            self.hellos.append(said)
        for sock in (here, there):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
