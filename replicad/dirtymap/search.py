"""Finding set bits in a large, mostly empty bitmap, and what was found as words and as runs.

Idea: the index of pages skips what holds nothing; what remains is looked at in chunks of whole
pages, as words; only the words that are not zero are kept, and only words where a run of bits
begins or ends are ever unpacked into bits. So a long run costs per word, a scattered one per
run, and an empty map next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from replicad.dirtymap.bitmap import (
    ALL,
    PAGE_BITS,
    PAGE_WORDS,
    WORD_BITS,
    Bitmap,
    Index,
    Place,
    Words,
    count_bits,
    trim,
)

if TYPE_CHECKING:
    from collections.abc import Callable

# Pages looked at together: starts with one (dense maps need no more) and doubles to this.
_CHUNK_PAGES = 16
_ONE = np.uint64(1)
_TOP = np.uint64(WORD_BITS - 1)


class Found(NamedTuple):
    """Words with bits that may be taken. ``at`` are their numbers, ascending; no word is zero."""

    at: Index
    words: Words

    def solid_from(self, granules: int) -> bool:
        """Whether this is one run of whole words that begins at a multiple of ``granules``."""
        first, last = int(self.at[0]), int(self.at[-1])
        if last - first + 1 != len(self.at) or first * WORD_BITS % granules:
            return False
        return int(np.bitwise_and.reduce(self.words)) == ALL

    def below(self, end: int) -> tuple[Place, Words]:
        """Place and mask of the bits below granule ``end``, of which at least one is set."""
        return self.between(0, end)

    def between(self, first: int, end: int) -> tuple[Place, Words]:
        """Place and mask of the bits in ``[first, end)``, of which at least one is set."""
        low = int(self.at.searchsorted(first // WORD_BITS))
        high = int(self.at.searchsorted((end - 1) // WORD_BITS, "right"))
        index, words = self.at[low:high], self.words[low:high]
        start, last = int(index[0]), int(index[-1])
        if start * WORD_BITS < first or (last + 1) * WORD_BITS > end:
            words = words.copy()
            low_bits = max(first, start * WORD_BITS)
            trim(words, start, low_bits, min(end, (last + 1) * WORD_BITS))
        if last - start + 1 == index.size:
            return slice(start, last + 1), words
        return index, words

    def runs(self) -> tuple[Index, Index]:
        """First granules and ends (exclusive) of the runs of consecutive bits."""
        index, words = self.at, self.words
        follows = np.zeros(words.size + 1, dtype=np.uint64)
        np.equal(index[1:], index[:-1] + 1, out=follows[1:-1], casting="unsafe")
        carry = np.zeros(words.size + 2, dtype=np.uint64)
        carry[1:-1] = words
        from_below = (carry[:-2] >> _TOP) & follows[:-1]
        from_above = (carry[2:] << _TOP) & (follows[1:] << _TOP)
        starts = words & ~(words << _ONE | from_below)
        ends = words & ~(words >> _ONE | from_above)
        return _positions(index, starts), _positions(index, ends) + 1


def _positions(index: Index, words: Words) -> Index:
    """The granules of all bits of ``words``, ascending."""
    some = np.flatnonzero(words)
    bits = np.unpackbits(words[some].view(np.uint8), bitorder="little")
    at = np.flatnonzero(bits)
    found: Index = index[some[at >> 6]] * WORD_BITS + (at & 63)
    return found


def search(
    bits: Bitmap, candidates: Callable[[slice], Words], cursor: int, wanted: int, granules: int
) -> Found:
    """At least ``wanted`` candidate granules at or above ``cursor``, fewer if there are no more.

    ``bits`` is the bitmap whose page index leads; ``candidates`` gives the words that may be
    taken at a place, a subset of the blocks that ``bits`` has bits in. Page hints that turn out
    wrong are corrected.
    """
    index: list[Index] = []
    words: list[Words] = []
    page, width, missing = cursor // PAGE_BITS, 1, wanted
    while missing > 0 and cursor < granules:
        page, end = _next_pages(bits, page, width)
        if page == end:
            break
        low = max(page * PAGE_WORDS, cursor // WORD_BITS)
        chunk = candidates(slice(low, end * PAGE_WORDS))
        if low * WORD_BITS < cursor:
            chunk[0] &= np.uint64(ALL << cursor % WORD_BITS & ALL)
        some = np.flatnonzero(chunk)
        if some.size:
            index.append(some + low)
            words.append(chunk[some])
            missing -= _truncate(index, words, missing)
        else:
            _correct(bits, page, end)
        page, width = end, min(2 * width, _CHUNK_PAGES)
    if len(index) == 1:
        return Found(index[0], words[0])
    if not index:
        return Found(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint64))
    return Found(np.concatenate(index), np.concatenate(words))


def _truncate(index: list[Index], words: list[Words], wanted: int) -> int:
    """Drops words of the last chunk that ``wanted`` bits do not need; returns its bits."""
    if words[-1].size * WORD_BITS <= wanted:
        return count_bits(words[-1])
    total = np.cumsum(np.bitwise_count(words[-1]), dtype=np.int64)
    keep = int(total.searchsorted(wanted)) + 1
    index[-1], words[-1] = index[-1][:keep], words[-1][:keep]
    return int(total[min(keep, total.size) - 1])


def _next_pages(bits: Bitmap, page: int, width: int) -> tuple[int, int]:
    """The next range of at most ``width`` pages that may hold bits; empty if there is none."""
    rest = bits.pages[page:]
    if not rest.size or not rest[ahead := int(rest.argmax())]:
        return page, page
    page += ahead
    run = bits.pages[page : page + width]
    length = int(run.argmin())
    return page, page + (length if not run[length] else run.size)


def _correct(bits: Bitmap, page: int, end: int) -> None:
    """Drops the hint of those pages that hold no bit."""
    words = bits.words[page * PAGE_WORDS : end * PAGE_WORDS]
    bits.pages[page:end] = words.reshape(-1, PAGE_WORDS).any(axis=1)


def spread(words: Words, per_block: int) -> Words:
    """Sets every bit of each aligned block of ``per_block`` bits (1 to 64) that has any."""
    if per_block == 1:
        return words
    folded = words.copy()
    shift = 1
    while shift < per_block:
        folded |= folded >> np.uint64(shift)
        shift *= 2
    full = (1 << per_block) - 1
    folded &= np.uint64(ALL // full)
    folded *= np.uint64(full)
    return folded


def compress(first_word: int, words: Words, granules: int) -> tuple[Place, Words]:
    """Place and mask of the bits of consecutive ``words`` that lie below ``granules``.

    Words that are zero are left out where that spares pages of the bitmap or work.
    """
    some = np.flatnonzero(words)
    if not some.size:
        return slice(first_word, first_word), words[:0]
    low, high = int(some[0]), int(some[-1]) + 1
    mask = words[low:high]
    place: Place = slice(first_word + low, first_word + high)
    if 4 * some.size < mask.size:
        mask, place = words[some], some + first_word
    last = first_word + high - 1
    if (last + 1) * WORD_BITS > granules:
        mask = mask.copy()
        mask[-1] &= np.uint64((1 << granules % WORD_BITS) - 1)
    return place, mask
