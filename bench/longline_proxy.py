"""A long line as a process of its own: python -m bench.longline_proxy OPTIONS FROM TO [FROM TO ...]

Carries TCP connections from addresses FROM to addresses TO (``host:port``). All connections share
one line with a rate each way and a delay each way. What each connection may have under way, until
the other side's word of it is back, is limited as TCP's window limits it. It can also reset one
connection in so many connection-seconds.

Lines on standard input: ``cut N`` (0: none) and ``seen``, which is answered with JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import struct
import sys
from collections import deque
from typing import cast

import uvloop

WINDOW = 4 << 20
"""Bytes of one connection and direction under way: Linux's default limit of a send buffer
(tcp_wmem). With 80 ms a connection so carries 52 MB/s at most."""

SOCKET_BUFFER = 256 << 10
"""Bytes that the kernel takes from who speaks beyond that: the line must hold it back, not we."""

UNSENT_MAX = 4 << 20
"""Bytes that who listens may be behind before the line stops."""

_RESET = struct.pack("ii", 1, 0)


class Direction:
    """One way of the line: what is said now arrives when it has been carried."""

    def __init__(self, rate: float, delay: float) -> None:
        self.rate = rate
        self.delay = delay
        self.carried = 0
        self._free_at = 0.0

    def arrives(self, size: int, now: float) -> float:
        """The time at which the last byte of so many is there."""
        self._free_at = max(now, self._free_at) + size / self.rate
        self.carried += size
        return self._free_at + self.delay


class End(asyncio.Protocol):
    """One socket of a carried connection; ``other`` is the one across the line."""

    def __init__(self, line: Line, way: Direction) -> None:
        self._line = line
        self._way = way
        self._loop = asyncio.get_running_loop()
        self._under_way: deque[bytes] = deque()
        self._bytes = 0
        self._stopped = False
        self._behind = False
        self._over = False
        self.other: End | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(UNSENT_MAX)
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)

    def data_received(self, data: bytes) -> None:
        """Onto the line."""
        now = self._loop.time()
        at = self._way.arrives(len(data), now)
        self._under_way.append(data)
        self._bytes += len(data)
        self._loop.call_at(at, self._deliver)
        self._loop.call_at(at + self._way.delay, self._known, len(data))
        self._judge()

    def _deliver(self) -> None:
        # The next, whichever timer it is: two of one millisecond may come in either order.
        data = self._under_way.popleft()
        if not data:
            self._end()
        elif self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def _known(self, size: int) -> None:
        """The word that it has arrived is back."""
        self._bytes -= size
        self._judge()

    def _judge(self) -> None:
        """Listen on, or let the speaker wait."""
        stop = self._bytes >= WINDOW or (self.other is not None and self.other._behind)
        if stop == self._stopped or self.transport is None or self.transport.is_closing():
            return
        self._stopped = stop
        (self.transport.pause_reading if stop else self.transport.resume_reading)()

    def pause_writing(self) -> None:
        self._behind = True
        if self.other is not None:
            self.other._judge()

    def resume_writing(self) -> None:
        self._behind = False
        if self.other is not None:
            self.other._judge()

    def eof_received(self) -> bool:
        """The end travels behind what was said."""
        at = self._way.arrives(0, self._loop.time())
        self._under_way.append(b"")
        self._loop.call_at(at, self._deliver)
        return True

    def _end(self) -> None:
        self._over = True
        other = self.other.transport if self.other is not None else None
        if other is not None and not other.is_closing() and other.can_write_eof():
            other.write_eof()
        if self.other is not None and self.other._over:
            # Both have said all: nothing stands here any more that could be cut.
            self.other.close()
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.other is not None and self.other.transport is not None:
            self._loop.call_later(self._way.delay, self.other.close)
        self._line.standing.discard(self)

    def close(self) -> None:
        """Close, without waiting for what is under way."""
        if self.transport is not None:
            self.transport.close()

    def reset(self) -> None:
        """Cut, as when a line breaks: what is under way is lost."""
        if self.transport is not None:
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()


class Line:
    """The line. ``standing``: the dialling ends of its connections, in no order."""

    def __init__(self, rate: float, delay: float) -> None:
        self.up, self.down = Direction(rate, delay), Direction(rate, delay)
        self.standing: set[End] = set()
        self.cut_every = 0.0
        self.cuts = 0
        self._stood = 0.0
        self._dialling: set[asyncio.Task[None]] = set()

    async def carry(self, host: str, port: int, to_host: str, to_port: int) -> None:
        """Listen at one address, connect to another."""
        loop = asyncio.get_running_loop()

        def accepted() -> End:
            end = End(self, self.up)
            task = loop.create_task(self._dial(end, to_host, to_port))
            self._dialling.add(task)
            task.add_done_callback(self._dialling.discard)
            return end

        await loop.create_server(accepted, host, port, backlog=256)

    async def _dial(self, near: End, host: str, port: int) -> None:
        """Connect the far end; until it is there what is said is under way."""
        loop = asyncio.get_running_loop()
        try:
            _, far = await loop.create_connection(lambda: End(self, self.down), host, port)
        except OSError:
            near.reset()
            return
        near.other, far.other = far, near
        if near.transport is None:
            far.close()
            return
        self.standing.add(near)

    async def cutting(self) -> None:
        """Count the time that connections have stood, and cut the one that stood when it is due."""
        step = 0.1
        while True:
            await asyncio.sleep(step)
            if not self.cut_every:
                continue
            self._stood += step * len(self.standing)
            if self._stood >= self.cut_every and self.standing:
                self._stood -= self.cut_every
                self.cuts += 1
                near = next(iter(self.standing))
                for end in (near, near.other):
                    if end is not None:
                        end.reset()

    def order(self, line: str) -> None:
        """A line of standard input."""
        words = line.split()
        if words[:1] == ["cut"]:
            self.cut_every = float(words[1])
            # most of the time has passed already: a run of seconds sees a cut as well
            self._stood = self.cut_every * 0.9
        seen = {
            "up": self.up.carried,
            "down": self.down.carried,
            "cuts": self.cuts,
            "standing": len(self.standing),
        }
        print(json.dumps(seen), flush=True)


async def run(options: argparse.Namespace) -> None:
    """Until standard input ends."""
    line = Line(options.rate, options.delay)
    words = [address.rsplit(":", 1) for address in options.addresses]
    for (host, port), (to_host, to_port) in zip(words[::2], words[1::2], strict=True):
        await line.carry(host, int(port), to_host, int(to_port))
    cutting = asyncio.create_task(line.cutting())
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while said := await loop.run_in_executor(None, sys.stdin.readline):
        line.order(said)
    cutting.cancel()


def main(arguments: list[str]) -> None:
    """Read the options, run."""
    parser = argparse.ArgumentParser("longline_proxy")
    parser.add_argument("--rate", type=float, required=True, help="bytes a second each way")
    parser.add_argument("--delay", type=float, required=True, help="seconds each way")
    parser.add_argument("addresses", nargs="+", metavar="HOST:PORT")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(parser.parse_args(arguments)))


if __name__ == "__main__":
    main(sys.argv[1:])
