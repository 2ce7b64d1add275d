"""What a frame does: content goes to a disk, digests become an answer.

Runs in a worker, between the opened frame and its number being called *written*. Everything
that could take long is cut into steps, and between two steps it is asked whether the session
is still wanted, so that a fence never waits for a terabyte of zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from protocol.errors import DISK_NOT_OF_JOB, PROTOCOL, SESSION_FENCED
from protocol.local import crash
from protocol.wire.frames import Data, Digests, Segment
from receiver.comparing import Comparer

if TYPE_CHECKING:
    from receiver.disk import IntermediateDisk

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
        self._comparer = Comparer(seed, self._refuse_if_over)

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
        """Compare our blocks with the source's digests: the payload of the answer.

        Raises:
            PeerFault, LocalFault: as for :meth:`data`.
        """
        disk = self._disk(frame.disk, frame.ranges)
        if not frame.medium:
            return self._comparer.compare(disk, frame, payload, scratch)
        # Before: so that what is read is what the medium holds. After: a verification of
        # everything should not push everything else out of the page cache.
        first, last = frame.ranges[0], frame.ranges[-1]
        extent = first.offset, last.offset + last.length - first.offset
        disk.forget(*extent)
        try:
            return self._comparer.compare(disk, frame, payload, scratch)
        finally:
            disk.forget(*extent)

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
