"""What a comparison cannot do without, and nothing else: both sides read and hashed once.

As a command (``python -m bench.bare PATH``) it says that it is ready, waits for a line, reads and
hashes the file, and says the seconds: so the time in which an interpreter starts is nobody's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import xxhash

from protocol.link.buffers import Buffer

PIECE = 1 << 20
BLOCK = 64 << 10
WAIT_SECONDS = 600.0


def hash_both(one: Path, other: Path) -> float:
    """Seconds that hashing both takes, a process each, at the same time."""
    words = [sys.executable, "-m", "bench.bare"]
    sides = [
        subprocess.Popen([*words, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for path in (one, other)
    ]
    try:
        for side in sides:
            assert side.stdout is not None
            side.stdout.readline()
        for side in sides:
            assert side.stdin is not None
            side.stdin.write(b"go\n")
            side.stdin.flush()
        return max(float(side.communicate(timeout=WAIT_SECONDS)[0]) for side in sides)
    finally:
        for side in sides:
            side.kill()
            side.wait()


def _hash(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    size = os.fstat(fd).st_size
    buffer = Buffer(PIECE).view
    blocks = [buffer[at : at + BLOCK] for at in range(0, PIECE, BLOCK)]
    print("ready", flush=True)
    sys.stdin.readline()
    begun = time.perf_counter()
    for at in range(0, size, PIECE):
        os.preadv(fd, [buffer], at)
        for block in blocks:
            xxhash.xxh3_128_digest(block, 7)
    print(time.perf_counter() - begun)


if __name__ == "__main__":
    _hash(sys.argv[1])
