"""A forwarder on a session's data port that records what the source says, and can change it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

import pytest

from protocol.wire.data import HELLO_SIZE

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

RECEIVER = "127.0.0.2"
"""Where the receiver listens; the source dials 127.0.0.1, where the wire is in between."""

Change = Callable[[list[bytes]], list[bytes]]
"""What happens to consecutive frames (each with its length) on their way."""


class Wire:
    """The wire between source and receiver, for one port. Data frames can be tampered with.

    ``heard`` keeps what the newest connection said towards the receiver, ``recordings`` all.
    """

    def __init__(self, port: int, framed: bool) -> None:
        self.heard = bytearray()
        self.recordings: list[bytearray] = []
        self.changed = 0
        self._framed = framed
        self._where = (RECEIVER, port)
        self._change: tuple[int, Change] | None = None
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def tamper(self, frames: int, change: Change) -> None:
        """Change the next ``frames`` frames of one connection, once."""
        with self._lock:
            self._change = (frames, change)

    def busiest(self) -> bytearray | None:
        """Of the newest session, a recording with more than the hello."""
        session = self.heard[5:21]
        of_now = (r for r in self.recordings if r[5:21] == session and len(r) > HELLO_SIZE)
        return next(of_now, None)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ours, _ = self._listener.accept()
                try:
                    theirs = socket.create_connection(self._where, 10)
                except OSError:
                    ours.close()
                    continue
                theirs.settimeout(None)
                self._open += [ours, theirs]
                for work in ((self._up, ours, theirs), (self._pipe, theirs, ours)):
                    thread = threading.Thread(target=work[0], args=work[1:], daemon=True)
                    thread.start()
                    self._threads.append(thread)

    def _up(self, source: socket.socket, receiver: socket.socket) -> None:
        if not self._framed:
            self._pipe(source, receiver)
            return
        try:
            hello = _exactly(source, HELLO_SIZE)
            heard = self.heard = bytearray(hello)
            self.recordings.append(heard)
            receiver.sendall(hello)
            while True:
                frames = [self._frame(source)]
                with self._lock:
                    change, self._change = self._change, None
                if change is not None:
                    frames += [self._frame(source) for _ in range(change[0] - 1)]
                    frames = change[1](frames)
                    self.changed += 1
                if len(heard) < 64 << 20:
                    heard += b"".join(frames)
                receiver.sendall(b"".join(frames))
        except (OSError, EOFError):
            _shut(source, receiver)

    @staticmethod
    def _frame(sock: socket.socket) -> bytes:
        length = _exactly(sock, 4)
        return length + _exactly(sock, int.from_bytes(length, "big"))

    @staticmethod
    def _pipe(one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(1 << 16):
                other.sendall(data)
        except OSError:
            pass
        finally:
            _shut(one, other)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        _shut(*self._open)
        for thread in self._threads:
            thread.join(10)
        for sock in self._open:
            sock.close()


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return bytes(data)


def _shut(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
