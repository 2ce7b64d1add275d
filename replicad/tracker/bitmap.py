"""The shape of a disk's bitmap and how to read it.

The kernel program marks a written range in bounded time whatever its length, because the bitmap is
a hierarchy: level 0 has a bit for each granule, level k a bit for each 64**k granules, and the last
level is one 64-bit word. The levels lie behind each other in one array of little-endian words, each
on a page boundary, followed by a summary with a bit for each page that holds a bit, so that reading
an idle bitmap reads one page. The program only ever sets bits; this module expands the upper levels
into level 0.

Pure: values in, values out. ``mark`` is the kernel program's algorithm (``bpf/tracker.bpf.c``,
``mark_granules``) in Python; tests hold both to a naive model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

type_words = NDArray[np.uint64]

WORD_BITS = 64
PAGE_WORDS = 512
"""Words under one bit of the summary: 4 KiB, the page size of most machines. Larger pages are
mapped whole.
"""
CHUNK_WORDS = 64 * PAGE_WORDS
"""Words of level 0 handed on at a time: 256 KiB, the bits of 8 GiB of disk at 4 KiB granules."""
MINIMUM_GRANULE = 4096
"""Bytes. The block size of common filesystems; coarser granules send up to 15 times what changed
(DESIGN, section 5).
"""
MAXIMUM_LEVEL0 = 32 * 1024 * 1024
"""Bytes of level 0: the bits of 1 TiB at 4 KiB granules. The kernel keeps two bitmaps per disk in
memory.
"""
MAXIMUM_LEVELS = 6
"""LEVELS of the kernel program."""
FULL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)


def granule_for(size: int) -> int:
    """Returns the granule in bytes for a disk of size bytes: 4 KiB, doubled until level 0 fits
    MAXIMUM_LEVEL0.
    """
    granule = MINIMUM_GRANULE
    while -(-size // granule) > MAXIMUM_LEVEL0 * 8:
        granule *= 2
    return granule


@dataclass(frozen=True)
class Level:
    """One level of the hierarchy: words [first, first + words), each bit worth 64**k granules."""

    first: int
    words: int


@dataclass(frozen=True)
class Geometry:
    """Where everything lies in the bitmap of a disk with this many granules. All positions are in
    words.
    """

    granules: int
    levels: tuple[Level, ...]
    summary: Level
    words: int
    """Of the whole array."""

    @classmethod
    def of(cls, granules: int) -> Geometry:
        """Lays out the bitmap of a disk of one granule or more. Raises ValueError for fewer, or for
        too many.
        """
        if granules < 1:
            raise ValueError("a disk without a granule has no bitmap")
        levels: list[Level] = []
        bits, first = granules, 0
        while True:
            words = -(-bits // WORD_BITS)
            levels.append(Level(first, words))
            first = _page_end(first + words)
            if words == 1:
                break
            bits = words
        if len(levels) > MAXIMUM_LEVELS:
            raise ValueError(
                f"{granules} granules need {len(levels)} levels; the kernel program has "
                f"{MAXIMUM_LEVELS}"
            )
        summary = Level(first, -(-first // (PAGE_WORDS * WORD_BITS)))
        return cls(granules, tuple(levels), summary, _page_end(first + summary.words))

    @property
    def upper(self) -> Level:
        """The words of the levels above 0 together, padding included. Empty on a disk of up to 64
        granules.
        """
        first = self.levels[1].first if len(self.levels) > 1 else self.summary.first
        return Level(first, self.summary.first - first)


def _page_end(word: int) -> int:
    return -(-word // PAGE_WORDS) * PAGE_WORDS


def bits_of(words: type_words) -> NDArray[np.bool_]:
    """Returns bit i of word w as element 64 * w + i."""
    return np.unpackbits(words.astype("<u8", copy=False).view(np.uint8), bitorder="little").view(
        np.bool_
    )


def pages_set(geometry: Geometry, summary: type_words) -> NDArray[np.bool_]:
    """Returns for each page of the levels whether it may hold a bit."""
    return bits_of(summary)[: geometry.summary.first // PAGE_WORDS]


def full_words(geometry: Geometry, upper: type_words) -> NDArray[np.bool_]:
    """Returns for each word of level 0 whether an upper level says that all of its granules were
    written.

    ``upper`` is the content of ``geometry.upper``; it is not changed.
    """
    origin = geometry.upper.first
    inherited = np.zeros(0, np.bool_)
    for level in reversed(geometry.levels[1:]):
        words = upper[level.first - origin : level.first - origin + level.words].copy()
        words[: inherited.size][inherited] = FULL
        below = geometry.levels[geometry.levels.index(level) - 1].words
        inherited = bits_of(words)[:below]
    return inherited


def chunks(
    geometry: Geometry, pages: NDArray[np.bool_], full: NDArray[np.bool_]
) -> Iterator[tuple[int, int]]:
    """Yields [first, end) in words of level 0, at most CHUNK_WORDS each, that together cover all
    that is set.

    ``pages`` comes from pages_set(), ``full`` from full_words() or is empty.
    """
    words = geometry.levels[0].words
    touched = pages[: -(-words // PAGE_WORDS)].copy()
    if full.size:
        touched |= np.add.reduceat(full, np.arange(0, words, PAGE_WORDS)).astype(np.bool_)
    per_chunk = CHUNK_WORDS // PAGE_WORDS
    for start in range(0, touched.size, per_chunk):
        (set_pages,) = touched[start : start + per_chunk].nonzero()
        if set_pages.size:
            first = (start + int(set_pages[0])) * PAGE_WORDS
            yield first, min((start + int(set_pages[-1]) + 1) * PAGE_WORDS, words)


def mark(geometry: Geometry, words: type_words, first: int, end: int) -> None:
    """Marks granules [first, end) in the array exactly as the kernel program does."""
    for level in geometry.levels:
        head, tail = first >> 6, (end - 1) >> 6
        from_first = ~((1 << (first & 63)) - 1)
        to_last = (1 << (((end - 1) & 63) + 1)) - 1
        if head == tail:
            _set(geometry, words, level.first + head, from_first & to_last)
            return
        if first & 63:
            _set(geometry, words, level.first + head, from_first)
            head += 1
        if end & 63:
            _set(geometry, words, level.first + tail, to_last)
        else:
            tail += 1
        if head >= tail:
            return
        first, end = head, tail


def _set(geometry: Geometry, words: type_words, word: int, mask: int) -> None:
    words[word] |= np.uint64(mask & int(FULL))
    page = word // PAGE_WORDS
    words[geometry.summary.first + page // WORD_BITS] |= np.uint64(1 << (page % WORD_BITS))
