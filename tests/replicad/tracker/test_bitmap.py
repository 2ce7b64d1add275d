"""The hierarchy against a naive model: one bool per granule."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicad.tracker import bitmap
from replicad.tracker.bitmap import Geometry, granule_for

TIB = 1 << 40
# Around the borders of words and levels as well as anywhere.
granule_counts = st.one_of(
    st.integers(1, 5000),
    st.sampled_from([1, 63, 64, 65, 4095, 4096, 4097, 262143, 262144, 262145]),
    st.integers(1, 600_000),
)


@st.composite
def marked(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    count = draw(granule_counts)
    edges = st.one_of(
        st.integers(0, count),
        st.integers(0, count // 64).map(lambda n: n * 64),
        st.integers(0, count // 4096).map(lambda n: n * 4096),
    )
    pairs = draw(st.lists(st.tuples(edges, edges), max_size=6))
    return count, [(min(p), max(p)) for p in pairs if p[0] != p[1]]


def expand(geometry: Geometry, words: bitmap.type_words) -> np.ndarray:
    """As a drain does it."""
    summary = words[geometry.summary.first :][: geometry.summary.words]
    pages = bitmap.pages_set(geometry, summary)
    upper = words[geometry.upper.first :][: geometry.upper.words]
    full = bitmap.full_words(geometry, upper) if upper.any() else np.zeros(0, np.bool_)
    level0 = np.zeros(geometry.levels[0].words, np.uint64)
    for first, end in bitmap.chunks(geometry, pages, full):
        part = words[first:end].copy()
        if full.size:
            part[full[first:end]] = bitmap.FULL
        assert part.any()
        assert end - first <= bitmap.CHUNK_WORDS
        level0[first:end] |= part
    return bitmap.bits_of(level0)


@given(marked())
def test_what_is_marked_is_what_is_read(case: tuple[int, list[tuple[int, int]]]) -> None:
    count, ranges = case
    geometry = Geometry.of(count)
    words = np.zeros(geometry.words, np.uint64)
    naive = np.zeros(geometry.levels[0].words * 64, np.bool_)
    for first, end in ranges:
        bitmap.mark(geometry, words, first, end)
        naive[first:end] = True
    assert np.array_equal(expand(geometry, words), naive)


@given(marked())
def test_a_mark_is_bounded(case: tuple[int, list[tuple[int, int]]]) -> None:
    """At most two words of each level, whatever the length."""
    count, ranges = case
    geometry = Geometry.of(count)
    for first, end in ranges:
        words = np.zeros(geometry.words, np.uint64)
        bitmap.mark(geometry, words, first, end)
        for level in geometry.levels:
            assert np.count_nonzero(words[level.first : level.first + level.words]) <= 2


@given(st.integers(1, 1 << 28))
def test_the_parts_do_not_overlap(count: int) -> None:
    geometry = Geometry.of(count)
    parts = [*geometry.levels, geometry.summary]
    assert all(part.first % bitmap.PAGE_WORDS == 0 for part in parts)
    for one, following in itertools.pairwise(parts):
        assert one.first + one.words <= following.first
    assert geometry.summary.first + geometry.summary.words <= geometry.words
    assert geometry.summary.words * 64 * bitmap.PAGE_WORDS >= geometry.summary.first
    assert geometry.levels[0].words * 64 >= count
    assert geometry.levels[-1].words == 1
    assert geometry.words * 8 < geometry.levels[0].words * 8 * 1.02 + (1 << 16)


def test_the_summary_covers_the_page_that_it_says() -> None:
    geometry = Geometry.of(10_000_000)
    words = np.zeros(geometry.words, np.uint64)
    bitmap.mark(geometry, words, 9_999_999, 10_000_000)
    word = 9_999_999 // 64
    summary = words[geometry.summary.first :]
    assert bitmap.pages_set(geometry, summary[: geometry.summary.words]).nonzero()[0].tolist() == [
        word // 512
    ]


@pytest.mark.parametrize(
    ("size", "granule"),
    [(512, 4096), (TIB, 4096), (TIB + 1, 8192), (16 * TIB, 65536), (256 * TIB, 1 << 20)],
)
def test_granule(size: int, granule: int) -> None:
    assert granule_for(size) == granule


@given(st.integers(512, 1 << 56))
def test_level_0_stays_small(size: int) -> None:
    granule = granule_for(size)
    level0 = -(-size // granule) / 8
    assert level0 <= bitmap.MAXIMUM_LEVEL0
    assert granule == 4096 or level0 * 2 > bitmap.MAXIMUM_LEVEL0 - 1


def test_impossible_sizes() -> None:
    with pytest.raises(ValueError, match="no bitmap"):
        Geometry.of(0)
    with pytest.raises(ValueError, match="levels"):
        Geometry.of(64**6 + 1)
