"""A bitmap for people and for memory: some runs exactly, and few that cover all.

A bitmap may have a hundred million runs; nobody reads them, and no message holds them. So the
first ones are given as they are, all are counted, and those that lie closest together are joined
until they are few enough to be kept wherever a list is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from replicad.dirtymap.bitmap import PAGE_WORDS, Bitmap, Index
from replicad.dirtymap.search import Found


class Described(NamedTuple):
    """A bitmap for people and for memory: its first runs ``(first, end)`` exactly, how many there
    are, and runs that cover all of them."""

    runs: list[tuple[int, int]]
    total: int
    hulls: list[tuple[int, int]]


def describe(bits: Bitmap, most: int) -> Described:
    """At most ``most`` runs and at most ``most`` hulls of a bitmap, page by page."""
    runs: list[tuple[int, int]] = []
    hulls: list[tuple[int, int]] = []
    count, last = 0, -1
    for starts, ends in _runs_by_page(bits):
        pairs = list(zip(starts[:most].tolist(), ends[:most].tolist(), strict=True))
        wide = list(zip(*_narrowed(starts, ends, most), strict=True))
        joins = int(starts[0]) == last
        count += len(starts) - joins
        if joins:
            if runs[-1][1] == last:
                runs[-1] = (runs[-1][0], pairs[0][1])
                pairs = pairs[1:]
            hulls[-1] = (hulls[-1][0], wide[0][1])
            wide = wide[1:]
        runs += pairs[: most - len(runs)]
        hulls += wide
        if len(hulls) > 4 * most:
            hulls = hull(hulls, most)
        last = int(ends[-1])
    return Described(runs, count, hull(hulls, most))


def hull(runs: Sequence[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """At most ``most`` ascending runs ``(first, end)`` that cover the given ones: those with the
    smallest gaps between them are joined (pure)."""
    if len(runs) <= most:
        return list(runs)
    array = np.array(runs, dtype=np.int64)
    return list(zip(*_narrowed(array[:, 0], array[:, 1], most), strict=True))


def _narrowed(starts: Index, ends: Index, most: int) -> tuple[list[int], list[int]]:
    if len(starts) > most:
        gaps = starts[1:] - ends[:-1]
        kept = np.sort(np.argsort(gaps, kind="stable")[len(gaps) - (most - 1) :])
        starts = starts[np.concatenate(([0], kept + 1))]
        ends = ends[np.concatenate((kept, [len(ends) - 1]))]
    return starts.tolist(), ends.tolist()


def _runs_by_page(bits: Bitmap) -> Iterator[tuple[Index, Index]]:
    for page in np.flatnonzero(bits.pages).tolist():
        words = bits.words[page * PAGE_WORDS : (page + 1) * PAGE_WORDS]
        some = np.flatnonzero(words)
        if some.size:
            yield Found(some + page * PAGE_WORDS, words[some]).runs()
