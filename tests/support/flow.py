"""One direction of a connection on its way, and the troubles that strike it."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING

from protocol.wire.data import HELLO_SIZE
from tests.support.trouble import CHUNK, Cut, Trouble

if TYPE_CHECKING:
    from tests.support.line import Carried

RECORDED = 8 << 20
"""Bytes that are kept of a connection of a framed line."""


class Flow:
    """One direction of a connection. ``up``: from source to receiver.

    Attributes:
        passed: bytes that came this way.
        sleep: seconds before each piece; ``rate``: bytes a second, 0 for as fast as it goes;
            ``lost``: what comes is swallowed. Troubles set them.
        recent: the last bytes that were sent on.
    """

    def __init__(self, carried: Carried, up: bool) -> None:
        self.carried = carried
        self.up = up
        self.passed = 0
        self.sleep = 0.0
        self.rate = 0.0
        self.lost = False
        self.recent = bytearray()
        self._troubles: list[tuple[int, Trouble]] = []
        self._frames: list[tuple[int, Trouble]] = []
        self._frame = 0
        self._lock = threading.Lock()

    def trouble(self, trouble: Trouble) -> None:
        """Let it happen, counted from now."""
        with self._lock:
            if trouble.of_frames:
                self._frames.append((self._frame + trouble.at, trouble))
            else:
                self._troubles.append((self.passed + trouble.at, trouble))
                self._troubles.sort(key=lambda pair: pair[0])

    def quiet(self) -> None:
        """What has not happened does not; what is slow is slow no more; what is lost stays so:
        a line that has lost a byte of a connection never finds it again."""
        with self._lock:
            self._troubles.clear()
            self._frames.clear()
            self.sleep = self.rate = 0.0

    # --- carrying -----------------------------------------------------------------------------

    def carry(self, here: socket.socket, there: socket.socket) -> None:
        """Until one of the two ends it, or a trouble does."""
        line = self.carried.line
        try:
            if line.framed:
                self._carry_frames(here, there)
            else:
                while data := here.recv(CHUNK):
                    self._note(data)
                    self.put(there, data)
        except Cut as cut:
            self.carried.cut(reset=cut.reset)
            return
        except (OSError, EOFError):
            pass
        # Who has vanished says no goodbye.
        if not self.lost:
            self.carried.cut(reset=False)

    def _carry_frames(self, here: socket.socket, there: socket.socket) -> None:
        if self.up:
            hello = exactly(here, HELLO_SIZE)
            self._note(hello)
            self.put(there, hello)
        while True:
            frames = [read_frame(here)]
            if self.up and (change := self.carried.line.take_change()) is not None:
                frames += [read_frame(here) for _ in range(change[0] - 1)]
                frames = change[1](frames)
                self.carried.line.changed += 1
            for trouble in self._due():
                frames += [read_frame(here) for _ in range(trouble.frames - len(frames))]
                frames = trouble.change(frames)
                self.carried.line.struck += 1
            data = b"".join(frames)
            self._frame += len(frames)
            self._note(data)
            self.put(there, data)

    def _due(self) -> list[Trouble]:
        with self._lock:
            due = [trouble for at, trouble in self._frames if at <= self._frame]
            self._frames = [pair for pair in self._frames if pair[1] not in due]
        return due

    def _note(self, data: bytes) -> None:
        if self.up and len(self.carried.heard) < (RECORDED if self.carried.line.framed else 64):
            self.carried.heard += data

    def put(self, there: socket.socket, data: bytes) -> None:
        """Send on, piece by piece between the troubles that are due."""
        while data:
            with self._lock:
                at, trouble = self._troubles[0] if self._troubles else (0, None)
                if trouble is not None and at - self.passed < len(data):
                    self._troubles.pop(0)
                else:
                    trouble = None
            if trouble is None:
                self._send(there, data)
                return
            before, data = data[: max(0, at - self.passed)], data[max(0, at - self.passed) :]
            self._send(there, before)
            self.carried.line.struck += 1
            data = trouble.strike(self, there, data)

    def _send(self, there: socket.socket, data: bytes) -> None:
        self.passed += len(data)
        most = self.carried.left
        if most is not None:
            self.carried.left = most - len(data)
            there.sendall(data[: max(0, most)])
            if most <= len(data):
                self.carried.line.cuts += 1
                raise Cut(reset=True)
            return
        left = memoryview(data)
        while left:
            piece = left
            if self.rate:
                piece = left[: max(1, int(self.rate * 0.02))]
                time.sleep(len(piece) / self.rate)
            if self.sleep:
                time.sleep(self.sleep)
            if not self.lost:
                there.sendall(piece)
                self.recent = (self.recent + piece)[-CHUNK:]
            left = left[len(piece) :]


def read_frame(sock: socket.socket) -> bytes:
    """The next frame, with its length."""
    length = exactly(sock, 4)
    return length + exactly(sock, int.from_bytes(length, "big"))


def exactly(sock: socket.socket, count: int) -> bytes:
    """So many bytes.

    Raises:
        EOFError: there are no more.
    """
    data = bytearray()
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return bytes(data)
