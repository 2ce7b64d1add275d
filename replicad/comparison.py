"""What a comparison says: from the receiver's bits to granules that must be sent.

Both ends hash blocks of 64 KiB, then the 4 KiB blocks inside those that differ, so the digests
of an equal disk are 1/4,096 of it and a difference is found to the granule. Everything here is
pure; ranges are bytes ``(offset, length)``, blocks are numbered through the ranges in order,
the last block of a range is cut short where the disk ends, and bit ``i`` of the receiver's
answer (lowest bit of the first byte first) says that block ``i`` differs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from replicad.dirtymap import Batch, Segments

Range = tuple[int, int]

COARSE = 64 << 10
FINE = 4 << 10


def block_count(ranges: Sequence[Range], block: int) -> int:
    """How many blocks the ranges have."""
    return sum(-(-length // block) for _, length in ranges)


def differing(ranges: Sequence[Range], bits: bytes | memoryview, block: int) -> list[Range]:
    """The ranges of the blocks whose bit is set, neighbours joined, ascending.

    Of a first answer these are the second stage's ranges; of a second one, what must be sent.
    Raises ValueError when there are not as many bits as blocks.
    """
    count = block_count(ranges, block)
    if len(bits) != -(-count // 8):
        raise ValueError(f"{len(bits)} bytes of bits for {count} blocks")
    flags = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=count, bitorder="little")
    if not flags.any():
        return []
    # For all ranges at once: a second answer has one for each block of 64 KiB.
    offsets, lengths = np.array(ranges, dtype=np.int64).T
    blocks = -(-lengths // block)
    firsts = np.cumsum(blocks) - blocks
    cut = np.zeros(count + 1, dtype=np.bool_)
    cut[firsts] = cut[count] = True
    alone = np.concatenate(([0], flags, [0])).astype(np.bool_)
    begins = np.flatnonzero(alone[1:-1] & (~alone[:-2] | cut[:-1]))
    ends = np.flatnonzero(alone[1:-1] & (~alone[2:] | cut[1:])) + 1
    which = np.searchsorted(firsts, begins, side="right") - 1
    lows = (begins - firsts[which]) * block
    highs = np.minimum((ends - firsts[which]) * block, lengths[which])
    starts = offsets[which] + lows
    return list(zip(starts.tolist(), (highs - lows).tolist(), strict=True))


def differing_granules(batch: Batch, ranges: Sequence[Range], granule: int) -> Segments:
    """The granules of a compare batch that ascending byte ``ranges`` touch, as runs that lie
    within the batch's segments each. What the batch has beyond them is equal."""
    found: list[tuple[int, int]] = []
    segments = iter(batch.segments)
    first, count = next(segments)
    for offset, length in ranges:
        low, high = offset // granule, -(-(offset + length) // granule)
        while first + count <= low:
            first, count = next(segments)
        if found and sum(found[-1]) > low:
            low = sum(found[-1])
        if low >= high:
            continue
        if found and sum(found[-1]) == low and found[-1][0] >= first:
            found[-1] = (found[-1][0], high - found[-1][0])
        else:
            found.append((low, high - low))
    return tuple(found)
