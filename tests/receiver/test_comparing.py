"""What is answered to digests, against a comparison block by block of both contents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.wire.frames import Digests, Segment
from protocol.wire.limits import BLOCK, BUFFER, DIGEST_SIZE, FINE_BLOCK
from receiver.comparing import HOLE_LEAST, Comparer

SEED = 0xFEDC_BA98_7654_3210
BLOCKS = 24
SIZE = BLOCKS * BLOCK - 3 * FINE_BLOCK - 512
HOLES = range(4 * BLOCK, 14 * BLOCK)
SCRATCH = memoryview(bytearray(BUFFER))


class OneDisk:
    """An intermediate disk of zeros, with a hole that may not be read."""

    size = SIZE

    def __init__(self) -> None:
        self.content = bytearray(SIZE)
        self.reads: list[tuple[int, int]] = []

    def is_hole(self, offset: int, length: int) -> bool:
        return offset in HOLES and offset + length - 1 in HOLES

    def read(self, ranges: Sequence[tuple[int, int]], into: memoryview) -> int:
        at = 0
        for offset, length in ranges:
            assert length < HOLE_LEAST or not self.is_hole(offset, length)
            self.reads.append((offset, length))
            into[at : at + length] = self.content[offset : offset + length]
            at += length
        return at


def digests(content: bytes, block: int) -> list[bytes]:
    parts = (content[at : at + block] for at in range(0, len(content), block))
    return [xxhash.xxh3_128_digest(part, SEED) for part in parts]


def compared(disk: Any, theirs: bytes, ranges: list[tuple[int, int]]) -> bytes:
    frame = Digests(0, BLOCK, tuple(Segment(*each) for each in ranges))
    said = b"".join(
        digest for at, length in ranges for digest in digests(theirs[at : at + length], BLOCK)
    )
    comparer = Comparer(SEED, lambda: None)
    return comparer.compare(disk, frame, memoryview(said), SCRATCH)


@settings(max_examples=60)
@given(st.data())
def test_the_answer_is_the_bits_and_then_what_is_in_those_blocks(data: st.DataObject) -> None:
    """Ranges of any lengths, also such as end within a block; what differs lies anywhere, in holes
    of ours too."""
    disk = OneDisk()
    for block in data.draw(st.sets(st.integers(0, BLOCKS - 1))):
        if block * BLOCK not in HOLES:
            disk.content[block * BLOCK] = block + 1
    theirs = bytearray(disk.content)
    for place in data.draw(st.sets(st.integers(0, SIZE - 1), max_size=8)):
        theirs[place] ^= 0x55
    ranges, at = [], 0
    while at < SIZE:
        length = min(data.draw(st.integers(1, 20 * BLOCK // 512)) * 512, SIZE - at)
        ranges.append((at, length))
        at += (-(-length // BLOCK) + data.draw(st.integers(0, 3))) * BLOCK
    bits, fine, number = 0, b"", 0
    for offset, length in ranges:
        for start in range(offset, offset + length, BLOCK):
            block_there = slice(start, min(start + BLOCK, offset + length))
            mine = bytes(disk.content[block_there])
            if mine != theirs[block_there]:
                bits |= 1 << number
                fine += b"".join(digests(mine, FINE_BLOCK))
            number += 1
    answer = compared(disk, bytes(theirs), ranges)
    assert answer == bits.to_bytes(-(-number // 8), "little") + fine


@pytest.mark.parametrize("differing", [0, 1, BLOCKS])
def test_what_differs_is_read_once(differing: int) -> None:
    disk = OneDisk()
    theirs = bytearray(SIZE)
    for block in range(differing):
        theirs[block * BLOCK] = 1
    answer = compared(disk, bytes(theirs), [(0, SIZE)])
    fine = -(-min(SIZE, differing * BLOCK) // FINE_BLOCK)
    assert len(answer) == BLOCKS // 8 + fine * DIGEST_SIZE
    assert sum(length for _, length in disk.reads) <= SIZE
