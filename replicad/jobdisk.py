"""One disk of a job: its reader, what tracks it, its dirty map, and where its pass stands.

What becomes of the map that an earlier process left is decided in :mod:`replicad.recovery`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from protocol.errors import INTERNAL, SOURCE_DISK_MOVED
from protocol.local import crash
from protocol.wire.jobs import DiskInfo, DiskReport, PassKind, Recovery
from protocol.wire.messages import OpenDisk, OpenedDisk, SessionOpened
from replicad.dirtymap import DirtyMap, Header
from replicad.reader import DiskReader
from replicad.recovery import (
    FULL_FLAG,
    Opened,
    passed,
    peek,
    reason_of,
    settle,
    suspect_all,
    take_up,
    tracked_since,
)
from replicad.tracker import (
    CannotTrack,
    DiskDrain,
    EbpfTracker,
    NoTracker,
    Suspect,
    TrackedDisk,
    TrackingState,
    attachment,
    boot_id,
    granule_for,
    judge,
)
from replicad.unreadable import Unreadable, logged

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

_ANEW = "tracking was interrupted and began anew"


class JobDisk:
    """A disk that is being copied. Made in a worker thread: opening touches the disk.

    Attributes:
        path: where it is now.
        named: what the job calls it: where it was when the job was made.
        number: its number in data frames, known once a session is open.
        compared_bytes: bytes hashed in the present compare pass.
        sent: frames of each connection that were sent in its map's session, which is over.
    """

    def __init__(self, info: DiskInfo, tracker: EbpfTracker | NoTracker, named: str = "") -> None:
        """Open the disk and begin, or go on, to track it.

        Args:
            info: the disk as it is now.
            named: the job's path of it, if that is another one.

        Raises:
            LocalFault: SOURCE_DISK_MISSING.
        """
        path = info.path
        self.path = path
        self.named = named or path
        self.info = info
        self.number = 0
        self.tracked: TrackedDisk | None = None
        self.untracked_because = ""
        if isinstance(tracker, EbpfTracker):
            try:
                self.tracked = tracker.track(path)
                crash.here("disk.tracked")
            except CannotTrack as error:
                self.untracked_because = error.reason
        else:
            self.untracked_because = tracker.reason
        self.granule = self.tracked.granule if self.tracked else granule_for(info.size)
        self.reader = DiskReader(path, granule=self.granule, tell=logged(path))
        self.map: DirtyMap | None = None
        self.kind: PassKind = "idle"
        self.pass_total = 0
        self.pass_done = 0
        self.passed = 0
        self._broken_off: PassKind = "idle"
        self.compared_bytes = self.differing_bytes = 0
        self.sent: tuple[int, ...] = ()
        self._read = self._sent = 0
        self._attachment = attachment(path)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.reader.size

    @property
    def unreadable(self) -> Unreadable:
        """Where it cannot be read; these granules are dirty and held back."""
        return self.reader.unreadable

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
        """Raises LocalFault when the disk vanished, changed its size, or another is there now."""
        if attachment(self.path) != self._attachment:
            raise SOURCE_DISK_MOVED.fault(path=self.path)
        self.reader.check_size()

    # --- the dirty map ------------------------------------------------------------------------

    def offer(self, directory: Path, job: str) -> OpenDisk:
        """What the receiver is told of this disk when a session opens: what it is, what our map
        of it belongs to, and what we know that the receiver must know as well."""
        if self.map is not None:
            held: Header | None = self.map.header
        else:
            held = next((h for h in peek(directory, job) if h.disk == self.named), None)
        offered = OpenDisk(path=self.named, size=self.size, identity=self.info.identity)
        if held is None:
            return offered
        return msgspec.structs.replace(
            offered,
            generation=held.generation,
            epoch=held.epoch,
            session=held.session,
            acked=held.acked,
            sent=self.sent,
            # It has not been taken away since the map was used, whatever marks it bears.
            proven=held.boot == boot_id() and self._attachment == held.attachment != "",
        )

    def attach(
        self,
        directory: Path,
        job: str,
        session: SessionOpened,
        opened: OpenedDisk,
        tracker: EbpfTracker | NoTracker,
    ) -> None:
        """Find or make the dirty map that belongs to the receiver's intermediate disk."""
        epoch = session.epoch
        self.number, self.sent = opened.number, ()
        misses, handed = self._counts(tracker)
        present = Header(
            job=job,
            disk=self.named,
            size=self.size,
            granule=self.granule,
            generation=opened.generation,
            epoch=epoch,
            boot=boot_id(),
            token=self.tracked.token if self.tracked else "",
            misses=misses,
            handed=handed,
            session=session.session,
            attachment=self._attachment,
        )
        if self.map is not None:
            if self.map.header.generation == opened.generation:
                if self.map.header.token != present.token:
                    # Found out here and not by a drain: it is a gap all the same.
                    self.suspect_all(_ANEW)
                    self.map.update(token=present.token, misses=misses)
                self.map.update(epoch=epoch, session=session.session, acked=())
                return
            self.map.close()
            self.map = None
        self.map = take_up(
            directory / f"{job}-{opened.number}.map",
            present,
            Opened(opened.fresh, opened.full, opened.reason, session.last_boot),
            untracked=self.untracked_because if self.tracked is None else "",
            allocated=self.reader.data_ranges,
        )
        taken = self.map.header.recovery
        self._read, self._sent = (taken.bytes_read, taken.bytes_sent) if taken else (0, 0)

    def _counts(self, tracker: EbpfTracker | NoTracker) -> tuple[int, int]:
        """The tracker's counts for this disk of missed events and of handing over, without taking
        anything from it."""
        if self.tracked is None or not isinstance(tracker, EbpfTracker):
            return 0, 0
        try:
            return tracker.misses(self.tracked), tracker.handed(self.tracked)
        except CannotTrack:
            # Tracked anew, under a token that no map has seen: whatever there is will compare.
            self.tracked = tracker.track(self.path)
            return tracker.misses(self.tracked), tracker.handed(self.tracked)

    def suspect_all(self, reason: str) -> None:
        """Nothing is known to be equal any more; the next pass compares."""
        suspect_all(self.live_map, reason)
        self._read = self._sent = 0

    @property
    def suspect(self) -> bool:
        """Whether some of it must be compared."""
        return self.map is not None and self.map.suspect_granules > 0

    @property
    def trust(self) -> str:
        """What is known of this disk's writes, or why it is compared; for people."""
        if self.tracked is None:
            return f"compared at each sync: {self.untracked_because}"
        if self.map is None:
            return ""
        if self.suspect:
            return f"comparing: {reason_of(self.map.header)}"
        return tracked_since(self.map.header)

    @property
    def recovery(self) -> Recovery | None:
        """How the copy was taken up, and what that has cost so far."""
        kept = self.map.header.recovery if self.map is not None else None
        if kept is None or kept.ended is not None:
            return kept
        return msgspec.structs.replace(kept, bytes_read=self._read, bytes_sent=self._sent)

    def settle(self) -> None:
        """After a drain: a recovery for which nothing is left to do is over."""
        if self.map is not None and self.map.clean:
            settle(self.map)

    def carried(self, read: int, sent: int) -> None:
        """Bytes of the disk that were read and sent, and answered."""
        self._read += read
        self._sent += sent

    def remember(self, acked: tuple[int, ...]) -> None:
        """So many frames of each connection are acknowledged. Call before anything becomes clean
        by them: what is clean must be what the receiver can be held to."""
        self.live_map.update(acked=acked, recovery=self.recovery)

    # --- what was written ---------------------------------------------------------------------

    def merge(self, first_word: int, words: NDArray[np.uint64]) -> None:
        """The sink of a drain."""
        if self.unreadable:
            self.unreadable.written(first_word, words, self.granule)
        self.live_map.mark(first_word, words, time.monotonic())

    def handed(self, number: int) -> None:
        """A drain has merged all that it handed over, for the ``number``th time."""
        self.live_map.update(handed=number)

    def drained(self, drain: DiskDrain, tracker: EbpfTracker) -> None:
        """After a drain: if events were missed, everything is suspect.

        The suspicion is in the map before the new count is, so a kill in between repeats it.
        """
        known = self.live_map.header.misses
        if drain.misses == known:
            return
        verdict = judge(self._state(known), self._state(drain.misses))
        self.suspect_all(verdict.reason if isinstance(verdict, Suspect) else _ANEW)
        self.live_map.update(misses=drain.misses)
        # A disk that was exchanged or resized counts as missed once; only this notices the next.
        self.retrack(tracker)

    def _state(self, misses: int) -> TrackingState:
        token = self.tracked.token if self.tracked else ""
        return TrackingState(boot_id=boot_id(), token=token, misses=misses, size=self.size)

    def retrack(self, tracker: EbpfTracker) -> None:
        """Make sure that the disk is tracked. If that begins anew, everything is suspect.

        Raises:
            LocalFault: the disk has vanished or changed its size.
        """
        before = self.tracked
        try:
            tracked = tracker.track(self.path)
            misses = tracker.misses(tracked)
        except CannotTrack as error:
            self.reader.check_size()
            self.tracked, self.untracked_because = None, error.reason
            self.suspect_all(error.reason)
            self.live_map.update(token="")
            return
        if before is not None and tracked.token == before.token:
            return
        self.reader.check_size()
        self.suspect_all(_ANEW)
        self.live_map.update(token=tracked.token, misses=misses)
        self.tracked = tracked

    # --- passes -------------------------------------------------------------------------------

    @property
    def differs(self) -> bool:
        """Whether there is something to send or to compare."""
        return self.map is not None and not self.map.clean

    @property
    def pending(self) -> bool:
        """The same, but for what cannot be read: whether a pass would carry anything."""
        held = self.map
        if held is None or held.clean:
            return False
        if held.suspect_granules or held.flying_granules or not self.unreadable:
            return True
        return held.dirty_granules > sum(
            held.dirty_within(*held.covering(*each)) for each in self.unreadable.ranges
        )

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
        left = held.dirty_bytes + held.suspect_bytes
        if self.kind != "idle" and self.kind == self._broken_off:
            # The same pass goes on, after a pause or a lost connection: so do its figures.
            self.pass_total = max(self.pass_total, left)
            self.pass_done = self.pass_total - left
        else:
            self.pass_total, self.pass_done = left, 0
            self.compared_bytes = self.differing_bytes = 0
        self.unreadable.passed_over = 0
        self._broken_off = "idle"

    def break_off(self) -> None:
        """The pass ends before its time. A delta pass has nothing that could be gone on with."""
        self._broken_off = "idle" if self.kind == "delta" else self.kind
        self.kind = "idle"

    def end_pass(self) -> None:
        """The pass is over: every batch of it has been answered."""
        crash.here("pass.ending")
        self.passed += self.kind != "idle"
        held = self.live_map
        passed(held, self.kind, whole=not (self.unreadable or self.unreadable.passed_over))
        self.kind = "idle"
        held.update(recovery=self.recovery)
        settle(held)
        held.rest()

    def report(self) -> DiskReport:
        """This disk as it stands."""
        held = self.map
        # What is both dirty and in flight is counted twice.
        lacking = held.dirty_bytes + held.suspect_bytes + held.flying_bytes if held else 0
        return DiskReport(
            path=self.named,
            size=self.size,
            total_bytes=max(self.pass_total - self.unreadable.passed_over, self.pass_done),
            transferred_bytes=self.pass_done,
            dirty_bytes=min(self.size, lacking),
            in_flight_bytes=held.flying_bytes if held else 0,
            differing_bytes=self.differing_bytes,
            passed=self.passed,
            pass_=self.kind,
            tracker="ebpf" if self.tracked else "none",
            trust=self.trust,
            granule=self.granule,
            left_out_bytes=held.left_out_bytes if held else 0,
            device=self.path,
            recovery=self.recovery,
            unreadable_bytes=self.unreadable.bytes,
            unreadable=self.unreadable.named(),
        )
