"""Between freeze and thaw: find out what is dirty, and read it into memory that is locked.

Nothing here may wait for a frozen filesystem: memory was reserved before, the maps lie in a
tmpfs, logs are held back, and the disks are read past the page cache.

A disk without a filesystem cannot be frozen. There the tracker proves that it stood still: what
was drained at the beginning must be all. Without a tracker everything is compared while frozen.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from protocol.errors import CHECKPOINT_SUPERSEDED, DISK_BUSY_UNMOUNTED, FREEZE_TOO_LONG
from protocol.link.buffers import Buffer, CannotLockError
from protocol.local import crash
from protocol.wire.jobs import Consistency
from replicad import forecast
from replicad.convergence import Outlook
from replicad.engine.disks import DiskSet
from replicad.feed import Work
from replicad.freeze.busy import is_busy_unmounted
from replicad.freeze.freezer import Freezer
from replicad.jobdisk import JobDisk
from replicad.planner import NotSettledError, take_everything
from replicad.tracker import has_requests, writes_under_way
from replicad.transfer import Transfer

ARENA_LEAST = 16 << 20
"""Bytes of locked memory for what is read while frozen, at least. At most
:data:`replicad.forecast.MEMORY_BYTES`, where the machine has that."""

ARENA_SECONDS = 2.0
"""There is room for what is written in this time: between reserving it and the freeze lie hooks, a
sync and a drain."""

PAGE = 4096

READERS = 4
"""Threads that read while frozen: enough queue depth for a disk, few enough for two cores."""

START_SECONDS = 10.0
"""For the threads of the pool to start."""

THREADS = 6
"""Of the pool that works while frozen: the readers, one that steers, one to spare for the thaw."""


def now_text() -> str:
    """This instant, RFC 3339 UTC with milliseconds."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(slots=True)
