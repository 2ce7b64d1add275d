"""What comes back from the receiver, carried into the dirty maps: here and nowhere else.

An ack makes a batch of content clean. For a batch of digests the diff comes first: which blocks
differ, and what the receiver's small blocks in them hash to. With its ack, which says that what
was hashed there is durable, the batch either is equal, or a sender looks closer at those blocks; it
needs no second answer.

On the loop's thread only.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from protocol.errors import INTERNAL, PROTOCOL, Fault
from protocol.local import crash, log
from protocol.wire.frames import Ack, Diff, Pong
from replicad.comparison import Range, differing_granules, heard
from replicad.feed import Feed, Work

if TYPE_CHECKING:
    from replicad.jobdisk import JobDisk
    from replicad.sender import Sender

_log = log.get("transfer")


class Answers:
    """Of one transfer.

    Args:
        disks: by number.
        connections: how many the session has.

    Attributes:
        acked_bytes: logical bytes that were durably acknowledged.
        zeros: those of them that were zero.
        compared_batches: batches of digests that are done with.
    """

    def __init__(self, feed: Feed, disks: Mapping[int, JobDisk], connections: int) -> None:
        self.acked_bytes = self.zeros = self.compared_batches = 0
        self._feed = feed
        self._disks = disks
        self._acked = [0] * connections

    def hear(self, sender: Sender, frame: object, payload: bytes) -> None:
        """Take an answer to what a sender has sent.

        Raises:
            Fault: it cannot be true (PROTOCOL), or we cannot carry it in.
        """
        with _told():
            if isinstance(frame, Diff):
                self._differs(sender, frame, payload)
            elif isinstance(frame, Ack):
                crash.here("transfer.ack_heard")
                batches = sender.acknowledge(frame)
                self._remember(sender.index, frame.sequence)
                for batch in batches:
                    self._acknowledged(self._feed.find(batch))
            elif not isinstance(frame, Pong):
                raise PROTOCOL.peer(detail=f"a {type(frame).__name__} from the receiver")

    def looked_closer(self, work: Work, found: Sequence[Range]) -> None:
        """A sender has compared the small blocks of a work: these ranges differ.

        Raises:
            Fault: we cannot carry it in.
        """
        with _told():
            work.disk.carried(work.size, 0)
            self._compared(work, found)

    def _differs(self, sender: Sender, diff: Diff, payload: bytes) -> None:
        batch = sender.differs(diff)
        if batch is None:
            return
        work = self._feed.find(batch)
        try:
            work.answer = heard(work.ranges, payload)
        except ValueError as error:
            raise PROTOCOL.peer(detail=f"a diff of {error}") from error
        crash.here("transfer.diff_heard")

    def _remember(self, index: int, sequence: int) -> None:
        """In every map, before anything in it becomes clean: what the receiver must know."""
        self._acked[index] = sequence + 1
        for disk in self._disks.values():
            disk.remember(tuple(self._acked))

    def _acknowledged(self, work: Work) -> None:
        disk, size = work.disk, work.size
        if work.stage == "data":
            disk.carried(size, size)
            disk.live_map.acked(work.batch)
            crash.here("transfer.acked")
            disk.pass_done += size
            self.acked_bytes += size
            self.zeros += work.zeros
            self._feed.answered(work)
            return
        disk.carried(size, 0)
        answer = work.answer
        assert answer is not None  # an ack before its diff was refused
        if answer.ranges:
            self._feed.push(work.closer(answer))
            crash.here("transfer.finer")
        else:
            self._compared(work, ())

    def _compared(self, work: Work, found: Sequence[Range]) -> None:
        self.compared_batches += 1
        if work.verdict is not None:
            work.verdict(work, found)
        else:
            disk, batch = work.disk, work.batch
            granules = differing_granules(batch, found, disk.granule) if found else ()
            disk.live_map.compared(batch, granules, time.monotonic())
            differing_bytes = sum(count for _, count in granules) * disk.granule
            disk.differing_bytes += differing_bytes
            # What differs counts as done when it has been sent, the rest of the batch now.
            disk.pass_done += max(0, batch.bytes(disk.granule, disk.size) - differing_bytes)
        self._feed.answered(work)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """A bug becomes a fault: the loop would log it, and never hear an answer again."""
    try:
        yield
    except Fault:
        raise
    except Exception as error:
        _log.exception("transfer.bug")
        raise INTERNAL.fault(detail=f"{type(error).__name__}: {error}") from error
