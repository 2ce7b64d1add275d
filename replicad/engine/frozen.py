"""Between freeze and thaw: find out what is dirty, and read it into memory that is locked.

Nothing here may wait for a frozen filesystem: memory was reserved before, the maps lie in a
tmpfs, logs are held back, and the disks are read past the page cache.

A disk without a filesystem cannot be frozen. There the tracker proves that it stood still: what
was drained at the beginning must be all. Without a tracker everything is compared while frozen.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from concurrent.futures import Executor, wait
from dataclasses import dataclass, field
from pathlib import Path

from protocol.errors import DISK_BUSY_UNMOUNTED, FREEZE_TOO_LONG
from protocol.link.buffers import Buffer, CannotLockError
from protocol.wire.messages import Consistency
from replicad import forecast
from replicad.engine.disks import DiskSet
from replicad.engine.passes import run_pass
from replicad.feed import Work
from replicad.freeze.busy import is_busy_unmounted
from replicad.freeze.freezer import Freezer
from replicad.planner import take_everything
from replicad.transfer import Transfer

ARENA_LEAST = 32 << 20
ARENA_MOST = 512 << 20
"""Bytes of locked memory for what is read while frozen: room for what is written between the
last delta pass and the freeze, and never so much that the server feels it."""

PAGE = 4096

READERS = 4
"""Threads that read while frozen: enough queue depth for a disk, few enough for two cores."""


@dataclass(slots=True)
class Exact:
    """What was read of one instant. The memory goes when the works' views of it are gone.

    ``frozen_seconds`` is filled in after the thaw; ``taken`` is RFC 3339 UTC.
    """

    works: list[Work]
    consistency: Consistency
    frozen_seconds: float = 0.0
    taken: str = field(default_factory=lambda: now_text())


def now_text() -> str:
    """This instant, RFC 3339 UTC with milliseconds."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Frozen:
    """One frozen moment: what is needed in it, reserved beforehand.

    Attributes:
        mounted: whether there is anything to freeze.
    """

    def __init__(
        self,
        disks: DiskSet,
        transfer: Transfer,
        freezer: Freezer,
        mounted: bool,
        with_filesystem: frozenset[str],
        workers: Executor,
    ) -> None:
        self.disks = disks
        self.transfer = transfer
        self.freezer = freezer
        self.mounted = mounted
        self.workers = workers
        self._bare = [disk for disk in disks.disks if disk.path not in with_filesystem]
        self._arena: Buffer | None = None
        self._works: list[Work] = []
        self._before: dict[str, tuple[int, int, int]] = {}
        self._loop = asyncio.get_running_loop()

    @property
    def consistency(self) -> Consistency:
        """``crash`` as soon as one disk is only known to have stood still."""
        return "crash" if self._bare else "filesystem"

    def reserve(self) -> None:
        """Memory for what will be read, made before the freeze. In a worker thread.

        Raises:
            LocalFault: DISK_BUSY_UNMOUNTED when a disk without a filesystem is held by others.
        """
        self._refuse_busy()
        if not self.disks.tracked:
            return
        wanted = 4 * sum(disk.live_map.dirty_bytes for disk in self.disks.disks)
        most = max(ARENA_LEAST, min(ARENA_MOST, available_memory() // 8))
        self._arena = Buffer(min(most, max(2 * ARENA_LEAST, wanted)))
        try:
            self._arena.lock()
        except CannotLockError:
            # It exists and was touched; without swap nothing takes it away in a second.
            return

    def _refuse_busy(self) -> None:
        for disk in self._bare:
            if disk.tracked is not None:
                continue  # its tracker will tell whether it really was written
            if reason := is_busy_unmounted(disk.path):
                raise DISK_BUSY_UNMOUNTED.fault(path=disk.path, detail=reason)
            self._before[disk.path] = _stamp(disk.path)

    def fits_memory(self) -> bool:
        """Whether what is dirty now can be read into memory in the time that is left.

        Raises:
            LocalFault: FREEZE_TOO_LONG when neither reading nor sending it would fit.
        """
        maps = [disk.live_map for disk in self.disks.disks]
        dirty = sum(held.dirty_bytes for held in maps)
        granules = sum(held.dirty_granules for held in maps)
        rates = forecast.Rates(read=self.transfer.read_rate, send=self.transfer.send_rate)
        assert self._arena is not None
        fits = dirty + PAGE * len(maps) <= self._arena.size
        if fits:
            seconds = forecast.freeze_seconds(dirty, granules // 4, rates, fixed=0.0)
        else:
            seconds = dirty / rates.send if rates.send else float("inf")
        if self.mounted and seconds > self.freezer.remaining:
            raise FREEZE_TOO_LONG.fault(
                forecast=seconds,
                budget=self.freezer.budget,
                detail=f"{dirty / 1e6:.1f} MB were written since the last pass",
            )
        return fits

    def plan(self) -> list[Work]:
        """Everything that is dirty now, in flight, with places in the reserved memory."""
        assert self._arena is not None
        at = 0
        for disk in self.disks.disks:
            for batch in take_everything(disk.live_map, disk.number):
                work = Work(disk, batch, "data", batch.ranges(disk.granule, disk.size))
                self._works.append(work)
                work.frozen = self._arena.view[at : at + work.size]
                at += -(-work.size // PAGE) * PAGE
        return self._works

    def read(self, works: Sequence[Work]) -> None:
        """Read some of the planned works; several threads do it at once."""
        for work in works:
            assert work.frozen is not None
            work.disk.reader.read(work.ranges, work.frozen)

    async def still(self) -> None:
        """Check that the disks that could not be frozen stood still.

        Raises:
            LocalFault: DISK_BUSY_UNMOUNTED.
        """
        if self._bare:
            await self._loop.run_in_executor(self.workers, self._still)

    def _still(self) -> None:
        if any(disk.tracked is not None for disk in self._bare):
            self.disks.drain_now()
        for disk in self._bare:
            reason = None
            if disk.tracked is not None:
                if disk.live_map.dirty_granules:
                    reason = is_busy_unmounted(disk.path) or "it was written meanwhile"
            elif _stamp(disk.path) != self._before[disk.path]:
                reason = "it was written meanwhile"
            else:
                reason = is_busy_unmounted(disk.path)
            if reason:
                raise DISK_BUSY_UNMOUNTED.fault(path=disk.path, detail=reason)

    def exact(self) -> Exact:
        """What has been read."""
        return Exact(list(self._works), self.consistency)

    def give_up(self) -> None:
        """The instant is lost: what was taken is dirty again. Nobody reads any more."""
        for work in self._works:
            work.disk.live_map.lost(work.batch)
        self._works.clear()


async def read_frozen(frozen: Frozen) -> Exact:
    """Drain, plan, read: with a tracker."""
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(frozen.workers, frozen.disks.drain_now)
    if not frozen.fits_memory():
        # More than memory was reserved for, but the line is fast enough: send it while frozen.
        await run_pass(frozen.transfer, frozen.disks)
        return frozen.exact()
    works = frozen.plan()
    reads = [
        frozen.workers.submit(frozen.read, works[start::READERS])
        for start in range(min(READERS, len(works)))
    ]
    try:
        await asyncio.gather(*map(asyncio.wrap_future, reads))
    finally:
        # Also when cancelled: what a thread still reads cannot be called dirty again yet.
        await loop.run_in_executor(None, wait, reads)
    return frozen.exact()


async def compare_frozen(frozen: Frozen) -> Exact:
    """Without a tracker: compare everything, and send what differs, while frozen.

    Raises:
        LocalFault: FREEZE_TOO_LONG when filesystems would have to stay frozen for too long.
    """
    frozen.disks.suspect_untracked()
    await frozen.disks.drain()
    if frozen.mounted:
        size = sum(disk.size for disk in frozen.disks.disks)
        seconds = forecast.freeze_seconds(
            size, 0, forecast.Rates(read=frozen.transfer.read_rate), fixed=0.0
        )
        if seconds > frozen.freezer.remaining:
            raise FREEZE_TOO_LONG.fault(
                forecast=seconds,
                budget=frozen.freezer.budget,
                detail="writes are not tracked, so all of it would be compared while frozen",
            )
    await run_pass(frozen.transfer, frozen.disks)
    return frozen.exact()


def available_memory() -> int:
    """Bytes that the kernel thinks it could give out without swapping (proc(5), meminfo)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _stamp(path: str) -> tuple[int, int, int]:
    """What changes when a regular file is written."""
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
