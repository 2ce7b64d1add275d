"""Is a long line filled? 80 ms there and back, 100 MB/s, with default settings.

The line is a proxy, a process of its own, that delays, limits the rate, and limits what one
connection has under way as TCP does (``longline_proxy.py``). Also with connections that are cut:
one in a hundred that stand for a second. Beside it plain TCP over two connections, which shows
what the line gives, and ``dd | ssh``, whose own window is not made for this.

The rate is that of the disk's bytes, which nothing can compress, from the beginning of the pass to
its end.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.contest import RATE, SECONDS, Figures, Goal, Metric, Options, Question, Scene
from bench.images import GIB, MIB, random_image
from bench.leftovers import scratch
from bench.longline import RATE as LINE_RATE
from bench.longline import LongLine, long_line
from bench.ours import Ours, ours
from bench.peers import Peers
from bench.sshd import sshd
from tests.support.pair import Pair
from tests.support.ports import free_ports

FAR = "127.0.0.2"
"""Where the receiver listens; the source dials the line, at 127.0.0.1."""

CUT_EVERY = 100.0
"""Connection-seconds for each cut: 1 % of connections a second, the first one early."""

CUT_EVERY_QUICK = 10.0
"""The same where all is over in two seconds."""


def passed(we: Ours, image: Path, line: LongLine, cut: float) -> Figures:
    """A first pass over the line."""
    we.both.create("--start", "manual")
    since, cuts = we.mark(), line.cuts()
    line.cut(cut)
    begun = time.time()
    we.ask("start")
    try:
        event = we.ended_pass(since, "full", "compare", "delta")
    finally:
        line.cut(0)
    events = we.events(since)
    first = next(event.at for event in events if event.name == "pass.began")
    we.both.clean()
    we.check(image)
    we.forget()
    figures = {"rate": image.stat().st_size / (event.at - first), "seconds": event.at - begun}
    return {**figures, "part": figures["rate"] / LINE_RATE, "cuts": line.cuts() - cuts}


def plain(size: int, way: tuple[str, int], to: int) -> Figures:
    """Two connections of plain TCP that send zeros: what the line gives."""
    half = size // 2
    heard: list[float] = []

    def send() -> None:
        with socket.create_connection(way) as sock:
            block = bytes(MIB)
            for _ in range(half // MIB):
                sock.sendall(block)
            sock.shutdown(socket.SHUT_WR)
            sock.recv(1)

    def receive(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        room = bytearray(MIB)
        got = 0
        with sock:
            while count := sock.recv_into(room):
                got += count
        assert got == half // MIB * MIB, f"{got} bytes arrived"
        heard.append(time.perf_counter())

    with socket.create_server((FAR, to)) as listener:
        threads = [threading.Thread(target=receive, args=(listener,)) for _ in range(2)]
        begun = time.perf_counter()
        threads += [threading.Thread(target=send) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(heard) == 2, "not all of it arrived"
    seconds = max(heard) - begun
    return {"rate": size / seconds, "seconds": seconds, "part": size / seconds / LINE_RATE}


def ssh_copy(them: Peers) -> Figures:
    """``dd | ssh dd`` over the line."""
    figures = them.dd_ssh()
    return {"rate": figures["rate"], "part": figures["rate"] / LINE_RATE}


@contextlib.contextmanager
def scene(options: Options) -> Iterator[Scene]:
    """Daemons, sshd and a plain listener at the far end of one line."""
    size, every = options.bytes(2 * GIB, 128 * MIB), options.pick(CUT_EVERY, CUT_EVERY_QUICK)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(scratch())
        image, small = directory / "disk.img", directory / "small.img"
        random_image(image, size)
        # ssh is slow here; a part of the disk says so as well
        random_image(small, max(MIB, size // 8))
        near, far = free_ports(2)
        ssh_near, ssh = free_ports(1)[0], stack.enter_context(sshd(directory))
        lines: list[LongLine] = []

        def over(both: Pair) -> None:
            ways = [(f"127.0.0.1:{port}", f"{FAR}:{port}") for port in (both.control, both.data)]
            ways.append((f"127.0.0.1:{near}", f"{FAR}:{far}"))
            ways.append((f"127.0.0.1:{ssh_near}", f"127.0.0.1:{_port(directory)}"))
            lines.append(stack.enter_context(long_line(*ways)))

        we = stack.enter_context(ours([image], receiver_host=FAR, before=over))
        them = Peers(small, directory / "peer.img", _over_line(ssh, ssh_near), directory)
        (line,) = lines
        yield Scene(
            {
                "replicad": lambda: passed(we, image, line, 0),
                "replicad, cut": lambda: passed(we, image, line, every),
                "plain TCP": lambda: plain(size, ("127.0.0.1", near), far),
                "dd|ssh": lambda: ssh_copy(them),
            },
            size=size,
        )


def _over_line(ssh: list[str], port: int) -> list[str]:
    """The same ssh, dialling the line."""
    return [*ssh[:-1], "-o", f"Port={port}", ssh[-1]]


def _port(directory: Path) -> int:
    """Where the sshd of this directory listens."""
    said = (directory / "ssh" / "sshd_config").read_text()
    return int(said.split(maxsplit=2)[1])


QUESTION = Question(
    name="long_line",
    title="a full pass over a line of 100 MB/s with a round trip of 80 ms",
    metrics={
        "part": Metric("of the line", 1.0, 3),
        "rate": RATE,
        "seconds": SECONDS,
        "cuts": Metric("", 1.0, 0),
    },
    goals=(
        Goal("at least 95 % of the line", "part", ">=", 0.95),
        Goal("the same with 1 % of connections cut", "part", ">=", 0.95, ours="replicad, cut"),
    ),
    scene=scene,
    warm_up=False,
)