class Exact:
    """One instant: how consistent it is, how long it took, and where the time went.

    ``frozen_seconds`` is filled in after the thaw; ``taken`` is RFC 3339 UTC; ``milliseconds``
    are by step, for the log; ``read_bytes`` in ``read_runs`` pieces were read.
    """

    consistency: Consistency
    frozen_seconds: float = 0.0
    taken: str = field(default_factory=now_text)
    milliseconds: dict[str, float] = field(default_factory=dict)
    read_bytes: int = 0
    read_runs: int = 0

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Count the time of a step."""
        begun = time.monotonic()
        try:
            yield
        finally:
            spent = (time.monotonic() - begun) * 1000
            self.milliseconds[name] = round(self.milliseconds.get(name, 0.0) + spent, 1)


class Frozen:
    """One frozen moment: what is needed in it, reserved beforehand.

    Attributes:
        mounted: whether there is anything to freeze.
        works: what was taken from the maps and not yet handed to a sender. Whatever goes
            wrong, :meth:`give_up` makes it dirty again.
    """

    def __init__(
        self,
        disks: DiskSet,
        transfer: Transfer,
        freezer: Freezer,
        mounted: bool,
        with_filesystem: frozenset[str],
        workers: Executor,
        outlook: Outlook,
    ) -> None:
        self.disks = disks
        self.outlook = outlook
        self.transfer = transfer
        self.freezer = freezer
        self.mounted = mounted
        self.workers = workers
        self._bare = [disk for disk in disks.disks if disk.path not in with_filesystem]
        self._arena: Buffer | None = None
        self.works: deque[Work] = deque()
        self._moved: list[JobDisk] = []
        self._spoiled = threading.Event()
        self._before: dict[str, tuple[int, int, int]] = {}

    @property
    def consistency(self) -> Consistency:
        """``crash`` as soon as one disk is only known to have stood still."""
        return "crash" if self._bare else "filesystem"

    def reserve(self) -> None:
        """Memory for what will be read, made before the freeze. In a worker thread."""
        start_threads(self.workers)
        if not self.disks.tracked:
            return
        self._reserve(self._wanted)

    def enlarge(self) -> None:
        """Right before the freeze: more memory, when more has become dirty than was expected."""
        if self._arena is not None and 2 * self._dirty > self._arena.size:
            self._reserve(self._wanted)

    @property
    def _wanted(self) -> int:
        """Bytes that should be there for what is dirty now, and for what comes."""
        return int(4 * self._dirty + ARENA_SECONDS * (self.outlook.rates().write or 0.0))

    @property
    def _dirty(self) -> int:
        return sum(disk.live_map.dirty_bytes for disk in self.disks.disks)

    def _reserve(self, wanted: int) -> None:
        self.free()
        most = max(2 * ARENA_LEAST, min(forecast.MEMORY_BYTES, available_memory() // 8))
        self._arena = Buffer(min(most, max(ARENA_LEAST, wanted)))
        try:
            self._arena.lock()
        except CannotLockError:
            # It exists and was touched; without swap nothing takes it away in a second.
            return

    def refuse_busy(self) -> None:
        """Look whether somebody has a disk open for writing that nobody can freeze or track.

        After the pre-freeze hooks: one of them may be what makes the writer stop.

        Raises:
            LocalFault: DISK_BUSY_UNMOUNTED.
        """
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
        rates, costs = self.outlook.rates(), self.outlook.costs
        assert self._arena is not None
        fits = dirty + PAGE * len(maps) <= self._arena.size
        if fits:
            runs = granules / forecast.RUN_GRANULES
            seconds = costs.reading * forecast.reading_seconds(dirty, runs, rates)
            seconds = self.outlook.believed(seconds)
        else:
            seconds = dirty / rates.send if rates.send else float("inf")
        if self.mounted and seconds > self.freezer.remaining:
            raise FREEZE_TOO_LONG.fault(
                forecast=seconds,
                budget=self.freezer.budget,
                detail=f"{dirty / 1e6:.1f} MB were written since the last pass",
            )
        return fits

    def plan(self) -> Sequence[Work]:
        """Everything that is dirty now, in flight, with places in the reserved memory.

        Raises:
            LocalFault: CHECKPOINT_SUPERSEDED when something became suspect: no one knows what
                to read then.
        """
        assert self._arena is not None
        at = 0
        for disk in self.disks.disks:
            try:
                batches = take_everything(disk.live_map, disk.number)
            except NotSettledError as error:
                raise CHECKPOINT_SUPERSEDED.fault(detail=f"{disk.path}: {error}") from error
            for batch in batches:
                work = Work(disk, batch, "data", batch.ranges(disk.granule, disk.size))
                self.works.append(work)
                work.frozen = self._arena.view[at : at + work.size]
                at += -(-work.size // PAGE) * PAGE
        return tuple(self.works)

    def read(self, works: Sequence[Work]) -> None:
        """Read some of the planned works; several threads do it at once. When one of them cannot
        read something, the others stop: the instant is lost, and every moment counts.

        Raises:
            LocalFault: SOURCE_DISK_READ and the like; FREEZE_OVERRUN: the freeze has ended
                meanwhile. There is no use in reading on, and a disk that is so slow may take long.
        """
        for work in works:
            if self._spoiled.is_set():
                return
            if self.mounted and not self.freezer.remaining:
                self.freezer.thaw()
            assert work.frozen is not None
            try:
                work.disk.reader.read(work.ranges, work.frozen)
            except BaseException:
                self._spoiled.set()
                raise
            crash.here("checkpoint.half_read")

    def still(self) -> None:
        """Still frozen: check that nothing was written since the drain.

        A disk without a filesystem cannot be frozen, and a disk with one may have other parts
        that somebody writes; those are looked at after the thaw, see :meth:`judge_moved`.

        A write that nobody has been told the end of may be in what was read or not, as after a
        crash; and whatever has ended is marked. But a disk that is being written does not stand
        still, so a write that the driver of a request-based disk has counts as well. It is looked
        for before the drain: if it ends in between it is in that. (Bio-based disks are marked when
        a write is queued.)

        Raises:
            LocalFault: DISK_BUSY_UNMOUNTED; CHECKPOINT_SUPERSEDED when events were missed.
        """
        busy = {disk for disk in self.disks.disks if _being_written(disk)}
        self.disks.drain_frozen()
        self.disks.check_now()
        if self.disks.tracked and self.disks.suspect:
            raise CHECKPOINT_SUPERSEDED.fault(detail="writes may have gone unnoticed meanwhile")
        self._moved = [
            disk
            for disk in self.disks.disks
            if disk in busy or (disk.tracked and disk.live_map.dirty_granules)
        ]
        for disk in self._bare:
            if disk in self._moved or (
                disk.tracked is None and _stamp(disk.path) != self._before[disk.path]
            ):
                reason: str | None = "it was written meanwhile"
                reason = is_busy_unmounted(disk.path) or reason
            else:
                reason = is_busy_unmounted(disk.path) if disk.tracked is None else None
            if reason:
                raise DISK_BUSY_UNMOUNTED.fault(path=disk.path, detail=reason)

    def judge_moved(self) -> None:
        """After the thaw: who wrote to a disk while its filesystems were frozen? Swap may, its
        content means nothing; a program that has a part of the disk open may not.

        Raises:
            LocalFault: DISK_BUSY_UNMOUNTED.
        """
        for disk in self._moved:
            if reason := is_busy_unmounted(disk.path):
                raise DISK_BUSY_UNMOUNTED.fault(path=disk.path, detail=reason)

    def free(self) -> None:
        """The memory is not needed any more: it goes now and not when somebody finds a cycle. What
        a sender still holds goes when that ends."""
        if self._arena is not None:
            self._arena.free()
            self._arena = None

    def give_up(self) -> None:
        """The instant is lost: what was taken is dirty again. Nobody reads any more."""
        while self.works:
            work = self.works.popleft()
            work.frozen = None
            work.disk.live_map.lost(work.batch)

    def take(self) -> Sequence[Work]:
        """The next work for a sender, whose it is then."""
        return [self.works.popleft()] if self.works else ()


def start_threads(workers: Executor) -> None:
    """Make the pool start all its threads now: a new one's stack is locked and made whole,
    which may fail, and takes time that a freeze does not have. In a thread of the pool."""
    barrier = threading.Barrier(THREADS)
    others = [workers.submit(barrier.wait, START_SECONDS) for _ in range(THREADS - 1)]
    barrier.wait(START_SECONDS)
    wait(others)


def available_memory() -> int:
    """Bytes that the kernel thinks it could give out without swapping (proc(5), meminfo)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _being_written(disk: JobDisk) -> bool:
    """Whether the driver of a tracked request-based disk is known to have a write of it."""
    if disk.tracked is None:
        return False
    number = disk.tracked.major, disk.tracked.minor
    return has_requests(*number) and writes_under_way(*number) is True


def _stamp(path: str) -> tuple[int, int, int]:
    """What changes when a regular file is written."""
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
