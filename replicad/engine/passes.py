"""One pass: a sweep over what is dirty or suspect on all disks of the job.

Dirty granules are sent; suspect ones are compared, and what differs becomes dirty. In a compare
pass what has been found to differ is sent every now and then, not at once: a block that is
written all the time would otherwise be sent with every batch. A pass is over when its sweep has
come to the end and every batch of it has a durable answer.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from protocol.local import log
from replicad.dirtymap import Batch
from replicad.engine.disks import DiskSet
from replicad.feed import Stage, Work
from replicad.jobdisk import JobDisk
from replicad.planner import Sweep
from replicad.transfer import Transfer

TAKE = 16
"""Batches that are planned at once: fewer do not spread the cost of a search (measured), more
make the tail long."""

RESWEEP = 64
"""Compare batches (of 16 MiB) after which what differs so far is sent."""


_log = log.get("pass")


class DiskSweep:
    """What is left to plan on one disk."""

    def __init__(self, disk: JobDisk, extent: Callable[[], int]) -> None:
        self._disk = disk
        self._extent = extent
        self._map = disk.live_map
        self._data = Sweep(self._map, disk.number, "data")
        self._compare = Sweep(self._map, disk.number, "compare")
        self._compared = 0

    def take(self) -> Sequence[Work]:
        """More work, already in flight; empty when this disk's part of the pass is planned."""
        self._data.resize(self._extent())
        if not self._data.done and (batches := self._data.take_many(TAKE)):
            return [self._work(batch, "data") for batch in batches]
        if self._compare.done or not self._map.suspect_granules:
            return ()
        self._compared += 1
        if self._compared % RESWEEP == 0:
            self._data = Sweep(self._map, self._disk.number, "data")
        batch = self._compare.take()
        return [self._work(batch, "coarse")] if batch else ()

    def _work(self, batch: Batch, stage: Stage) -> Work:
        ranges = batch.ranges(self._disk.granule, self._disk.size)
        return Work(self._disk, batch, stage, ranges)


class JobSweep:
    """A sweep over all disks of a set that differ, in turn, so that all advance together.

    Args:
        whole: end it as soon as something cannot be read, because it is all or nothing.
    """

    def __init__(self, disks: DiskSet, *, whole: bool = False) -> None:
        self._disks = disks
        self._whole = whole
        self._left = deque(
            DiskSweep(disk, disks.extent_bytes) for disk in disks.disks if disk.differs
        )

    def refill(self) -> Sequence[Work]:
        """What sender threads are driven with."""
        while self._left and not (self._whole and self._disks.unreadable):
            work = self._left[0].take()
            if work:
                self._left.rotate(-1)
                return work
            self._left.popleft()
        return ()


async def run_pass(transfer: Transfer, disks: DiskSet, *, whole: bool = False) -> None:
    """Make one pass; what comparing finds to differ at its end is sent in a second sweep. What
    cannot be read stays dirty; ``whole``: then the pass ends early.

    Raises:
        Fault: the transfer has failed.
    """
    begun, before = (
        time.monotonic(),
        (transfer.acked_bytes, transfer.wire_bytes, transfer.read_bytes),
    )
    for disk in disks.disks:
        disk.begin_pass()
    kinds = {disk.path: disk.kind for disk in disks.disks if disk.kind != "idle"}
    level = _log.info if set(kinds.values()) - {"delta"} else _log.debug
    if not whole:  # not while something is frozen: telling takes the loop's time
        disks.bell.ring()
    level("pass.began", disks=kinds, bytes=sum(disk.pass_total for disk in disks.disks))
    try:
        await transfer.send(JobSweep(disks, whole=whole).refill)
        if any(disk.kind == "compare" and disk.live_map.dirty_granules for disk in disks.disks):
            await transfer.send(JobSweep(disks, whole=whole).refill)
    except BaseException:
        for disk in disks.disks:
            disk.break_off()
        if not whole:
            disks.bell.ring()
        raise
    for disk in disks.disks:
        disk.end_pass()
    if not whole:
        disks.bell.ring()
    level(
        "pass.ended",
        disks=kinds,
        sent_bytes=transfer.acked_bytes - before[0],
        wire_bytes=transfer.wire_bytes - before[1],
        read_bytes=transfer.read_bytes - before[2],
        differing_bytes=sum(disk.differing_bytes for disk in disks.disks),
        seconds=round(time.monotonic() - begun, 3),
    )
