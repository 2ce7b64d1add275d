"""What a frame does: content goes to a disk, digests become an answer.

Runs in a worker, between the opened frame and its number being called *written*. Everything
that could take long is cut into steps, and between two steps it is asked whether the session
is still wanted, so that a fence never waits for a terabyte of zeros.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

import xxhash

from protocol.errors import DISK_NOT_OF_JOB, PROTOCOL, SESSION_FENCED
from protocol.local import crash
from protocol.wire.blocks import BlockHasher, portions
from protocol.wire.frames import Data, Digests, Segment, block_count
from protocol.wire.limits import DIGEST_SIZE
from receiver.turns import turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from receiver.disk import IntermediateDisk

HOLE_LEAST = 256 << 10
"""Bytes below which it is not asked whether they are a hole: reading zeros takes as long."""

RANGES_AT_ONCE = 16
"""Ranges that are read before it is asked again whether the session is wanted: those of a
comparison's second stage fill a buffer, and a dying disk may take seconds for each."""

ZERO_STEP = 256 << 20
"""Bytes that are zeroed in one call: a device that must write them takes a second or less."""


class Target(Protocol):
    """What frames are applied to: the disks of one session, for as long as it lives."""

    @property
    def over(self) -> bool:
        """Nothing may be written any more: fenced, or a disk failed."""

    @property
    def still(self) -> bool:
        """The disks stand at a checkpoint and must not change."""

    def disk(self, number: int) -> IntermediateDisk | None:
        """The disk with this number, if the session has it."""


class Applier:
    """Applies the frames of one data connection, in order, in one thread at a time."""

    def __init__(self, target: Target, seed: int) -> None:
        self._target = target
        self._seed = seed
        self._hasher: BlockHasher | None = None

    def data(self, frame: Data, content: memoryview) -> int:
        """Write one DATA frame.

        Args:
            content: verified; that of the frame's segments, one after the other.

        Returns:
            Logical bytes, zeros included.

        Raises:
            PeerFault: not of this session, or not now.
            LocalFault: the disk failed; nothing of the frame may be believed.
        """
        disk = self._disk(frame.disk, frame.segments)
        pieces = []
        at = logical = 0
        for offset, length, zero in frame.segments:
            if zero:
                self._zero(disk, offset, length)
            else:
                pieces.append((offset, content[at : at + length]))
                at += length
            logical += length
        if pieces:
            disk.write_pieces(pieces)
        return logical

    def digests(self, frame: Digests, payload: memoryview, scratch: memoryview) -> bytes:
        """Compare our blocks with the source's digests: a bit for each, 1 where they differ.

        Raises:
            PeerFault, LocalFault: as for :meth:`data`.
        """
        disk = self._disk(frame.disk, frame.ranges)
        if not frame.medium:
            return self._differing(disk, frame, payload, scratch)
        # Before: so that what is read is what the medium holds. After: a verification of
        # everything should not push everything else out of the page cache.
        first, last = frame.ranges[0], frame.ranges[-1]
        extent = first.offset, last.offset + last.length - first.offset
        disk.forget(*extent)
        try:
            return self._differing(disk, frame, payload, scratch)
        finally:
            disk.forget(*extent)

    def _differing(
        self, disk: IntermediateDisk, frame: Digests, payload: memoryview, scratch: memoryview
    ) -> bytes:
        block, hasher = frame.block, self._hasher
        if hasher is None or hasher.buffer is not scratch:
            hasher = self._hasher = BlockHasher(scratch, self._seed)
        bits = bytearray(-(-block_count(frame) // 8))
        blocks = len(scratch) // block
        ranges = [(offset, length) for offset, length, _ in frame.ranges]
        number = 0
        for some in portions(ranges, block, blocks, RANGES_AT_ONCE):
            self._refuse_if_over()
            mine = self._block_digests(disk, some, block, hasher)
            first, number = number, number + len(mine)
            theirs = bytes(payload[first * DIGEST_SIZE : number * DIGEST_SIZE])
            if b"".join(mine) == theirs:
                continue
            for at, (digest, (other,)) in enumerate(zip(mine, _each(theirs), strict=True), first):
                if digest != other:
                    bits[at >> 3] |= 1 << (at & 7)
        return bytes(bits)

    def _block_digests(
        self,
        disk: IntermediateDisk,
        ranges: Sequence[tuple[int, int]],
        block: int,
        hasher: BlockHasher,
    ) -> list[bytes]:
        """What our blocks of these ranges hash to; together they fit into the hasher's buffer."""
        found: list[bytes] = []
        for hole, some in groupby(ranges, lambda each: _is_hole(disk, *each)):
            group = list(some)
            lengths = [length for _, length in group]
            if hole:
                found += [
                    _zero_digest(min(block, length - at), self._seed)
                    for length in lengths
                    for at in range(0, length, block)
                ]
                continue
            disk.read(group, hasher.buffer)
            with turn:
                found += hasher.digests(lengths, block)
        return found

    def _zero(self, disk: IntermediateDisk, offset: int, length: int) -> None:
        for start in range(offset, offset + length, ZERO_STEP):
            self._refuse_if_over()
            disk.zero(start, min(ZERO_STEP, offset + length - start))
            crash.here("segment.zeroed")

    def _disk(self, number: int, segments: tuple[Segment, ...]) -> IntermediateDisk:
        """The disk that a frame names, if all of the frame lies on it."""
        self._refuse_if_over()
        if self._target.still:
            raise PROTOCOL.peer(detail="content while the disks stand at a checkpoint")
        disk = self._target.disk(number)
        if disk is None:
            raise DISK_NOT_OF_JOB.peer(disk=number)
        last = segments[-1]  # they ascend: the decoder has seen to it
        if last.offset + last.length > disk.size:
            raise DISK_NOT_OF_JOB.peer(disk=f"{number} beyond its end")
        return disk

    def _refuse_if_over(self) -> None:
        if self._target.over:
            raise SESSION_FENCED.peer()


@lru_cache(maxsize=256)  # a few lengths for each session's seed
def _zero_digest(length: int, seed: int) -> bytes:
    return xxhash.xxh3_128_digest(bytes(length), seed)


def _is_hole(disk: IntermediateDisk, offset: int, length: int) -> bool:
    return length >= HOLE_LEAST and disk.is_hole(offset, length)


_each = struct.Struct(f"{DIGEST_SIZE}s").iter_unpack
"""The digests of a payload, each a tuple of one."""
