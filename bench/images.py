"""Disks to copy: what is in them follows from a seed, so every run copies the same."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np

MIB = 1 << 20
GIB = 1 << 30
BLOCK = 4096
PIECE = MIB
"""What an image is put together from."""

_WORDS = 4096
_TEXT = 16 * MIB


def random_image(path: Path, size: int, seed: int = 1) -> None:
    """Incompressible bytes."""
    chance = np.random.default_rng(seed)
    with path.open("wb") as file:
        for at in range(0, size, PIECE):
            file.write(chance.bytes(min(PIECE, size - at)))


@functools.cache
def _text(seed: int) -> bytes:
    """Lines of words, the few frequent ones often, with numbers: about 3:1 with zstd -1."""
    chance = np.random.default_rng(seed)
    letters = np.frombuffer(b"etaoinshrdlcumwfgypbvkjxqz", np.uint8)
    lengths = chance.integers(2, 11, _WORDS)
    words = [chance.choice(letters, length).tobytes() for length in lengths]
    words += [str(number).encode() for number in chance.integers(0, 1 << 20, _WORDS)]
    ranks = np.minimum(chance.zipf(1.3, _TEXT // 6), len(words)) - 1
    ends = chance.random(len(ranks)) < 0.1
    said = b"".join(
        words[rank] + (b"\n" if end else b" ") for rank, end in zip(ranks, ends, strict=True)
    )
    return said.ljust(_TEXT, b"\n")[:_TEXT]


def mixed_image(path: Path, size: int, seed: int = 1) -> None:
    """40 % zero, 30 % text, 30 % random, in pieces of 1 MiB in a shuffled order.

    The zeros are written, not holes: a disk does not say where it is zero.
    """
    chance = np.random.default_rng(seed)
    text = _text(seed)
    kinds = np.tile(np.repeat([0, 1, 2], [4, 3, 3]), -(-size // (10 * PIECE)))[: size // PIECE]
    chance.shuffle(kinds)
    with path.open("wb") as file:
        for kind in kinds:
            if kind == 0:
                file.write(bytes(PIECE))
            elif kind == 1:
                at = int(chance.integers(0, len(text) - PIECE))
                file.write(text[at : at + PIECE])
            else:
                file.write(chance.bytes(PIECE))


def touch(path: Path, size: int) -> None:
    """Zeros over the whole file, in place: its pages are there, and no earlier copy is left."""
    zeros = bytes(PIECE)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.ftruncate(fd, size)
        for at in range(0, size, PIECE):
            os.pwrite(fd, zeros[: size - at], at)
    finally:
        os.close(fd)


def scatter(path: str | Path, size: int, part: float, seed: int) -> int:
    """New random content for a part of the 4 KiB blocks, in random places; bytes changed."""
    chance = np.random.default_rng(seed)
    count = max(1, int(size // BLOCK * part))
    places = chance.choice(size // BLOCK, count, replace=False)
    fd = os.open(path, os.O_WRONLY)
    try:
        for place in places:
            os.pwrite(fd, chance.bytes(BLOCK), int(place) * BLOCK)
        os.fsync(fd)
    finally:
        os.close(fd)
    return count * BLOCK
