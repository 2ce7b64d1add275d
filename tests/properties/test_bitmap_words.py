"""A few words of a bitmap, which are changed as one integer, and many, by numpy: the same comes of
both, in every place."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicad.dirtymap import bitmap as module
from replicad.dirtymap.bitmap import PAGE_BITS, PAGE_WORDS, Bitmap, range_mask

PAGES = 3
GRANULES = PAGES * PAGE_BITS - 5

NEAR_A_BORDER = st.integers(-300, 300).map(lambda by: PAGE_BITS + by)
STEP = st.tuples(
    st.sampled_from(["set", "clear", "vouch"]),
    st.one_of(NEAR_A_BORDER, st.integers(0, GRANULES - 1)),
    st.sampled_from([1, 3, 63, 64, 256, 64 * 31, 64 * 32, 64 * 33]),
    st.one_of(st.none(), st.randoms(use_true_random=False)),
)


def made() -> Bitmap:
    return Bitmap(np.zeros(PAGES * PAGE_WORDS, np.uint64), GRANULES)


@given(st.lists(STEP, max_size=30))
def test_both_ways_come_to_the_same(steps: list[tuple[str, int, int, object]]) -> None:
    few, many = made(), made()
    for what, first, length, chance in steps:
        if what == "vouch":
            few.vouch()
            many.vouch()
            continue
        place, mask = range_mask(first, min(length, GRANULES - first))
        if chance is not None:
            noise = chance.randbytes(mask.size * 8)  # type: ignore[attr-defined]
            mask &= np.frombuffer(noise, np.uint64)
        changed = getattr(few, what)(place, mask)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_FEW", -1)
            assert getattr(many, what)(place, mask) == changed
        assert few.count == many.count
        assert (few.words == many.words).all()
        assert (few.pages == many.pages).all()
        assert ((few.sums == 0) == (many.sums == 0)).all()
        assert not few.damaged()


def test_no_memory_is_touched_where_there_is_nothing_to_clear(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bitmap = made()
    bitmap.fill(2 * PAGE_BITS, 1)

    def touched(_: slice) -> int:
        raise AssertionError("a page that holds no bit was read")

    monkeypatch.setattr(bitmap, "_few", touched)
    assert bitmap.clear(*range_mask(PAGE_BITS - 100, 200)) == 0
    with pytest.raises(AssertionError):
        bitmap.clear(*range_mask(2 * PAGE_BITS, 1))


def test_the_memory_can_be_unmapped_afterwards() -> None:
    memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    bitmap = Bitmap(np.frombuffer(memory, np.uint64, count=PAGE_WORDS), PAGE_BITS)
    bitmap.fill(3, 200)
    bitmap.clear(*range_mask(3, 100))
    bitmap.release()
    memory.close()
    assert memory.closed
