"""Digests of blocks are those of the content, wherever it lies in the buffer."""

from __future__ import annotations

import os

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from protocol.wire.blocks import SIZES_MAX, BlockHasher

SEED = 0x1234_5678_9ABC_DEF0
CONTENT = os.urandom(1 << 16)


@given(
    st.integers(0, 1 << 16), st.integers(0, 1 << 16), st.sampled_from([512, 4096, 5000, 1 << 16])
)
def test_each_block_is_hashed_and_nothing_else(at: int, length: int, block: int) -> None:
    length = min(length, len(CONTENT) - at)
    hasher = BlockHasher(memoryview(bytearray(CONTENT)), SEED)
    content = CONTENT[at : at + length]
    pieces = [content[start : start + block] for start in range(0, length, block)]
    assert hasher.digests(at, length, block) == [
        xxhash.xxh3_128_digest(piece, SEED) for piece in pieces
    ]


def test_it_sees_what_is_in_the_buffer_now() -> None:
    buffer = memoryview(bytearray(8192))
    hasher = BlockHasher(buffer, SEED)
    before = hasher.digests(0, 8192, 4096)
    buffer[5000] = 1
    after = hasher.digests(0, 8192, 4096)
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_another_seed_gives_other_digests() -> None:
    buffer = memoryview(bytearray(4096))
    assert BlockHasher(buffer, 1).digests(0, 4096, 4096) != BlockHasher(buffer, 2).digests(
        0, 4096, 4096
    )


@pytest.mark.parametrize("block", [512 << size for size in range(SIZES_MAX + 3)])
def test_views_of_few_sizes_are_kept(block: int) -> None:
    hasher = BlockHasher(memoryview(bytearray(1 << 16)), SEED)
    for size in range(SIZES_MAX + 3):
        hasher.digests(0, 1 << 16, 512 << size)
        assert len(hasher._views) <= SIZES_MAX
    assert len(hasher.digests(0, 1 << 16, block)) == (1 << 16) // block
