"""The socket of a data connection: dial it, and send and receive on it without waiting twice.

A worker thread that already holds a sealed buffer sends it itself; the loop keeps dialling,
answers and timers. One hop between loop and worker per extent costs a third of the speed
(docs/decisions/0080). All sockets are non-blocking, so both can use the same one: a worker
that must wait polls, in slices, and looks whether it should stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import time
from collections.abc import Callable

from protocol.errors import CONNECTION_LOST, PROTOCOL, UNREACHABLE, Fault
from protocol.link.congestion import AUTO, Congestion
from protocol.local import crash
from protocol.wire.crypto import Direction, SessionKeys
from protocol.wire.data import DataHello, FrameReader
from protocol.wire.frames import Ready, decode_meta
from protocol.wire.limits import HANDSHAKE_TIMEOUT, PLAINTEXT_MAX, REPLY_FRAME_MAX

USER_TIMEOUT_MS = 60_000
"""Milliseconds that sent bytes may stay unacknowledged by TCP before the connection is dead
(RFC 5482). Longer than a path change, shorter than a night."""

POLL_SLICE_MS = 500
"""Milliseconds after which a waiting worker looks whether it should stop."""


def tune(sock: socket.socket) -> None:
    """What every data socket has: no delay for small frames, and death noticed by the kernel."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)


async def dial(
    host: str, port: int, keys: SessionKeys, index: int, congestion: str = AUTO
) -> tuple[socket.socket, Congestion]:
    """Connect, say hello as connection ``index`` of the session. The answer comes later; tell the
    socket's :class:`Congestion` then.

    Args:
        congestion: the name of a congestion control, or AUTO.

    Raises:
        LocalFault: UNREACHABLE.
    """
    loop = asyncio.get_running_loop()
    address = f"{host}:{port}"
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            family, kind, proto, _, where = found[0]
            sock = socket.socket(family, kind, proto)
            try:
                sock.setblocking(False)
                control = Congestion(sock, congestion)
                await loop.sock_connect(sock, where)
                tune(sock)
                await loop.sock_sendall(sock, DataHello(keys.session, index).encode(keys))
                crash.here("link.hello_said")
            except BaseException:
                sock.close()
                raise
    except TimeoutError:
        raise UNREACHABLE.fault(address=address, detail="no answer in time") from None
    except OSError as error:
        raise UNREACHABLE.fault(address=address, detail=error.strerror or str(error)) from error
    return sock, control


def send_all(sock: socket.socket, view: memoryview, stopped: Callable[[], bool]) -> float:
    """Send every byte, from a worker thread; the seconds that it waited for room.

    Raises:
        PeerFault: CONNECTION_LOST, also when ``stopped`` becomes true while waiting.
    """
    poll: select.poll | None = None
    at, waited = 0, 0.0
    while at < len(view):
        try:
            at += sock.send(view[at:])
            crash.here("link.part_sent")
        except BlockingIOError:
            if poll is None:
                poll = select.poll()
                poll.register(sock, select.POLLOUT)
            begun = time.monotonic()
            poll.poll(POLL_SLICE_MS)
            waited += time.monotonic() - begun
            if stopped():
                raise CONNECTION_LOST.peer(peer="the receiver", detail="stopped") from None
        except OSError as error:
            raise CONNECTION_LOST.peer(
                peer="the receiver", detail=error.strerror or str(error)
            ) from error
    return waited


def writable(sock: socket.socket) -> bool:
    """Whether a small frame goes out at once: the kernel says so only when there is much room."""
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    return any(events & select.POLLOUT for _, events in poll.poll(0))


class AnswerReader:
    """The source's reading end of a data connection, driven by the loop.

    Calls ``on_frame(frame, payload)`` for every answer and ``on_end(fault)`` once when nothing
    more will come. The first frame, and no other, is a
    :class:`~protocol.wire.frames.Ready`; anything else is the end.

    Attributes:
        count: bytes that came.
    """

    def __init__(
        self,
        sock: socket.socket,
        keys: SessionKeys,
        index: int,
        on_frame: Callable[[object, bytes], None],
        on_end: Callable[[Fault], None],
    ) -> None:
        self._sock = sock
        self._opener = keys.opener(index, Direction.FROM_RECEIVER)
        self._reader = FrameReader(REPLY_FRAME_MAX)
        self._sealed = memoryview(bytearray(REPLY_FRAME_MAX + 4))
        self._plain = memoryview(bytearray(min(PLAINTEXT_MAX, REPLY_FRAME_MAX)))
        self._reader.provide(self._sealed)
        self._on_frame = on_frame
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._greeted = False
        self.count = 0
        self.ready = self._loop.create_future()
        self._loop.add_reader(sock.fileno(), self._readable)

    @property
    def at_boundary(self) -> bool:
        """No answer has begun."""
        return self._reader.at_boundary

    def close(self) -> None:
        """Stop reading; the socket stays open for its owner to close."""
        if self._open:
            self._open = False
            with contextlib.suppress(OSError, ValueError):
                self._loop.remove_reader(self._sock.fileno())
        if not self.ready.done():
            self.ready.cancel()

    def _readable(self) -> None:
        try:
            self._pump()
        except BlockingIOError:
            return
        except Fault as fault:
            self._end(fault)
        except OSError as error:
            self._end(
                CONNECTION_LOST.peer(peer="the receiver", detail=error.strerror or str(error))
            )

    def _pump(self) -> None:
        while self._open:
            count = self._sock.recv_into(self._reader.want())
            if count == 0:
                raise CONNECTION_LOST.peer(peer="the receiver", detail="it closed the connection")
            self.count += count
            if not self._reader.received(count):
                continue
            length = self._opener.open(self._reader.take(), self._plain)
            self._reader.provide(self._sealed)
            frame, payload = decode_meta(self._plain[:length], Direction.FROM_RECEIVER)
            if isinstance(frame, Ready) is self._greeted:
                raise PROTOCOL.peer(detail=f"a {type(frame).__name__} in the wrong place")
            if self._greeted:
                self._on_frame(frame, bytes(self._plain[:payload]))
            else:
                self._greeted = True
                if not self.ready.done():
                    self.ready.set_result(None)

    def _end(self, fault: Fault) -> None:
        self.close()
        self._on_end(fault)
