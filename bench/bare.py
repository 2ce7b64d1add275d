"""What nobody can do without, and nothing else: bare loops of the same calls, as limits for ours.

:func:`hash_both` is a comparison of which nothing differs and nobody is told: both sides read and
hashed once. :func:`mend` is a whole one: digests of 64 KiB travel, answers bring those of the 4 KiB
blocks inside what differs, and these blocks are sealed, sent and written.
:func:`carry` is a full copy: each source, a process of its own, reads, digests, seals and sends;
one receiver with a thread for each opens, digests and writes. Nothing is planned, acknowledged,
or remembered.

As a command (``python -m bench.bare WHAT ...``) a side says that it is ready, waits for a line, and
in the end says the seconds: so the time in which an interpreter starts is nobody's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import xxhash
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.link.buffers import Buffer
from protocol.link.congestion import Congestion

PIECE = 1 << 20
BLOCK = 64 << 10
FINE = 4 << 10
SIZE = 16
"""Bytes of a digest."""

TAG = 16
KEY = bytes(32)
WAIT_SECONDS = 600.0


def hash_both(one: Path, other: Path) -> float:
    """Seconds that hashing both takes, a process each, at the same time."""
    with _sides(["hash", str(path)] for path in (one, other)) as sides:
        return max(_begun(sides))


def mend(image: Path, copy: Path) -> float:
    """Seconds until a file, which differs here and there, holds the image."""
    return _between(["mend", str(copy)], [["compare", str(image)]])


def carry(image: Path, copies: Sequence[Path]) -> float:
    """Seconds until each of these files, which are as large, holds the image: a source for each,
    all at the same time."""
    sources = (["send", str(image), str(number)] for number in range(len(copies)))
    return _between(["receive", *map(str, copies)], sources)


def _between(receiver: list[str], sources: Iterable[list[str]]) -> float:
    """The seconds of a receiver to which these sources connect."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = str(free.getsockname()[1])
    with _sides([[receiver[0], port, *receiver[1:]]]) as one:
        with _sides([each[0], port, *each[1:]] for each in sources) as others:
            return _begun([*one, *others])[0]


Side = subprocess.Popen[bytes]


@contextlib.contextmanager
def _sides(words: Iterable[list[str]]) -> Iterator[list[Side]]:
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


def _dialled(port: str) -> socket.socket:
    sock = socket.socket()
    Congestion(sock)
    sock.connect(("127.0.0.1", int(port)))
    return sock


def _send(port: str, path: str, number: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    plain, sealed = Buffer(PIECE).view, Buffer(PIECE + TAG).view[: PIECE + TAG]
    cipher = AESGCM(KEY)
    sock = _dialled(port)
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


def _compare(port: str, path: str) -> None:
    """The source of :func:`mend`."""
    fd = os.open(path, os.O_RDONLY)
    size = os.fstat(fd).st_size
    buffer, sealed = Buffer(PIECE).view, Buffer(PIECE + TAG).view
    blocks = [buffer[at : at + BLOCK] for at in range(0, PIECE, BLOCK)]
    fine = [buffer[at : at + FINE] for at in range(0, BLOCK, FINE)]
    sock, cipher, digest = _dialled(port), AESGCM(KEY), xxhash.xxh3_128_digest
    answers = bytearray()
    begun = _wait()
    for at in range(0, size, PIECE):
        os.preadv(fd, [buffer], at)
        sock.sendall(b"".join([digest(block, 7) for block in blocks]))
        with contextlib.suppress(BlockingIOError):
            answers += sock.recv(PIECE, socket.MSG_DONTWAIT)
    sock.shutdown(socket.SHUT_WR)
    while more := sock.recv(PIECE):
        answers += more
    row = struct.Struct(f">Q{BLOCK // FINE * SIZE}s")
    places: list[int] = []
    for offset, theirs in row.iter_unpack(answers):
        os.preadv(fd, [buffer[:BLOCK]], offset)
        mine = [digest(block, 7) for block in fine]
        if b"".join(mine) != theirs:
            for number, each in enumerate(mine):
                if each != theirs[number * SIZE : number * SIZE + SIZE]:
                    places.append(offset + number * FINE)
    sock = _dialled(port)
    for low in range(0, len(places), PIECE // FINE):
        some = places[low : low + PIECE // FINE]
        for number, place in enumerate(some):
            os.preadv(fd, [buffer[number * FINE : number * FINE + FINE]], place)
        content = buffer[: len(some) * FINE]
        digest(content)
        cipher.encrypt_into(low.to_bytes(12, "big"), content, None, sealed[: len(content) + TAG])
        sock.sendall(struct.pack(f">I{len(some)}Q", len(some), *some))
        sock.sendall(sealed[: len(content) + TAG])
    sock.shutdown(socket.SHUT_WR)
    sock.recv(1)
    print(time.perf_counter() - begun)


def _mend(port: str, path: str) -> None:
    """The receiver of :func:`mend`."""
    fd = os.open(path, os.O_RDWR)
    buffer, sealed = Buffer(PIECE).view, Buffer(PIECE + TAG).view
    blocks = [buffer[at : at + BLOCK] for at in range(0, PIECE, BLOCK)]
    fine = [buffer[at : at + FINE] for at in range(0, PIECE, FINE)]
    cipher, digest = AESGCM(KEY), xxhash.xxh3_128_digest
    server = socket.create_server(("127.0.0.1", int(port)))
    print("ready", flush=True)
    link = server.accept()[0]
    sys.stdin.readline()
    begun = time.perf_counter()
    at = 0
    while theirs := link.recv(PIECE // BLOCK * SIZE, socket.MSG_WAITALL):
        os.preadv(fd, [buffer], at)
        mine = [digest(block, 7) for block in blocks]
        if b"".join(mine) != theirs:
            for number, each in enumerate(mine):
                if each != theirs[number * SIZE : number * SIZE + SIZE]:
                    inside = fine[number * BLOCK // FINE : (number + 1) * BLOCK // FINE]
                    finer = b"".join([digest(block, 7) for block in inside])
                    link.sendall((at + number * BLOCK).to_bytes(8, "big") + finer)
        at += PIECE
    link.shutdown(socket.SHUT_WR)
    link, low = server.accept()[0], 0
    while head := link.recv(4, socket.MSG_WAITALL):
        count = int.from_bytes(head, "big")
        places = struct.unpack(f">{count}Q", link.recv(8 * count, socket.MSG_WAITALL))
        content, whole = buffer[: count * FINE], sealed[: count * FINE + TAG]
        link.recv_into(whole, len(whole), socket.MSG_WAITALL)
        cipher.decrypt_into(low.to_bytes(12, "big"), whole, None, content)
        digest(content)
        for number, place in enumerate(places):
            os.pwrite(fd, content[number * FINE : number * FINE + FINE], place)
        low += count
    link.sendall(b"x")
    print(time.perf_counter() - begun)


COMMANDS: dict[str, Callable[..., None]] = {
    "hash": _hash,
    "send": _send,
    "receive": _receive,
    "compare": _compare,
    "mend": _mend,
}

if __name__ == "__main__":
    signal.alarm(int(WAIT_SECONDS))  # whoever has started it may be gone
    COMMANDS[sys.argv[1]](*sys.argv[2:])
