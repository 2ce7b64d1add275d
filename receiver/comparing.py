"""What the receiver answers to digests: which of its blocks differ, and the finer digests of those.

What has been read to be hashed is still in the buffer when it turns out to differ, so the digests
of the 4 KiB blocks inside it are made at once. The source finds the granules with them by itself:
no second question, and no second reading here.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

import xxhash

from protocol.wire.blocks import BlockHasher, portions
from protocol.wire.frames import Digests, block_count
from protocol.wire.limits import DIGEST_SIZE, FINE_BLOCK
from receiver.turns import turn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from receiver.disk import IntermediateDisk

HOLE_LEAST = 256 << 10
"""Bytes below which it is not asked whether they are a hole: reading zeros takes as long."""

RANGES_AT_ONCE = 16
"""Ranges that are read before it is asked again whether the session is wanted: a dying disk may
take seconds for each."""


class Comparer:
    """Answers the digests of one data connection. In one thread at a time.

    Args:
        seed: of the session's digests.
        go_on: asked before each reading; raises when nothing more is wanted.
    """

    def __init__(self, seed: int, go_on: Callable[[], None]) -> None:
        self._seed = seed
        self._go_on = go_on
        self._hasher: BlockHasher | None = None

    def compare(
        self, disk: IntermediateDisk, frame: Digests, theirs: memoryview, scratch: memoryview
    ) -> bytes:
        """The payload of the Diff that answers a frame whose payload is ``theirs``.

        Args:
            scratch: BUFFER bytes that our blocks are read into.

        Raises:
            LocalFault: the disk failed.
        """
        block, hasher = frame.block, self._hasher
        if hasher is None or hasher.buffer is not scratch:
            hasher = self._hasher = BlockHasher(scratch, self._seed)
        bits = bytearray(-(-block_count(frame) // 8))
        finer: list[bytes] = []
        ranges = [(offset, length) for offset, length, _ in frame.ranges]
        first = 0
        for some in portions(ranges, block, len(scratch) // block, RANGES_AT_ONCE):
            self._go_on()
            for hole, group in groupby(some, lambda each: _is_hole(disk, *each)):
                pieces = list(group)
                lengths = [length for _, length in pieces]
                if not hole:
                    disk.read(pieces, scratch)
                with turn:
                    mine = self._digests(hole, lengths, block, hasher)
                    end = first + len(mine)
                    others = bytes(theirs[first * DIGEST_SIZE : end * DIGEST_SIZE])
                    if found := _differing(mine, others):
                        places = _places(lengths, block)
                        for at in found:
                            bits[(first + at) >> 3] |= 1 << ((first + at) & 7)
                            finer += self._finer(hole, *places[at], hasher)
                first = end
        return bytes(bits) + b"".join(finer)

    def _digests(
        self, hole: bool, lengths: Sequence[int], block: int, hasher: BlockHasher
    ) -> list[bytes]:
        """Those of ranges of such lengths, which are a hole or lie in the hasher's buffer."""
        if not hole:
            return hasher.digests(lengths, block)
        return [_zeros(size, self._seed) for _, size in _places(lengths, block)]

    def _finer(self, hole: bool, at: int, size: int, hasher: BlockHasher) -> list[bytes]:
        """The digests inside a block of ``size`` bytes at ``at`` in the hasher's buffer."""
        if not hole:
            return hasher.within(at, size, FINE_BLOCK)
        return [_zeros(size, self._seed) for _, size in _places([size], FINE_BLOCK)]


def _differing(mine: list[bytes], theirs: bytes) -> list[int]:
    """Which of our digests are not the others."""
    if b"".join(mine) == theirs:
        return []
    pairs = enumerate(zip(mine, _each(theirs), strict=True))
    return [at for at, (digest, (other,)) in pairs if digest != other]


def _places(lengths: Sequence[int], block: int) -> list[tuple[int, int]]:
    """Where the blocks of ranges lie that stand one behind the other, and how long they are."""
    found: list[tuple[int, int]] = []
    begin = 0
    for length in lengths:
        found += [(begin + at, min(block, length - at)) for at in range(0, length, block)]
        begin += length
    return found


@lru_cache(maxsize=256)  # a few lengths for each session's seed
def _zeros(length: int, seed: int) -> bytes:
    return xxhash.xxh3_128_digest(bytes(length), seed)


def _is_hole(disk: IntermediateDisk, offset: int, length: int) -> bool:
    return length >= HOLE_LEAST and disk.is_hole(offset, length)


_each = struct.Struct(f"{DIGEST_SIZE}s").iter_unpack
"""The digests of a payload, each a tuple of one."""
