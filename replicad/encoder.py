"""From a buffer of content to a plaintext frame: find zeros, digest, compress when it pays.

The content lies at the beginning of a pooled buffer, and so does the payload of the frame
afterwards, with the meta right behind it: nothing is copied unless zeros are cut out or zstd
makes it smaller. An encoder belongs to one sender thread (zstandard's objects do too).

Zeros: a block whose first word is not zero is not zero, and looking at one word of each 4 KiB
costs 4 microseconds per MiB; only the candidates are looked at whole. Compression: three
small samples tell whether an extent is worth zstd's time (the idea is btrfs's heuristic in
fs/btrfs/compression.c), so incompressible data costs 1 % and not 100 %.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import xxhash
import zstandard

from protocol.wire.frames import RAW, ZSTD, Data, Segment, encode_meta
from replicad.compression import Tuner

BLOCK: Final = 4096
RUN_BLOCKS: Final = 16
"""Blocks of 4 KiB (64 KiB) that a run of zeros must have to be cut out of a longer segment."""

SAMPLE: Final = 8192
"""Bytes of one compression sample."""

PROMISING: Final = 0.97
"""Compressed over raw size of the samples up to which the extent is tried: a sample is too short
for what repeats at a distance (words of a text: 0.92 for a sample, 0.43 for the extent), while
random bytes never get below 1."""

WORTH: Final = 0.85
"""Compressed over raw size up to which sending the compressed form pays."""

_WORDS: Final = BLOCK // 8

Range = tuple[int, int]


class Encoded(NamedTuple):
    """A plaintext of ``size`` bytes at the beginning of the buffer, and what it carries."""

    size: int
    raw: int
    zero: int


class Encoder:
    """Makes DATA frames of disk content.

    Args:
        compress: ``auto``, ``none`` or a zstd level as text.
        tuner: chooses the level of ``auto``; one for all encoders of a job.

    Attributes:
        seconds: what compressing took so far, looking and trying included.
    """

    def __init__(self, compress: str = "auto", tuner: Tuner | None = None) -> None:
        self.seconds = 0.0
        self._tuner = tuner or Tuner()
        self._levels: dict[int, zstandard.ZstdCompressor] = {}
        self._nothing = xxhash.xxh3_128_digest(b"")
        self._probe = zstandard.ZstdCompressor(level=-1)
        self.compress = ""
        self.set_compress(compress)

    def set_compress(self, compress: str) -> None:
        """Change the mode; used from the next frame on. Called from another thread than
        :meth:`encode`."""
        self.compress = compress

    def encode(self, disk: int, ranges: Sequence[Range], buffer: memoryview) -> Encoded:
        """Turn the content of ``ranges`` (offset, length) at the beginning of ``buffer`` into
        the plaintext of a DATA frame in the same place.

        ``buffer`` has room for the content and META_MAX bytes more.
        """
        one = len(ranges) == 1  # nearly all of a full pass
        length = ranges[0][1] if one else sum(size for _, size in ranges)
        content = buffer[:length]
        digest = xxhash.xxh3_128_digest(content)
        segments: tuple[Segment, ...]
        if digest == _zero_digest(length):
            segments = tuple(Segment(offset, size, True) for offset, size in ranges)
            return self._finish(disk, RAW, 0, 0, self._nothing, segments, length, buffer)
        raw = length
        found = self._zero_blocks(content)
        if found is None:
            segments = tuple([Segment(offset, size) for offset, size in ranges])
        else:
            segments, raw = cut_zeros(ranges, found, buffer)
            if raw != length:
                digest = xxhash.xxh3_128_digest(buffer[:raw])
        payload = self._squeeze(buffer, raw)
        encoding = RAW if payload == raw else ZSTD
        return self._finish(disk, encoding, payload, raw, digest, segments, length - raw, buffer)

    def _finish(
        self,
        disk: int,
        encoding: int,
        payload: int,
        raw: int,
        digest: bytes,
        segments: tuple[Segment, ...],
        zero: int,
        buffer: memoryview,
    ) -> Encoded:
        meta = encode_meta(Data(disk, encoding, raw, digest, segments))
        end = payload + len(meta)
        buffer[payload:end] = meta
        return Encoded(end, raw, zero)

    def _zero_blocks(
        self, content: memoryview
    ) -> np.ndarray[tuple[int], np.dtype[np.bool_]] | None:
        """Which 4 KiB blocks are zero; None when none is, or when it is not whole blocks."""
        if len(content) % BLOCK:
            return None
        words = np.frombuffer(content, dtype=np.uint64)
        (candidates,) = (words[::_WORDS] == 0).nonzero()
        if not candidates.size:
            return None
        blocks = words.reshape(-1, _WORDS)
        zero = candidates[~blocks[candidates].any(axis=1)]
        if not zero.size:
            return None
        found = np.zeros(len(blocks), dtype=np.bool_)
        found[zero] = True
        return found

    def _squeeze(self, buffer: memoryview, raw: int) -> int:
        """Compress in place if it pays; the payload's size afterwards."""
        compress = self.compress
        if compress == "none" or raw < BLOCK:
            return raw
        begun = time.monotonic()
        try:
            if compress != "auto":
                return self._take(self._at(int(compress)).compress(buffer[:raw]), buffer, raw)
            return self._squeeze_if_worth(buffer, raw)
        finally:
            self.seconds += time.monotonic() - begun

    def _squeeze_if_worth(self, buffer: memoryview, raw: int) -> int:
        tuner = self._tuner
        if not tuner.worth_a_look():
            return raw
        level, above = tuner.level, tuner.next_level()
        if level is None and above is None:
            return raw
        compressed: bytes | None = None
        promising = self._promising(buffer[:raw])
        if promising and level is not None:
            compressed = self._at(level).compress(buffer[:raw])
        smallest = raw if compressed is None else len(compressed)
        if above is not None:
            # What cannot shrink counts too: the question is what the next level would do for all.
            begun = time.monotonic()
            there = len(self._at(above).compress(buffer[:raw])) if promising else raw
            tuner.tried(raw, smallest, there, time.monotonic() - begun)
            smallest = min(smallest, there)
        tuner.looked(shrank=smallest <= raw * WORTH)
        return raw if compressed is None else self._take(compressed, buffer, raw)

    def _take(self, compressed: bytes, buffer: memoryview, raw: int) -> int:
        """Put it into the buffer, unless that saves too little."""
        if len(compressed) > raw * WORTH:
            return raw
        buffer[: len(compressed)] = compressed
        return len(compressed)

    def _at(self, level: int) -> zstandard.ZstdCompressor:
        """This thread's compressor of a level."""
        if (found := self._levels.get(level)) is None:
            found = self._levels[level] = zstandard.ZstdCompressor(level=level)
        return found

    def _promising(self, content: memoryview) -> bool:
        size = len(content)
        if size <= 4 * SAMPLE:
            return True
        taken = 0
        for at in (0, (size // 2) & ~(BLOCK - 1), size - SAMPLE):
            taken += len(self._probe.compress(content[at : at + SAMPLE]))
        return taken <= 3 * SAMPLE * PROMISING


@lru_cache(maxsize=1024)
def _zero_digest(length: int) -> bytes:
    """That of so many zeros. One for all senders: 1 MiB of them is fresh memory."""
    return xxhash.xxh3_128_digest(bytes(length))


def cut_zeros(
    ranges: Sequence[Range],
    zero: np.ndarray[tuple[int], np.dtype[np.bool_]],
    buffer: memoryview,
    most: int = 256,
) -> tuple[tuple[Segment, ...], int]:
    """Divide ``ranges`` into segments with content and zero segments, and close the gaps that
    the zeros leave in ``buffer``.

    ``zero`` says for each 4 KiB block of the content whether it is all zeros. A range that is
    zero as a whole, or a run of :data:`RUN_BLOCKS` zero blocks in it, becomes a zero segment,
    as long as there are not more than ``most`` segments. Returns them and the bytes of content.
    """
    segments: list[Segment] = []
    source = target = 0
    left = len(ranges)
    for offset, length in ranges:
        left -= 1
        first, count = source // BLOCK, length // BLOCK
        pieces = _pieces(zero[first : first + count])
        if len(segments) + len(pieces) + left > most:
            pieces = [(0, count, False)]
        for start, blocks, is_zero in pieces:
            size = blocks * BLOCK
            segments.append(Segment(offset + start * BLOCK, size, is_zero))
            if not is_zero:
                at = source + start * BLOCK
                if at != target:
                    buffer[target : target + size] = buffer[at : at + size]
                target += size
        source += length
    return tuple(segments), target


def _pieces(zero: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> list[tuple[int, int, bool]]:
    """Runs (first block, blocks, zero?) of one range; short runs of zeros count as content."""
    if zero.all():
        return [(0, len(zero), True)]
    if not zero.any():
        return [(0, len(zero), False)]
    edges = np.flatnonzero(np.diff(zero.astype(np.int8), prepend=0, append=0))
    found: list[tuple[int, int, bool]] = []
    at = 0
    for first, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if end - first < RUN_BLOCKS:
            continue
        if first > at:
            found.append((at, first - at, False))
        found.append((first, end - first, True))
        at = end
    if at < len(zero):
        found.append((at, len(zero) - at, False))
    return found
