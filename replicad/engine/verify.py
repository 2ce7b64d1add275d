"""Verifying while both sides live: slices of comparison between the passes of a session.

A slice takes about half a second. Nothing is sent meanwhile, so nothing that the receiver hashes
is being written; what the server writes stays dirty until the pass that follows. So a
verification delays the copy by a slice and a checkpoint by little more, and promise 3 needs no
thought: a verification has nothing in flight that could be overtaken.

What differs without anybody having asked for a repair is *known*: the receiver keeps it with the
job, the order brings it back after whatever may happen here, and it is sent before the next
checkpoint, which would be a lie otherwise (promise 5).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable

import numpy as np

from protocol.errors import VERIFY_UNTRACKED, LocalFault
from protocol.link.control import ControlLink
from protocol.local import crash, log
from protocol.wire.jobs import DiskRange, VerifyOrder
from protocol.wire.messages import Verified, VerifyFailed
from replicad.dirtymap.bitmap import PAGE_WORDS
from replicad.engine.disks import DiskSet
from replicad.engine.frozen import now_text
from replicad.engine.kept import KeptRanges
from replicad.engine.orders import Orders
from replicad.engine.slices import Slice
from replicad.engine.standing import Standing, info
from replicad.jobdisk import JobDisk
from replicad.tracker import writes_under_way
from replicad.transfer import Transfer
from replicad.verification import BATCH_BYTES, DiskFindings, Round, Sweep, Verification

SLICE_SECONDS = 0.5
"""That a slice should take: long enough that its end costs little, short enough to wait for."""

SLICE_FIRST = 16 << 20
SLICE_MOST = 2 << 30
"""Bytes of the first slice, before it is known how fast both sides read; and of any."""

SETTLE_SECONDS = 1.0
"""At least between two looks at what differs."""

WRITE_SECONDS = 60.0
"""A write that has been on its way for so long has ended: the kernel gives up a request after 30 s
(Documentation/ABI/stable/sysfs-block, io_timeout) and tries it again. Waited for only where a
disk is never seen without a write on its way."""

CHECKPOINT_SECONDS = 3.0
"""That a checkpoint waits for the second look at what differed once; then it goes ahead, and
what nobody has looked at again is repaired, and not reported."""

KEEPING_SHARE = 0.05
"""Of the time that may go into keeping what was found so far: there can be much of it."""

_POLL_SECONDS = 0.02
_log = log.get("verify")


class Verifier:
    """Verifies in one session.

    Args:
        run_pass: sends what is dirty.
        kept: where what differs outlives this process.
    """

    def __init__(
        self,
        job: str,
        orders: Orders,
        link: ControlLink,
        disks: DiskSet,
        transfer: Transfer,
        standing: Standing,
        run_pass: Callable[[], Awaitable[None]],
        kept: KeptRanges,
    ) -> None:
        self._job = job
        self._orders = orders
        self._link = link
        self._disks = disks
        self._transfer = transfer
        self._standing = standing
        self._run_pass = run_pass
        self._kept = kept
        self._kept_of: tuple[int, int] = (0, 0)
        self._keep_again = 0.0
        standing.differing = standing.differing or kept.recall()
        self._told: Verified | VerifyFailed | None = None
        self._budget = SLICE_FIRST

    @property
    def wanted(self) -> VerifyOrder | None:
        """What is to be verified now. A verdict that the receiver may not have heard is told
        again, once a session."""
        order, standing = self._orders.now.verify, self._standing
        if order is None:
            standing.verification = None
            return None
        if order != standing.verified_order:
            return order
        if (verdict := standing.verdict) is not None and verdict is not self._told:
            self._told = verdict
            self._link.send(verdict)
        return None

    async def step(self, wanted: VerifyOrder) -> None:
        """Do a little of it: a slice, a wait, or the repair.

        Raises:
            Fault: the session cannot go on. That it cannot be verified is told the receiver.
        """
        try:
            verification = self._current(wanted)
        except LocalFault as fault:
            said = VerifyFailed(job=self._job, request=wanted.request, error=info(fault))
            self._answer(wanted, said)
            _log.warning("verify.refused", code=fault.code, because=fault.sentence)
            self._standing.errors[fault.code] += 1
            return
        if self._disks.suspect:
            # A gap: the pass that compares comes first, and mends whatever it finds.
            await self._orders.newer(self._orders.now, _POLL_SECONDS)
        elif verification.stage == "sweep":
            if await self._slice(verification, "sweep"):
                verification.stage = "confirm"
        elif verification.stage == "confirm":
            if await self._look_again(verification, "confirm"):
                self._recheck(verification)
        elif wanted.repair and verification.found and not verification.mended:
            verification.stage = "repair"
            self._mark(verification)
            crash.here("verify.marked")
            await self._run_pass()
            verification.mended = verification.sent = True
            self._recheck(verification)
        elif verification.stage == "recheck":
            if not await self._look_again(verification, "recheck"):
                return
            if verification.sent:
                self._ascertain(verification)
            else:  # what is found has been looked at twice, and nobody has sent it
                self._finish(wanted, verification)
        elif await self._look_again(verification, "certain"):
            self._finish(wanted, verification)

    def _current(self, wanted: VerifyOrder) -> Verification:
        """The verification that is under way for this order, or a new one.

        Raises:
            LocalFault: VERIFY_UNTRACKED.
        """
        for disk in self._disks.disks:
            if disk.tracked is None:
                raise VERIFY_UNTRACKED.fault(path=disk.path, detail=disk.untracked_because)
        present = self._standing.verification
        shapes = {disk.path: (disk.size, disk.granule) for disk in self._disks.disks}
        if present is not None and present.request == wanted.request:
            if shapes == {d.path: (d.size, d.granule) for d in present.disks.values()}:
                self._follow(present)
                return present
            _log.info("verify.anew", because="a disk has another size now")
        made = Verification(
            wanted.request, {path: DiskFindings(path, *shape) for path, shape in shapes.items()}
        )
        self._standing.verification = made
        self._follow(made)
        _log.info("verify.began", request=wanted.request, repair=wanted.repair)
        return made

    def _follow(self, verification: Verification) -> None:
        """Have every mark of the tracker take a granule out of the candidates."""
        for disk in self._disks.disks:
            disk.live_map.unwritten = verification.disks[disk.path].candidates

    def _recheck(self, verification: Verification) -> None:
        """From now on look at what was found once more."""
        verification.stage = "recheck"
        for disk in self._disks.disks:
            with disk.live_map.lock:
                verification.disks[disk.path].begin_recheck(time.monotonic())

    def _ascertain(self, verification: Verification) -> None:
        """From now on look at what differs still."""
        verification.stage = "certain"
        for disk in self._disks.disks:
            with disk.live_map.lock:
                verification.disks[disk.path].begin_certain(time.monotonic())

    # --- slices -------------------------------------------------------------------------------

    async def _slice(self, verification: Verification, kind: Round) -> bool:
        """Compare some more; whether this round has come to its end.

        Nothing is recorded unless all of the slice was answered and the tracker drained.
        """
        begun = time.monotonic()
        part = self._plan(verification, kind)
        if not part.left:
            return True
        await self._transfer.send(part.refill)
        self._watch(verification)
        await self._disks.drain()
        if self._disks.suspect:
            return False
        now = time.monotonic()
        for disk, findings, batch, differing in part.answers:
            with disk.live_map.lock:
                findings.judge(kind, batch, differing, disk.live_map.settled, now)
        crash.here("verify.judged")
        self._keep(verification)
        for findings, sweep in part.sweeps:
            findings.cursors[kind] = sweep.cursor
        if kind == "sweep":
            self._pace(part.taken, now - begun)
        return not any(
            findings.cursors.get(kind, 0) < findings.granules
            for findings in verification.disks.values()
        )

    def _keep(self, verification: Verification) -> None:
        """What is known by now is known to the next process as well."""
        known = verification.candidates, verification.found
        begun = time.monotonic()
        if known == self._kept_of or begun < self._keep_again:
            return
        self._kept.keep((*self._standing.differing, *verification.suspected()))
        self._kept_of = known
        crash.here("verify.kept")
        now = time.monotonic()
        self._keep_again = now + (now - begun) / KEEPING_SHARE

    def _plan(self, verification: Verification, kind: Round) -> Slice:
        answered = self._standing.answered

        def wanted_else() -> bool:
            checkpoint = self._orders.now.checkpoint
            return checkpoint is not None and checkpoint.request != answered and kind == "sweep"

        part = Slice(self._budget, wanted_else)
        for disk in self._disks.disks:
            findings = verification.disks[disk.path]
            cursor = findings.cursors.get(kind, 0)
            if cursor < findings.granules:
                where = findings.where(kind, disk.live_map.settled)
                sweep = Sweep(disk.number, findings.granules, findings.granule, where, cursor)
                part.add(disk, findings, sweep)
        return part

    def _pace(self, taken: int, seconds: float) -> None:
        """How much the next slice may be, from how long this one took."""
        fits = int(taken * SLICE_SECONDS / max(seconds, 0.001))
        self._budget = max(BATCH_BYTES, min(fits, 2 * self._budget, SLICE_MOST))

    async def _look_again(self, verification: Verification, kind: Round) -> bool:
        """A slice of a later round, as soon as every write that was on its way when something
        differed last has ended; whether that round is over."""
        if verification.candidates:
            if not self._calm(verification):
                await self._orders.newer(self._orders.now, _POLL_SECONDS)
                return False
            if not await self._slice(verification, kind):
                return False
        for disk in self._disks.disks:
            with disk.live_map.lock:
                verification.disks[disk.path].ended(kind)
        return True

    def _calm(self, verification: Verification) -> bool:
        """Whether no write of before the last suspicion can be on its way any more."""
        self._watch(verification)
        now = time.monotonic()
        return all(
            now - each.suspected >= SETTLE_SECONDS
            and (each.calm > each.suspected or now - each.suspected >= WRITE_SECONDS)
            for each in verification.disks.values()
            if each.candidates.count
        )

    def _watch(self, verification: Verification) -> None:
        """Look whether disks have a write on its way."""
        for disk in self._disks.disks:
            if disk.tracked is not None and not _writes_under_way(disk):
                verification.disks[disk.path].calm = time.monotonic()

    # --- repair -------------------------------------------------------------------------------

    async def before_checkpoint(self) -> None:
        """A checkpoint is exact: whatever is known to differ is sent with it."""
        verification = self._standing.verification
        unsure = verification is not None and verification.stage in {"sweep", "confirm"}
        if verification is not None and unsure and verification.candidates:
            until = time.monotonic() + CHECKPOINT_SECONDS
            while time.monotonic() < until and not self._disks.suspect:
                if await self._look_again(verification, "confirm"):
                    break
            else:
                _log.warning("verify.unconfirmed", granules=verification.candidates)
        if verification is not None:
            self._mark(verification)
            verification.sent = True
            if verification.stage in {"recheck", "certain"}:
                self._recheck(verification)
        ranges = (*self._orders.now.differing, *self._standing.differing)
        self._mark_ranges(ranges)

    def after_checkpoint(self) -> None:
        """What was known to differ before it does not any more."""
        self._standing.differing = ()
        self._kept.keep(())

    def _mark(self, verification: Verification) -> None:
        """Make dirty what differs."""
        now = time.monotonic()
        for disk in self._disks.disks:
            findings = verification.disks.get(disk.path)
            if findings is None or findings.granules != disk.live_map.granules:
                continue
            for bits in (findings.candidates, findings.found):
                for page in np.flatnonzero(bits.pages).tolist():
                    first = page * PAGE_WORDS
                    disk.live_map.mark(first, bits.words[first : first + PAGE_WORDS], now)

    def _mark_ranges(self, ranges: Iterable[DiskRange]) -> None:
        disks = {disk.path: disk for disk in self._disks.disks}
        for each in ranges:
            disk = disks.get(each.path)
            if disk is not None and each.offset < disk.size:
                length = min(each.length, disk.size - each.offset)
                first, count = disk.live_map.covering(each.offset, length)
                disk.live_map.mark_range(first, count, time.monotonic())

    # --- the end ------------------------------------------------------------------------------

    def _finish(self, wanted: VerifyOrder, verification: Verification) -> None:
        ranges, more = verification.ranges()
        standing = self._standing
        standing.differing = verification.still_differing()
        verdict = Verified(
            job=self._job,
            request=wanted.request,
            repair=wanted.repair,
            when=now_text(),
            bytes_compared=verification.compared_bytes,
            differing_bytes=verification.differing_bytes,
            ranges=ranges,
            more_ranges=more,
            repaired=bool(verification.found) and not verification.open,
            seconds=round(verification.seconds, 3),
            differing=standing.differing,
        )
        self._kept.keep(standing.differing)
        crash.here("verify.ended")
        standing.tally.add(verdict.bytes_compared, verdict.differing_bytes, time.time())
        self._answer(wanted, verdict)
        level = _log.warning if verdict.differing_bytes else _log.info
        level(
            "verify.ended",
            request=wanted.request,
            compared_bytes=verdict.bytes_compared,
            differing_bytes=verdict.differing_bytes,
            ranges=len(ranges) + more,
            repaired=verdict.repaired,
            seconds=verdict.seconds,
        )

    def _answer(self, wanted: VerifyOrder, verdict: Verified | VerifyFailed) -> None:
        self._standing.verified_order, self._standing.verdict = wanted, verdict
        self._told = verdict
        self._link.send(verdict)


def _writes_under_way(disk: JobDisk) -> bool:
    """Whether a write to a disk may not have ended. Where that is not known only time tells."""
    assert disk.tracked is not None
    return writes_under_way(disk.tracked.major, disk.tracked.minor) is not False
