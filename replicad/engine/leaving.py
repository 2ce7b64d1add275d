"""Leaving out what nobody uses: when it is looked for, and that it happens in the one right order.

The question what is of no use (:mod:`replicad.unused`) and the marks of what was written meet in
the dirty map, and a mark must never fall between the question and its consequence. So a drain and
:meth:`Leaving.leave_out`, which asks and carries out in one go, exclude each other: both live in
the thread that drains the tracker, but for the drains of a freeze, which find it idle. A lock of
the disk set makes sure of that. :meth:`Handover.of_use` is called while a drain hands over.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from protocol.local import log
from replicad.dirtymap.bitmap import WORD_BITS, range_mask
from replicad.freeze.mounts import mounts_to_freeze
from replicad.jobdisk import JobDisk
from replicad.recovery import FOREIGN_FLAG
from replicad.unused import Range, free_space, inner, on_disk, swap_areas

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from protocol.wire.jobs import FreeSpacePolicy

WORTH = 1 << 30
"""bytes that leaving out must spare a pass, with the policy ``auto``. Below it a copy that is
identical byte for byte is worth more than the second that it costs."""

LEAST = 16 << 20
"""bytes that a pass must have before it for anything to be asked, with the policy ``skip``."""

_log = log.get("leaving")


class Leaving:
    """Of the disks of one job. Every method is called with the disk set's lock held."""

    def __init__(self) -> None:
        self._policy: FreeSpacePolicy = "copy"

    def handover(self) -> Handover:
        """A drain begins."""
        return Handover(self)

    def swap(self, disk: JobDisk) -> list[Range]:
        """The granules ``(first, count)`` of a disk that are swap and of no use now."""
        if self._policy == "copy":
            return []
        areas = on_disk(swap_areas(), _device(disk))
        return list(inner(areas, disk.granule, disk.size))

    def leave_out(self, disks: Sequence[JobDisk], policy: FreeSpacePolicy) -> None:
        """Before a pass: what would travel in it and is of no use need not.

        Args:
            disks: tracked, each with its map. Without a tracker a block that is taken into use
                after the question would go unnoticed.
            policy: the job's.
        """
        self._policy = policy
        for disk in disks:
            held = disk.live_map
            if policy == "copy":
                if held.left_out_bytes:
                    held.bring_back(time.monotonic())
            elif FOREIGN_FLAG not in held.header.flags:
                self._leave_out(disk, WORTH if policy == "auto" else LEAST)

    def _leave_out(self, disk: JobDisk, worth: int) -> None:
        held, begun = disk.live_map, time.monotonic()
        gone = sum(held.leave_out(*each) for each in self.swap(disk))
        if held.dirty_bytes + held.suspect_bytes >= worth:
            with free_space(_device(disk), mounts_to_freeze([disk.path])) as free:
                lacking = sum(
                    held.lacking_within(*each) for each in inner(free, disk.granule, disk.size)
                )
                if lacking * disk.granule >= min(worth, WORTH):
                    free.rely()
                    ranges = inner(free, disk.granule, disk.size)
                    gone += sum(held.leave_out(*each) for each in ranges)
        if gone:
            held.rest()
            _log.info(
                "unused.left_out",
                disk=disk.path,
                bytes=gone * disk.granule,
                seconds=round(time.monotonic() - begun, 3),
            )


def _device(disk: JobDisk) -> str:
    """The disk whose writes are recorded, whatever its path may lead to now."""
    return f"{disk.tracked.major}:{disk.tracked.minor}" if disk.tracked else ""


class Handover:
    """One drain. What is swap is looked up for each disk when the tracker hands the first bits of
    a bitmap over: they had been set before. It may hand over two of one disk, what an interrupted
    drain left and then what is set until now, so after each bitmap it is looked up again."""

    def __init__(self, leaving: Leaving) -> None:
        self._leaving = leaving
        self._swap: dict[str, list[Range]] = {}

    def handed(self, disk: JobDisk) -> None:
        """One bitmap of a disk has been handed over. What comes now may have been set later."""
        self._swap.pop(disk.path, None)

    def of_use(
        self, disk: JobDisk, first_word: int, words: NDArray[np.uint64]
    ) -> NDArray[np.uint64]:
        """The words without the bits of what is of no use, which the map has been told."""
        if disk.path not in self._swap:
            self._swap[disk.path] = self._leaving.swap(disk)
        for first, count in self._swap[disk.path]:
            low = max(first, first_word * WORD_BITS)
            end = min(first + count, (first_word + words.size) * WORD_BITS)
            if low >= end:
                continue
            place, mask = range_mask(low, end - low)
            at = slice(place.start - first_word, place.stop - first_word)
            in_vain = words[at] & mask
            if in_vain.any():
                words = words.copy()
                words[at] &= ~mask
                disk.live_map.written_in_vain(place.start, in_vain)
        return words
