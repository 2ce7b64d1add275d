"""Digests of blocks: how both ends of a comparison hash what they have read.

A comparison is reading, this, and little else. Making a view of each block of 4 KiB anew costs as
much as hashing it, so the views of a buffer that content is read into again and again are made
once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import xxhash

Range = tuple[int, int]

SIZES_MAX = 4
"""Sizes of blocks whose views are kept; a session uses two."""


class BlockHasher:
    """xxh3-128 of blocks in one buffer, seeded with what only the two ends know
    (:attr:`~protocol.wire.crypto.SessionKeys.digest_seed`). One thread at a time.

    Attributes:
        buffer: where the content is; it stays the caller's.
    """

    __slots__ = ("_seed", "_views", "buffer")

    def __init__(self, buffer: memoryview, seed: int) -> None:
        self.buffer = buffer
        self._seed = seed
        self._views: dict[int, list[memoryview]] = {}

    def digests(self, lengths: Sequence[int], block: int) -> list[bytes]:
        """One digest of 16 bytes for each block of the ranges that lie at the beginning of the
        buffer, one behind the other. The last block of a range is shorter where its length is no
        multiple of ``block``."""
        if not any(length % block for length in lengths[:-1]):
            return self.within(0, sum(lengths), block)
        found: list[bytes] = []
        at = 0
        for length in lengths:
            found += self.within(at, length, block)
            at += length
        return found

    def within(self, at: int, length: int, block: int) -> list[bytes]:
        """The digests of the blocks of ``buffer[at : at + length]``; the last may be shorter."""
        digest, seed = xxhash.xxh3_128_digest, self._seed
        end = at + length
        if at % block:
            return [
                digest(self.buffer[start : min(start + block, end)], seed)
                for start in range(at, end, block)
            ]
        whole = end // block
        found = [digest(view, seed) for view in self._blocks(block)[at // block : whole]]
        if end % block:
            found.append(digest(self.buffer[whole * block : end], seed))
        return found

    def _blocks(self, block: int) -> list[memoryview]:
        """The whole blocks of the buffer, in order."""
        if (views := self._views.get(block)) is None:
            if len(self._views) == SIZES_MAX:
                self._views.clear()
            last = len(self.buffer) - block
            views = [self.buffer[at : at + block] for at in range(0, last + 1, block)]
            self._views[block] = views
        return views


def portions(
    ranges: Sequence[Range], block: int, blocks: int, at_most: int
) -> Iterator[list[Range]]:
    """Divides ranges into lists of at most ``at_most`` ranges and ``blocks`` blocks, for frames."""
    portion: list[Range] = []
    room = blocks
    for start, total in ranges:
        offset, length = start, total
        while length:
            if not room or len(portion) == at_most:
                yield portion
                portion, room = [], blocks
            part = min(length, room * block)
            portion.append((offset, part))
            room -= -(-part // block)
            offset, length = offset + part, length - part
    if portion:
        yield portion
