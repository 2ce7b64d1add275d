"""One disk of a job: its reader, what tracks it, its dirty map, and where its pass stands.

Here the recovery grade is decided (DESIGN's promise 4): the map that an earlier process left is
believed only if it is of this boot, this tracking, this disk and this intermediate disk;
otherwise everything is suspect and the next pass compares, or, if the receiver's disk is known
to be empty, everything allocated is dirty and the next pass is a full one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from protocol.errors import INTERNAL
from protocol.wire.messages import DiskInfo, DiskReport, OpenDisk, OpenedDisk, PassKind
from replicad.dirtymap import DirtyMap, Header, MapRefusedError
from replicad.reader import DiskReader
from replicad.tracker import (
    CannotTrack,
    DiskDrain,
    EbpfTracker,
    NoTracker,
    TrackedDisk,
    boot_id,
    granule_for,
)

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

FULL_FLAG = "full"
"""Flag of a map whose first, full pass has not ended."""


class JobDisk:
    """A disk that is being copied. Made in a worker thread: opening touches the disk.

    Attributes:
        number: its number in data frames, known once a session is open.
        compared_bytes: bytes hashed in the present compare pass.
    """

    def __init__(self, info: DiskInfo, tracker: EbpfTracker | NoTracker) -> None:
        """Open the disk and begin, or go on, to track it.

        Raises:
            LocalFault: SOURCE_DISK_MISSING.
        """
        path = info.path
        self.path = path
        self.info = info
        self.number = 0
        self.tracked: TrackedDisk | None = None
        self.untracked_because = ""
        if isinstance(tracker, EbpfTracker):
            try:
                self.tracked = tracker.track(path)
            except CannotTrack as error:
                self.untracked_because = error.reason
        else:
            self.untracked_because = tracker.reason
        self.granule = self.tracked.granule if self.tracked else granule_for(info.size)
        self.reader = DiskReader(path, granule=self.granule)
        self.trust = ""
        self.map: DirtyMap | None = None
        self.kind: PassKind = "idle"
        self.pass_total = 0
        self.pass_done = 0
        self.passed = 0
        self.compared_bytes = 0
        self.differing_bytes = 0

    @property
    def size(self) -> int:
        """Bytes."""
        return self.reader.size

    @property
    def live_map(self) -> DirtyMap:
        """The dirty map, which exists once a session has been opened."""
        if self.map is None:
            raise INTERNAL.fault(detail=f"{self.path} has no dirty map yet")
        return self.map

    def close(self) -> None:
        """Close disk and map; both stay, and tracking goes on."""
        if self.map is not None:
            self.map.close()
            self.map = None
        self.reader.close()

    def check(self) -> None:
        """Raises LocalFault when the disk vanished or changed its size."""
        self.reader.check_size()

    # --- the dirty map ------------------------------------------------------------------------

    def offer(self) -> OpenDisk:
        """What the receiver is told of this disk when a session opens."""
        return OpenDisk(path=self.path, size=self.size, identity=self.info.identity)

    def attach(
        self, directory: Path, job: str, opened: OpenedDisk, epoch: int, tracker: EbpfTracker | NoTracker
    ) -> None:
        """Find or make the dirty map that belongs to the receiver's intermediate disk."""
        self.number = opened.number
        present = Header(
            job=job,
            disk=self.path,
            size=self.size,
            granule=self.granule,
            generation=opened.generation,
            epoch=epoch,
            boot=boot_id(),
            token=self.tracked.token if self.tracked else "",
            misses=self._misses(tracker),
        )
        if self.map is not None:
            if self.map.header.generation == opened.generation:
                return
            self.map.close()
            self.map = None
        path = str(directory / f"{job}-{opened.number}.map")
        reason = "writes are not tracked" if self.tracked is None else ""
        if self.tracked is not None:
            try:
                self.map = DirtyMap.open(path, present, time.monotonic())
                self.trust = f"tracked without a gap since {_epoch_text(self.map.header.epoch)}"
            except MapRefusedError as refused:
                reason = str(refused)
        if self.map is None:
            self._begin_map(path, present, opened.fresh, reason)

    def _misses(self, tracker: EbpfTracker | NoTracker) -> int:
        """The tracker's cumulative count for this disk, without taking anything from it."""
        if self.tracked is None or not isinstance(tracker, EbpfTracker):
            return 0
        return tracker.misses(self.tracked)

    def _begin_map(self, path: str, header: Header, fresh: bool, reason: str) -> None:
        self.map = DirtyMap.create(path, header)
        if fresh:
            for offset, length in self.reader.data_ranges():
                first, count = self.map.covering(offset, length)
                self.map.mark_range(first, count, time.monotonic())
            self.map.update(seeded=True, flags=(FULL_FLAG,))
            self.trust = "first copy"
        else:
            self.suspect_all(reason)
            self.map.update(seeded=True)

    def suspect_all(self, reason: str) -> None:
        """Nothing is known to be equal any more; the next pass compares."""
        self.live_map.suspect_range(0, self.live_map.granules)
        self.trust = reason

    # --- what was written ---------------------------------------------------------------------

    def merge(self, first_word: int, words: NDArray[np.uint64]) -> None:
        """The sink of a drain."""
        self.live_map.mark(first_word, words, time.monotonic())

    def drained(self, drain: DiskDrain) -> bool:
        """After a drain: whether events were missed, which makes everything suspect.

        The suspicion is in the map before the new count is, so a kill in between repeats it.
        """
        known = self.live_map.header.misses
        if drain.misses == known:
            return False
        self.suspect_all(f"the tracker missed {drain.misses - known} events; comparing")
        self.live_map.update(misses=drain.misses)
        return True

    # --- passes -------------------------------------------------------------------------------

    @property
    def differs(self) -> bool:
        """Whether there is something to send or to compare."""
        return self.map is not None and not self.map.clean

    @property
    def waits_for_first(self) -> bool:
        """Whether it still waits for its first copy or its comparison; no checkpoint before."""
        if self.tracked is None or not self.differs:
            return False
        return bool(self.live_map.suspect_granules) or FULL_FLAG in self.live_map.header.flags

    def begin_pass(self) -> None:
        """Say what kind of pass comes next, and how large it is."""
        held = self.live_map
        if held.suspect_granules:
            self.kind = "compare"
        elif FULL_FLAG in held.header.flags:
            self.kind = "full"
        elif held.dirty_granules:
            self.kind = "delta"
        else:
            self.kind = "idle"
        self.pass_total = held.dirty_bytes + held.suspect_bytes
        self.pass_done = 0
        self.compared_bytes = 0
        self.differing_bytes = 0

    def end_pass(self) -> None:
        """The pass is over: every batch of it has been answered."""
        if self.kind != "idle":
            self.passed += 1
        if self.kind == "full" and FULL_FLAG in self.live_map.header.flags:
            self.live_map.update(flags=())
            self.trust = "tracked without a gap since the full pass"
        elif self.kind == "compare" and not self.live_map.suspect_granules:
            since = "since the compare pass"
            self.trust = f"tracked without a gap {since}" if self.tracked else self.untracked_because
        self.kind = "idle"

    def report(self) -> DiskReport:
        """This disk as it stands."""
        held = self.map
        return DiskReport(
            path=self.path,
            size=self.size,
            total_bytes=max(self.pass_total, self.pass_done),
            transferred_bytes=self.pass_done,
            dirty_bytes=held.dirty_bytes + held.suspect_bytes + held.flying_bytes if held else 0,
            in_flight_bytes=held.flying_bytes if held else 0,
            differing_bytes=self.differing_bytes,
            passed=self.passed,
            pass_=self.kind,
            tracker="ebpf" if self.tracked else "none",
            trust=self.trust or self.untracked_because,
            granule=self.granule,
        )


def _epoch_text(epoch: int) -> str:
    return f"epoch {epoch}" if epoch else "the job began"
