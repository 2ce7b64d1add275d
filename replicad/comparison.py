"""What a comparison says: from the receiver's bits to granules that must be sent.

Both ends hash blocks of 64 KiB; of those that differ the receiver answers with the digests of the
4 KiB blocks inside, and we compare ours with them. So the digests of an equal disk are 1/4,096 of
it, and a difference is found to the granule. Everything here is pure; ranges are bytes ``(offset,
length)``, blocks are numbered through the ranges in order, and the last block of a range is cut
short where the disk ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protocol.wire.limits import BLOCK, DIGEST_SIZE, FINE_BLOCK
from replicad.dirtymap import Batch, Segments

Range = tuple[int, int]


def block_count(ranges: Sequence[Range], block: int) -> int:
    """How many blocks the ranges have."""
    return sum(-(-length // block) for _, length in ranges)


class Answer(NamedTuple):
    """What the receiver says of a row of digests: the ``ranges`` whose blocks of BLOCK bytes
    differ, and its ``digests`` of their blocks of FINE_BLOCK bytes."""

    ranges: Sequence[Range]
    digests: bytes

    def within(self, ranges: Sequence[Range]) -> bytes:
        """The digests of what is left of the ranges, whole blocks of BLOCK bytes."""
        if ranges == self.ranges:
            return self.digests
        found, at, left = bytearray(), 0, iter(self.ranges)
        low, high = 0, 0
        for offset, length in ranges:
            while offset >= high:
                at += -(-(high - low) // FINE_BLOCK)
                low, high = (first := next(left))[0], sum(first)
            begin = at + (offset - low) // FINE_BLOCK
            end = begin + -(-length // FINE_BLOCK)
            found += self.digests[begin * DIGEST_SIZE : end * DIGEST_SIZE]
        return bytes(found)


def heard(ranges: Sequence[Range], payload: bytes) -> Answer:
    """The payload of a Diff that answers the digests of ``ranges``: a bit for each block, and the
    finer digests of those whose bit is set.

    Raises:
        ValueError: there are not as many bits or digests as there must be.
    """
    count = block_count(ranges, BLOCK)
    size = -(-count // 8)
    if len(payload) < size:
        raise ValueError(f"{len(payload)} bytes for the bits of {count} blocks")
    bits = np.frombuffer(payload, dtype=np.uint8, count=size)
    flags = np.unpackbits(bits, count=count, bitorder="little")
    answer = Answer(differing(ranges, flags, BLOCK), payload[size:])
    fine = block_count(answer.ranges, FINE_BLOCK)
    if len(answer.digests) != fine * DIGEST_SIZE:
        raise ValueError(f"{len(answer.digests)} bytes of digests for {fine} blocks")
    return answer


def unequal(some: bytes, others: bytes) -> NDArray[np.bool_]:
    """Which of two equally long rows of digests differ."""
    mine, theirs = (np.frombuffer(row, dtype=np.uint64).reshape(-1, 2) for row in (some, others))
    different: NDArray[np.bool_] = (mine != theirs).any(axis=1)
    return different


def differing(
    ranges: Sequence[Range], flags: NDArray[np.bool_ | np.uint8], block: int
) -> list[Range]:
    """The ranges of the blocks whose flag is set, neighbours joined, ascending."""
    count = len(flags)
    if not flags.any():
        return []
    # For all ranges at once: of what differs there may be one for each block of 64 KiB.
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
