"""What nobody can do without, and nothing else: bare loops of the same calls, as limits for ours.

:func:`hash_both` is a comparison of which nothing differs: both sides read and hashed once.
:func:`carry` is a full copy: each source, a process of its own, reads, digests, seals and sends;
one receiver with a thread for each opens, digests and writes. Nothing is planned, acknowledged,
or remembered.

As a command (``python -m bench.bare WHAT ...``) a side says that it is ready, waits for a line, and
in the end says the seconds: so the time in which an interpreter starts is nobody's.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import xxhash
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.link.buffers import Buffer
from protocol.link.congestion import Congestion

PIECE = 1 << 20
BLOCK = 64 << 10
TAG = 16
KEY = bytes(32)
WAIT_SECONDS = 600.0


def hash_both(one: Path, other: Path) -> float:
    """Seconds that hashing both takes, a process each, at the same time."""
    with _sides(["hash", str(path)] for path in (one, other)) as sides:
        return max(_begun(sides))


def carry(image: Path, copies: Sequence[Path]) -> float:
    """Seconds until each of these files, which are as large, holds the image: a source for each,
    all at the same time."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = str(free.getsockname()[1])
    with _sides([["receive", port, *map(str, copies)]]) as receiver:
        numbered = range(len(copies))
        with _sides(["send", port, str(number), str(image)] for number in numbered) as sources:
            return _begun([*receiver, *sources])[0]


Side = subprocess.Popen[bytes]


@contextlib.contextmanager
def _sides(words: Iterator[list[str]] | list[list[str]]) -> Iterator[list[Side]]:
    """Processes that are ready to begin; none is left."""
    pipe = subprocess.PIPE
    sides: list[Side] = []
    try:
        for each in words:
            command = [sys.executable, "-m", "bench.bare", *each]
            sides.append(subprocess.Popen(command, stdin=pipe, stdout=pipe))
        for side in sides:
            assert side.stdout is not None
            assert side.stdout.readline() == b"ready\n", "a bare loop has ended"
        yield sides
    finally:
        for side in sides:
            side.kill()
            side.communicate()


def _begun(sides: list[Side]) -> list[float]:
    """The seconds that each says."""
    for side in sides:
        assert side.stdin is not None
        side.stdin.write(b"go\n")
        side.stdin.flush()
    return [float(side.communicate(timeout=WAIT_SECONDS)[0]) for side in sides]


def _wait() -> float:
    print("ready", flush=True)
    sys.stdin.readline()
    return time.perf_counter()


def _hash(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    size = os.fstat(fd).st_size
    buffer = Buffer(PIECE).view
    blocks = [buffer[at : at + BLOCK] for at in range(0, PIECE, BLOCK)]
    begun = _wait()
    for at in range(0, size, PIECE):
        os.preadv(fd, [buffer], at)
        for block in blocks:
            xxhash.xxh3_128_digest(block, 7)
    print(time.perf_counter() - begun)


def _send(port: str, number: str, path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    plain, sealed = Buffer(PIECE).view, Buffer(PIECE + TAG).view[: PIECE + TAG]
    cipher = AESGCM(KEY)
    sock = socket.socket()
    Congestion(sock)
    sock.connect(("127.0.0.1", int(port)))
    sock.sendall(int(number).to_bytes(4, "big"))
    begun = _wait()
    for at in range(0, os.fstat(fd).st_size, PIECE):
        os.preadv(fd, [plain], at)
        xxhash.xxh3_128_digest(plain)
        cipher.encrypt_into(at.to_bytes(12, "big"), plain, None, sealed)
        sock.sendall(sealed)
    sock.recv(1)
    print(time.perf_counter() - begun)


def _receive(port: str, *copies: str) -> None:
    buffers = [(Buffer(PIECE + TAG).view[: PIECE + TAG], Buffer(PIECE).view) for _ in copies]
    server = socket.create_server(("127.0.0.1", int(port)), backlog=len(copies))
    print("ready", flush=True)
    links = [server.accept()[0] for _ in copies]
    threads = [
        threading.Thread(target=_write, args=(link, copies, *own))
        for link, own in zip(links, buffers, strict=True)
    ]
    sys.stdin.readline()
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(time.perf_counter() - begun)


def _write(
    link: socket.socket, copies: Sequence[str], sealed: memoryview, plain: memoryview
) -> None:
    path = copies[int.from_bytes(link.recv(4, socket.MSG_WAITALL), "big")]
    fd = os.open(path, os.O_WRONLY)
    cipher = AESGCM(KEY)
    for at in range(0, os.fstat(fd).st_size, PIECE):
        link.recv_into(sealed, len(sealed), socket.MSG_WAITALL)
        cipher.decrypt_into(at.to_bytes(12, "big"), sealed, None, plain)
        xxhash.xxh3_128_digest(plain)
        os.pwrite(fd, plain, at)
    link.sendall(b"x")


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {"hash": _hash, "send": _send, "receive": _receive}
    commands[sys.argv[1]](*sys.argv[2:])
