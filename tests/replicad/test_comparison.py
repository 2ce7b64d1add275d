"""From the receiver's answer to the ranges that differ, against a comparison block by block."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.wire.limits import BLOCK, DIGEST_SIZE, FINE_BLOCK
from replicad.comparison import block_count, differing, heard, unequal

Range = tuple[int, int]
PER_BLOCK = BLOCK // FINE_BLOCK


@st.composite
def ranges_of_blocks(draw: st.DrawFn) -> list[Range]:
    """Ascending, each beginning at a block; the last may end within one, at a sector."""
    found: list[Range] = []
    at = draw(st.integers(0, 1 << 20))
    for _ in range(draw(st.integers(1, 6))):
        blocks = draw(st.integers(1, 5))
        found.append((at * BLOCK, blocks * BLOCK))
        at += blocks + draw(st.integers(0, 4))
    offset, length = found[-1]
    return [*found[:-1], (offset, length - draw(st.integers(0, BLOCK // 512 - 1)) * 512)]


def blocks_of(ranges: list[Range], block: int) -> list[Range]:
    return [
        (at, min(block, offset + length - at))
        for offset, length in ranges
        for at in range(offset, offset + length, block)
    ]


def digest(at: int) -> bytes:
    return at.to_bytes(DIGEST_SIZE, "big")


def answer_of(ranges: list[Range], differ: set[int]) -> tuple[bytes, list[Range]]:
    """What a receiver says when blocks of these numbers differ; and these blocks. The digest of a
    small block is its place."""
    bits, fine, found = 0, b"", []
    for number, block in enumerate(blocks_of(ranges, BLOCK)):
        if number in differ:
            bits |= 1 << number
            found.append(block)
            fine += b"".join(digest(at) for at, _ in blocks_of([block], FINE_BLOCK))
    return bits.to_bytes(-(-block_count(ranges, BLOCK) // 8), "little") + fine, found


@given(ranges_of_blocks(), st.sets(st.integers(0, 29)))
def test_an_answer_names_the_blocks_that_differ(ranges: list[Range], differ: set[int]) -> None:
    payload, found = answer_of(ranges, differ)
    answer = heard(ranges, payload)
    assert blocks_of(list(answer.ranges), BLOCK) == found
    assert all(any(o <= at and at + n <= o + m for o, m in ranges) for at, n in answer.ranges)
    assert answer.within(answer.ranges) == payload[-(-block_count(ranges, BLOCK) // 8) :]


@given(ranges_of_blocks(), st.sets(st.integers(0, 29)), st.data())
def test_of_what_is_left_the_digests_stay_those_of_their_places(
    ranges: list[Range], differ: set[int], data: st.DataObject
) -> None:
    """What could not be read has been taken out, in whole blocks: at the ends of a range, in its
    middle, or all of it."""
    answer = heard(ranges, answer_of(ranges, differ)[0])
    left = [block for block in blocks_of(list(answer.ranges), BLOCK) if data.draw(st.booleans())]
    joined: list[Range] = []
    for at, length in left:
        if joined and sum(joined[-1]) == at and data.draw(st.booleans()):
            joined[-1] = joined[-1][0], joined[-1][1] + length
        else:
            joined.append((at, length))
    expected = b"".join(digest(at) for at, _ in blocks_of(joined, FINE_BLOCK))
    assert answer.within(joined) == expected


@given(ranges_of_blocks(), st.sets(st.integers(0, 29)), st.integers(-2 * DIGEST_SIZE, 40))
def test_an_answer_of_another_length_is_refused(
    ranges: list[Range], differ: set[int], more: int
) -> None:
    payload, _ = answer_of(ranges, differ)
    changed = payload[:more] if more < 0 else payload + bytes(more)
    if len(changed) == len(payload):
        assert heard(ranges, changed)
        return
    with pytest.raises(ValueError, match=r"digests for|bits of"):
        heard(ranges, changed)


@given(ranges_of_blocks(), st.sets(st.integers(0, 30 * PER_BLOCK)), st.integers(0, 127))
def test_a_closer_look_finds_exactly_the_small_blocks(
    ranges: list[Range], differ: set[int], bit: int
) -> None:
    """Also where two digests differ in a single bit."""
    small = blocks_of(ranges, FINE_BLOCK)
    mine = bytearray(b"".join(digest(at) for at, _ in small))
    theirs = bytes(mine)
    wrong = [number for number in sorted(differ) if number < len(small)]
    for number in wrong:
        mine[number * DIGEST_SIZE + bit // 8] ^= 1 << bit % 8
    found = differing(ranges, unequal(bytes(mine), theirs), FINE_BLOCK)
    assert blocks_of(found, FINE_BLOCK) == [small[number] for number in wrong]
