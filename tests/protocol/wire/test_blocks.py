"""Digests of blocks are those of the content, wherever it lies in the buffer."""

from __future__ import annotations

import os

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from protocol.wire.blocks import SIZES_MAX, BlockHasher, portions

SEED = 0x1234_5678_9ABC_DEF0
CONTENT = os.urandom(1 << 16)


@given(st.data(), st.sampled_from([512, 4096, 5000, 1 << 16]))
def test_each_block_is_hashed_and_nothing_else(data: st.DataObject, block: int) -> None:
    """Of ranges one behind the other, whole blocks or not, the last block of each cut short."""
    hasher = BlockHasher(memoryview(bytearray(CONTENT)), SEED)
    lengths: list[int] = []
    wanted: list[bytes] = []
    for _ in range(data.draw(st.integers(0, 4))):
        room = len(CONTENT) - sum(lengths)
        whole = data.draw(st.booleans())
        length = data.draw(st.integers(0, room // block)) * block
        at = sum(lengths)
        lengths.append(length if whole else data.draw(st.integers(0, room)))
        content = CONTENT[at : at + lengths[-1]]
        wanted += [
            xxhash.xxh3_128_digest(content[start : start + block], SEED)
            for start in range(0, len(content), block)
        ]
    assert hasher.digests(lengths, block) == wanted


@given(st.data())
def test_portions_are_the_ranges_and_each_fits(data: st.DataObject) -> None:
    block = 4096
    ranges, end = [], 0
    for _ in range(data.draw(st.integers(0, 6))):
        start = end + data.draw(st.integers(0, 3)) * block
        length = data.draw(st.integers(1, 9 * block))
        ranges.append((start, length))
        end = start + -(-length // block) * block
    blocks, at_most = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 4))
    found = list(portions(ranges, block, blocks, at_most))
    for some in found:
        assert 0 < len(some) <= at_most
        assert sum(-(-length // block) for _, length in some) <= blocks
    pieces = [piece for some in found for piece in some]
    joined: list[tuple[int, int]] = []
    for offset, length in pieces:
        if joined and sum(joined[-1]) == offset and offset not in dict(ranges):
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        else:
            joined.append((offset, length))
    assert joined == ranges
    # Only where a range ends may a block be cut short: else one block would be hashed as two.
    ends = {sum(each) for each in ranges}
    assert all(length % block == 0 or offset + length in ends for offset, length in pieces)


def test_it_sees_what_is_in_the_buffer_now() -> None:
    buffer = memoryview(bytearray(8192))
    hasher = BlockHasher(buffer, SEED)
    before = hasher.digests([8192], 4096)
    buffer[5000] = 1
    after = hasher.digests([8192], 4096)
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_another_seed_gives_other_digests() -> None:
    buffer = memoryview(bytearray(4096))
    one, other = BlockHasher(buffer, 1), BlockHasher(buffer, 2)
    assert one.digests([4096], 4096) != other.digests([4096], 4096)


@pytest.mark.parametrize("block", [512 << size for size in range(SIZES_MAX + 3)])
def test_views_of_few_sizes_are_kept(block: int) -> None:
    hasher = BlockHasher(memoryview(bytearray(1 << 16)), SEED)
    for size in range(SIZES_MAX + 3):
        hasher.digests([1 << 16], 512 << size)
        assert len(hasher._views) <= SIZES_MAX
    assert len(hasher.digests([1 << 16], block)) == (1 << 16) // block
