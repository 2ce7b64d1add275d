"""The disks of a job as one set: opened together, drained at one instant, reported together."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING

from protocol.errors import (
    RUNTIME_ON_DISK,
    SOURCE_DISK_CHANGED,
    SOURCE_DISK_FORBIDDEN,
    TRACKER_UNAVAILABLE,
)
from protocol.local import crash
from protocol.wire.jobs import DiskInfo, FreeSpacePolicy, KnownDisk
from protocol.wire.messages import OpenDisk, SessionOpened
from replicad.bell import Bell
from replicad.convergence import Outlook
from replicad.engine.kept import KeptRanges
from replicad.engine.leaving import Leaving
from replicad.finding import find_disks
from replicad.freeze.mounts import mounts_to_freeze
from replicad.jobdisk import JobDisk
from replicad.planner import extent_for
from replicad.threads import to_end
from replicad.tracker import CannotTrack, EbpfTracker, NoTracker, TrackedDisk

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class DiskSet:
    """The open disks of one job.

    Args:
        directory: where dirty maps live; in memory, this boot only.
        worker: one thread in which disks are opened and the tracker is drained.
        outlook: learns from each drain how fast is written.
        bell: rung by who makes passes over them.
        extent: bytes of one, whatever the line; 0 when it follows the line.
    """

    def __init__(
        self,
        job: str,
        directory: Path,
        tracker: EbpfTracker | NoTracker,
        worker: Executor,
        outlook: Outlook | None = None,
        bell: Bell | None = None,
        extent: int = 0,
    ) -> None:
        self.job = job
        self.bell = bell or Bell()
        self._extent = extent
        self.disks: tuple[JobDisk, ...] = ()
        self.misses = 0
        self._directory = directory
        self._tracker = tracker
        self._worker = worker
        self._outlook = outlook
        self._leaving = Leaving()
        self._alone = threading.Lock()
        self._loop = asyncio.get_running_loop()

    async def open(
        self, paths: Sequence[str], allowed: Sequence[str], known: Sequence[KnownDisk] = ()
    ) -> None:
        """Open the job's disks, wherever they are now, and begin, or go on, to track them.

        Args:
            paths: what the job calls them.
            allowed: what the configuration allows to be copied; empty for all disks.
            known: how the job knows them; one that is not in it is taken by its name.

        Raises:
            LocalFault: a disk is missing, another one, cannot be told from a clone, is not
                allowed, or holds our own runtime directory.
        """
        await self._loop.run_in_executor(
            self._worker, self._open, tuple(paths), tuple(allowed), tuple(known)
        )

    def _open(
        self, paths: tuple[str, ...], allowed: tuple[str, ...], known: tuple[KnownDisk, ...]
    ) -> None:
        if not paths:
            # disks_of() would take it for "all of them", whatever the configuration allows.
            raise SOURCE_DISK_FORBIDDEN.fault(path="(none is named)")
        found = find_disks(self._directory, self.job, paths, allowed, known)
        self._refuse_own_runtime([info for _, info in found])
        opened: list[JobDisk] = []
        try:
            opened.extend(JobDisk(info, self._tracker, named) for named, info in found)
        except BaseException:
            for disk in opened:
                disk.close()
            raise
        crash.here("disks.opened")
        self.disks = tuple(opened)

    def _refuse_own_runtime(self, infos: Sequence[DiskInfo]) -> None:
        """The dirty maps are written while the filesystems are frozen: not on one of them."""
        device = self._directory.stat().st_dev
        for info in infos:
            for mount in mounts_to_freeze([info.path]):
                with contextlib.suppress(OSError):
                    if Path(mount.point).stat().st_dev == device:
                        raise RUNTIME_ON_DISK.fault(path=self._directory, disk=info.path)

    async def check(self) -> None:
        """Raises LocalFault when a disk vanished, changed its size, or is another one now."""
        await self._loop.run_in_executor(self._worker, self.check_now)

    def check_now(self) -> None:
        """The same, in the calling thread."""
        for disk in self.disks:
            disk.check()

    async def offers(self) -> tuple[OpenDisk, ...]:
        """What the receiver is told of the disks when a session opens."""
        return await self._loop.run_in_executor(self._worker, self._offers)

    def _offers(self) -> tuple[OpenDisk, ...]:
        return tuple(disk.offer(self._directory, self.job) for disk in self.disks)

    async def attach(self, opened: SessionOpened) -> None:
        """Give every disk the dirty map that belongs to its intermediate disk."""
        await self._loop.run_in_executor(self._worker, self._attach, opened)

    def _attach(self, opened: SessionOpened) -> None:
        by_path = {each.path: each for each in opened.disks}
        for disk in self.disks:
            mine = by_path.get(disk.named)
            if mine is None:
                raise SOURCE_DISK_CHANGED.fault(
                    path=disk.named, detail="the receiver opened no intermediate disk for it"
                )
            disk.attach(self._directory, self.job, opened, mine, self._tracker)

    # --- tracking -----------------------------------------------------------------------------

    def extent_bytes(self) -> int:
        """The size of an extent: the fixed one, or what suits the line as it is now."""
        return self._extent or extent_for(self._outlook.sending.capacity if self._outlook else None)

    @property
    def tracked(self) -> bool:
        """Whether writes to all disks are tracked."""
        return bool(self.disks) and all(disk.tracked is not None for disk in self.disks)

    async def drain(self) -> None:
        """Bring what was written since the last drain into the maps, all disks at one instant."""
        await self._loop.run_in_executor(self._worker, self.drain_now)

    def drain_now(self) -> None:
        """The same, in the calling thread."""
        self._drain_into(self._outlook)
        for disk in self._followed():
            disk.live_map.vouch()

    def drain_frozen(self) -> None:
        """The same while filesystems are frozen: nothing more than must be is done then."""
        self._drain_into(None)

    def _drain_into(self, outlook: Outlook | None) -> None:
        tracker = self._tracker
        if isinstance(tracker, EbpfTracker):
            with self._alone:
                self._drain_tracker(tracker, outlook)

    def _drain_tracker(self, tracker: EbpfTracker, outlook: Outlook | None) -> None:
        try:
            self._drain(tracker, outlook)
        except CannotTrack:
            # A disk was exchanged, or somebody removed our pins. Those that are as they were
            # keep their token and their bits; the others are suspect.
            for disk in self._followed():
                disk.retrack(tracker)
            try:
                self._drain(tracker, outlook)
            except CannotTrack as error:
                raise TRACKER_UNAVAILABLE.fault(detail=error.reason) from error

    def _drain(self, tracker: EbpfTracker, outlook: Outlook | None) -> None:
        disks = {disk.path: disk for disk in self._followed()}
        if not disks:
            return

        handover = self._leaving.handover()

        def take(tracked: TrackedDisk, first: int, words: NDArray[np.uint64]) -> None:
            disk = disks[tracked.path]
            words = handover.of_use(disk, first, words)
            disk.merge(first, words)
            if outlook is not None:
                outlook.writing.add(tracked.path, tracked.granule, first, words)

        def handed(tracked: TrackedDisk, number: int) -> None:
            disks[tracked.path].handed(number)
            handover.handed(disks[tracked.path])

        followed = [disk.tracked for disk in disks.values() if disk.tracked is not None]
        drains = tracker.drain(followed, take, handed)
        if outlook is not None:
            outlook.drained()
        self.misses = sum(drain.misses for drain in drains.values())
        crash.here("drain.merged")
        for path, drain in drains.items():
            disks[path].drained(drain, tracker)

    async def leave_out(self, policy: FreeSpacePolicy) -> None:
        """Before a pass: what it would carry and nobody uses, as the job's policy has it."""
        await self._loop.run_in_executor(self._worker, self._leave_out, policy)

    def _leave_out(self, policy: FreeSpacePolicy) -> None:
        with self._alone:
            self._leaving.leave_out(self._followed(), policy)

    def _followed(self) -> list[JobDisk]:
        return [disk for disk in self.disks if disk.tracked is not None and disk.map is not None]

    # --- what cannot be read ------------------------------------------------------------------

    @property
    def unreadable(self) -> bool:
        """Whether there is anything that cannot be read now."""
        return any(disk.unreadable for disk in self.disks)

    def refuse_unreadable(self) -> None:
        """Raises LocalFault SOURCE_DISK_READ, with the place, when something cannot be read."""
        for disk in self.disks:
            if disk.unreadable:
                raise disk.unreadable.fault()

    def hurry(self) -> None:
        """Somebody wants something: what could not be read is tried again now."""
        for disk in self.disks:
            disk.unreadable.hurry()

    async def try_again(self, *, now: bool = False) -> None:
        """Try to read what could not be read, where that is due or all of it ``now``. What reads
        again is sent with the next pass.

        Raises:
            LocalFault: a disk has vanished or changed its size.
        """
        for disk in self.disks:
            if disk.unreadable and (now or disk.unreadable.is_due(time.monotonic())):
                await to_end(None, disk.reader.try_again)

    # --- all of them --------------------------------------------------------------------------

    @property
    def differ(self) -> bool:
        """Whether the receiver lacks something that is known about."""
        return any(disk.differs for disk in self.disks)

    @property
    def pending(self) -> bool:
        """The same, but for what cannot be read."""
        return any(disk.pending for disk in self.disks)

    @property
    def suspect(self) -> bool:
        """Whether something must be compared before anybody can say what differs."""
        return any(disk.suspect for disk in self.disks)

    @property
    def oldest(self) -> float | None:
        """When (CLOCK_MONOTONIC) the oldest dirt was marked; None when nothing is dirty."""
        marks = [d.map.oldest for d in self.disks if d.map is not None]
        return min((mark for mark in marks if mark is not None), default=None)

    def suspect_untracked(self) -> None:
        """Without a tracker nothing is known: each sync compares everything, also what was
        compared a moment ago."""
        for disk in self.disks:
            if disk.tracked is None:
                disk.suspect_all(disk.untracked_because)

    def set_epoch(self, epoch: int) -> None:
        """A checkpoint was committed."""
        for disk in self.disks:
            disk.live_map.update(epoch=epoch)

    async def close(self, forget: bool) -> None:
        """Close all. ``forget``: the job is over, so tracking ends and the maps are removed."""
        await self._loop.run_in_executor(self._worker, self._close, forget)

    def _close(self, forget: bool) -> None:
        for disk in self.disks:
            tracked = disk.tracked
            disk.close()
            if forget and tracked is not None and isinstance(self._tracker, EbpfTracker):
                self._tracker.untrack(tracked)
                crash.here("disks.untracked")
        crash.here("disks.closed")
        if forget:
            KeptRanges(self._directory, self.job).keep(())
            for path in self._directory.glob(f"{self.job}-*.map"):
                path.unlink(missing_ok=True)
        self.disks = ()
