"""The source's kernel: a disk, the writes under way, and the tracker's programs and maps.

Marks go into real bitmaps (the hierarchy of :mod:`replicad.tracker.bitmap`, in memory files), and
the real :class:`~replicad.tracker.EbpfTracker` drains them: flip, wait, hand over, clear. Only the
table of slots, which needs BPF system calls, is played.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from replicad.tracker import EbpfTracker, bitmap
from replicad.tracker.disk import SECTOR, BlockDevice
from replicad.tracker.layout import Slot, State
from replicad.tracker.window import KernelBitmap

GRANULE = 4096
GRANULES = 70
SIZE = GRANULES * GRANULE - 1024
HALF = GRANULE // 2
PATH = "/dev/sim"
MAJOR, MINOR = 259, 0

Span = tuple[int, int]


class Write:
    """A write from its queueing to its end: which bytes, and how far the medium has it."""

    def __init__(self, offset: int, content: bytes) -> None:
        self.offset = offset
        self.content = content
        self.landed = 0

    @property
    def granules(self) -> Span:
        end = self.offset + len(self.content)
        return self.offset // GRANULE, -(-end // GRANULE)


class Kernel:
    """One boot. ``disk`` outlives it. ``mark_at`` says at which steps a write is marked:
    request-based disks when it has landed, bio-based ones when it is queued as well."""

    boots = 0

    def __init__(self, disk: bytearray, mark_at: frozenset[str]) -> None:
        Kernel.boots += 1
        self.boot = f"boot-{Kernel.boots}"
        self.disk = disk
        self.mark_at = mark_at
        self.writes: list[Write] = []
        self.geometry = bitmap.Geometry.of(GRANULES)
        self.state = State()
        self.skipped = [0, 0, 0]
        self.slot = Slot()
        self.tokens = 0
        self._sides = [self._make(side) for side in (0, 1)]

    def _make(self, side: int) -> tuple[int, mmap.mmap, Any]:
        fd = os.memfd_create(f"bitmap-{side}")
        os.ftruncate(fd, self.geometry.words * 8)
        mapped = mmap.mmap(fd, self.geometry.words * 8)
        return fd, mapped, np.frombuffer(mapped, np.uint64)

    def close(self) -> None:
        for fd, _, _ in self._sides:
            os.close(fd)
        self._sides = []

    # --- writes -------------------------------------------------------------------------------

    def queue(self, offset: int, content: bytes, *, seen: bool = True) -> None:
        write = Write(offset, content)
        self.writes.append(write)
        if seen and "queue" in self.mark_at:
            self._mark(write)

    def land(self, which: int, size: int, *, seen: bool = True) -> None:
        """Some more of a write reaches the medium; at its end it is complete."""
        write = self.writes[which]
        end = min(write.landed + size, len(write.content))
        at = write.offset
        self.disk[at + write.landed : at + end] = write.content[write.landed : end]
        write.landed = end
        if end == len(write.content):
            del self.writes[which]
            if seen and "completion" in self.mark_at:
                self._mark(write)

    def miss(self, hook: int) -> None:
        """Nobody saw an event of a hook, which is counted."""
        self.skipped[hook] += 1

    def _mark(self, write: Write) -> None:
        if self.slot.generation:
            first, end = write.granules
            bitmap.mark(self.geometry, self._sides[self.slot.active & 1][2], first, end)

    def marked(self) -> np.typing.NDArray[np.bool_]:
        """The granules that either bitmap holds."""
        found = np.zeros(GRANULES, np.bool_)
        levels = self.geometry.levels
        for _, _, words in self._sides:
            low = words[levels[0].first : levels[0].first + levels[0].words].copy()
            for level in levels[1:]:
                upper = bitmap.bits_of(words[level.first : level.first + level.words])
                low[upper[: low.size]] = bitmap.FULL
            found |= bitmap.bits_of(low)[:GRANULES]
        return found

    def busy(self) -> np.typing.NDArray[np.bool_]:
        """The granules of writes under way."""
        found = np.zeros(GRANULES, np.bool_)
        for write in self.writes:
            found[slice(*write.granules)] = True
        return found

    # --- the table of slots, as EbpfTracker uses it ---------------------------------------------

    def clear(self) -> None:
        for _, _, words in self._sides:
            words.fill(0)

    def bitmap(self, side: int) -> KernelBitmap:
        return KernelBitmap(self._sides[side][0], self.geometry)


class Table:
    """:class:`replicad.tracker.slots.SlotTable` with one slot."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.slots = {0: kernel.slot}
        self.state = kernel.state
        self.quiescence = SimpleNamespace(wait=lambda: None, order=lambda: None)

    def used(self) -> Iterator[int]:
        return iter([0] if self._kernel.slot.generation else [])

    def find(self, major: int, minor: int) -> int | None:
        return next(self.used(), None) if (major, minor) == (MAJOR, MINOR) else None

    def take(self, device: BlockDevice, misses: int) -> int:
        slot = self._kernel.slot
        self._kernel.clear()
        self._kernel.tokens += 1
        slot.sectors = device.size // SECTOR
        slot.shift = 3
        slot.dev = MAJOR << 20 | MINOR
        slot.token = self._kernel.tokens
        slot.diskseq = device.diskseq
        slot.misses_before = misses
        slot.changed = slot.lost = slot.active = slot.handed = 0
        slot.generation = 1
        return 0

    def give_back(self, identity: int) -> None:
        del identity
        self._kernel.slot.generation = 0

    def bitmaps(self, identity: int) -> tuple[KernelBitmap, KernelBitmap]:
        del identity
        return self._kernel.bitmap(0), self._kernel.bitmap(1)

    def close(self) -> None:
        """Nothing is held."""


class SimTracker(EbpfTracker):
    """The real tracker of a new process over the maps that a kernel holds."""

    def __init__(self, kernel: Kernel) -> None:
        library: Any = SimpleNamespace(recursion_misses=lambda hook: kernel.skipped[hook])
        # The instance is random at each attachment; here it is not, so that only the boot tells.
        attached: Any = SimpleNamespace(instance=b"pins", programs=[0, 1, 2], close=lambda: None)
        self._library = library
        self._attached = attached
        self._pin_dir = Path("/nowhere")
        self._table: Any = Table(kernel)
        self._lock = threading.Lock()
        self._paths: dict[str, str] = {}
        self._settled = False
        self._realtime = False


def inspect(path: str) -> BlockDevice:
    """The simulated disk, for :mod:`replicad.tracker.disk`."""
    return BlockDevice(path, MAJOR, MINOR, SIZE, 1, bio_based=False)


def size_and_sequence(major: int, minor: int) -> tuple[int, int]:
    """The same of a device that is tracked."""
    return (SIZE, 1) if (major, minor) == (MAJOR, MINOR) else (0, 0)
