"""How the content of one instant is got while everything stands still: by reading what the
tracker saw, by sending it at once when memory is too small, or by comparing everything.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from concurrent.futures import wait

from protocol.errors import CHECKPOINT_SUPERSEDED, FREEZE_TOO_LONG
from protocol.local import crash
from replicad import forecast
from replicad.engine.frozen import READERS, Exact, Frozen
from replicad.engine.passes import run_pass
from replicad.feed import Work
from replicad.threads import to_end

FROZEN_PASSES = 3
"""Passes that may be made while frozen: what a comparison finds next to something in flight
takes another one."""


async def read_frozen(frozen: Frozen, exact: Exact) -> None:
    """Drain, plan, read: with a tracker."""
    with exact.step("drain"):
        await to_end(frozen.workers, frozen.disks.drain_frozen)
    crash.here("checkpoint.drained")
    if frozen.disks.suspect:
        raise CHECKPOINT_SUPERSEDED.fault(detail="writes may have gone unnoticed")
    if frozen.fits_memory():
        with exact.step("read"):
            works = await to_end(frozen.workers, _read_all, frozen)
        exact.read_bytes = sum(work.size for work in works)
        exact.read_runs = sum(len(work.ranges) for work in works)
    else:
        # More than memory was reserved for, but the line is fast enough: send it while frozen.
        with exact.step("send"):
            await _pass_frozen(frozen)


def _read_all(frozen: Frozen) -> Sequence[Work]:
    """Read everything that is dirty into memory, by several threads; all have ended then."""
    works = frozen.plan()
    crash.here("checkpoint.planned")
    if len(works) < READERS:
        frozen.read(works)
        return works
    reads = [
        frozen.workers.submit(frozen.read, works[start::READERS]) for start in range(1, READERS)
    ]
    try:
        frozen.read(works[::READERS])
    finally:
        wait(reads)
    for each in reads:
        each.result()
    return works


async def _pass_frozen(frozen: Frozen) -> None:
    """Send or compare while frozen until nothing differs.

    It waits for the receiver, who may be slow or silent; nobody waits for it longer than the
    freeze lasts. What is under way then is answered later, as in any other pass.

    Raises:
        LocalFault: FREEZE_TOO_LONG when something still differs; SOURCE_DISK_READ.
    """
    left = frozen.freezer.remaining if frozen.mounted else None
    with frozen.transfer.hurry(), contextlib.suppress(TimeoutError):
        async with asyncio.timeout(left):
            for _ in range(FROZEN_PASSES):
                await run_pass(frozen.transfer, frozen.disks, whole=True)
                frozen.disks.refuse_unreadable()
                if not frozen.disks.differ:
                    return
    raise FREEZE_TOO_LONG.fault(
        forecast=frozen.freezer.budget,
        budget=frozen.freezer.budget,
        detail="what differs could not be sent while frozen",
    )


async def compare_frozen(frozen: Frozen, exact: Exact) -> None:
    """Without a tracker: compare everything, and send what differs, while frozen.

    Raises:
        LocalFault: FREEZE_TOO_LONG when filesystems would have to stay frozen for too long.
    """
    frozen.disks.suspect_untracked()
    with exact.step("drain"):
        await to_end(frozen.workers, frozen.disks.drain_frozen)
    if frozen.mounted:
        size = sum(disk.size for disk in frozen.disks.disks)
        seconds = forecast.reading_seconds(size, 0, frozen.outlook.rates())
        if seconds > frozen.freezer.remaining:
            raise FREEZE_TOO_LONG.fault(
                forecast=seconds,
                budget=frozen.freezer.budget,
                detail="writes are not tracked, so all of it would be compared while frozen",
            )
    with exact.step("compare"):
        await _pass_frozen(frozen)
