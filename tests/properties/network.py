"""Connections whose bytes stay on the way until a test lets them go on."""

from __future__ import annotations

import contextlib
import socket


class Cable:
    """One data connection. ``source`` and ``receiver`` are the ends that the daemons hold.

    Bytes that were sent lie in ``out`` (to the receiver) and ``back``. A cut is seen by the source
    at once; what is in ``out`` may still arrive, or the receiver learns of the end.
    """

    def __init__(self) -> None:
        self.source, self._near = socket.socketpair()
        self.receiver, self._far = socket.socketpair()
        for each in (self.source, self._near, self.receiver, self._far):
            each.setblocking(False)
        self.out = bytearray()
        self.back = bytearray()
        self.cut_off = False

    def collect(self) -> None:
        """Take what the daemons have written."""
        self.cut_off |= _take(self._near, self.out)
        _take(self._far, self.back)

    def deliver(self, count: int) -> None:
        """Some bytes reach the receiver; or the end does, when there are none and it was cut."""
        self.collect()
        if self.out:
            _give(self._far, self.out, count)
        elif self.cut_off:
            self._far.close()

    @property
    def coming(self) -> bool:
        """Whether the receiver has something to hear of."""
        return bool(self.out) or (self.cut_off and self._far.fileno() >= 0)

    def answer(self, count: int) -> None:
        """Some bytes reach the source."""
        self.collect()
        if self.cut_off:
            self.back.clear()
        else:
            _give(self._near, self.back, count)

    @property
    def gone(self) -> bool:
        """Whether both daemons have closed their ends, so that it can be forgotten."""
        ended = self.cut_off and not self.coming
        return ended and self.source.fileno() < 0 and self.receiver.fileno() < 0

    def cut(self) -> None:
        """The source sees the end."""
        self.collect()
        self.cut_off = True
        self._near.close()
        self.back.clear()

    def end(self) -> None:
        """Nothing more arrives anywhere; both see the end."""
        self.out.clear()
        self.back.clear()
        self.cut_off = True
        self._near.close()
        self._far.close()

    def close(self) -> None:
        """All four sockets."""
        self.end()
        self.source.close()
        self.receiver.close()


def _take(sock: socket.socket, into: bytearray) -> bool:
    """Everything that can be read now; whether the other side has closed."""
    with contextlib.suppress(OSError):
        while data := sock.recv(1 << 18):
            into += data
        return True
    return False


def _give(sock: socket.socket, data: bytearray, count: int) -> None:
    try:
        del data[: sock.send(memoryview(bytes(data[:count])))]
    except BlockingIOError:
        return  # whoever reads there has not yet
    except OSError:
        data.clear()  # nobody reads there any more
