"""The checkpoint: bring the copy close, freeze, make it exact, thaw.

In order: what can be slow comes first (delta passes, memory, sync, the watchdog, hooks), then
the freeze, then everything that was read while frozen is sent. What the receiver commits is
that instant and nothing else; marks made after the thaw stay in the kernel or in the maps until
the commit. A freeze that does not fit its budget is given up, and tried again after another
delta pass; so is one in which events were missed.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from protocol.errors import (
    CHECKPOINT_SUPERSEDED,
    FREEZE_FAILED,
    FREEZE_OVERRUN,
    FREEZE_TOO_LONG,
    Fault,
)
from protocol.local import crash, log
from protocol.wire.jobs import CheckpointOrder, Consistency
from replicad import forecast
from replicad.convergence import Outlook
from replicad.engine.disks import DiskSet
from replicad.engine.frozen import Exact, Frozen
from replicad.engine.instant import compare_frozen, read_frozen
from replicad.engine.passes import run_pass
from replicad.freeze.freezer import Freezer
from replicad.freeze.hooks import HookContext, Phase, raise_failed, run_hooks
from replicad.freeze.memory import lock_memory, unlock_memory
from replicad.freeze.mounts import FrozenMount, mounts_to_freeze
from replicad.threads import ended, to_end
from replicad.transfer import Transfer

DELTA_PASSES = 8
"""Delta passes that may be made to bring the forecast into the budget before giving up."""

ATTEMPTS = 4
"""Freezes that are tried when one turns out too long: the writer may just have had a burst."""

SHRINKS = 0.9
"""A pass that leaves more than this share of what there was before it has brought nothing."""

PATIENCE = 2
"""Passes that may bring nothing before the checkpoint is given up; one, when it is known that
what is written outruns the line."""

SETTLING = forecast.ROUNDS
"""Rounds of sync and pass right before the freeze. With one, 75 ms of reading while frozen were
measured at 20 MB/s of random writes, with two 35; more only gives the writer more time."""

SYNC_SHARE = 0.7
"""Of the budget: a last sync that takes longer is tried again, since FIFREEZE does the same, and
nothing can interrupt that."""

MOST_SYNCS = 4

HOOK_SECONDS = 60.0
"""For one hook outside the freeze; inside it the budget is the limit."""

_AGAIN = frozenset({FREEZE_TOO_LONG.code, FREEZE_OVERRUN.code, CHECKPOINT_SUPERSEDED.code})

_log = log.get("checkpoint")


@dataclass(frozen=True, slots=True)
class Taken:
    """A checkpoint that the receiver durably holds and that waits to be committed.

    ``frozen_seconds`` is 0 when nothing had to be frozen; ``forecast`` is what was expected of
    it right before; ``taken`` is RFC 3339 UTC; ``milliseconds`` says where the time went.
    """

    consistency: Consistency
    frozen_seconds: float
    forecast: float
    taken: str
    milliseconds: dict[str, float] = field(default_factory=dict)


class Checkpointer:
    """Takes checkpoints of a set of disks over a transfer.

    Args:
        budget: seconds that filesystems may stay frozen by the job's order; the outlook knows
            what this server allows.
        workers: frozen.THREADS threads for what blocks; also read while frozen.
        record: where in memory it is written what is frozen, while it is.
        outlook: what is known of writer, line and earlier freezes.
    """

    def __init__(
        self,
        disks: DiskSet,
        transfer: Transfer,
        budget: float,
        hooks: Path,
        context: HookContext,
        workers: Executor,
        record: Path,
        outlook: Outlook,
    ) -> None:
        self._disks = disks
        self._transfer = transfer
        self._ordered = budget
        self._budget = outlook.allowed(budget)
        self._hooks = hooks
        self._context = context
        self._record = record
        self._run = partial(to_end, workers)
        self._workers = workers
        self._outlook = outlook

    async def take(self, order: CheckpointOrder) -> Taken:
        """Converge, freeze, read, thaw and send.

        Raises:
            Fault: why it could not be taken; nothing is frozen then, and nothing is lost.
        """
        if because := forecast.capped(self._ordered, self._outlook.longest):
            _log.warning("freeze.capped", request=order.request, because=because)
        for attempt in range(1, ATTEMPTS + 1):
            await self._readable()
            if self._disks.tracked:
                await self._converge()
            await asyncio.sleep(self._outlook.rest_seconds)
            try:
                return await self._attempt()
            except Fault as fault:
                if fault.code not in _AGAIN or attempt == ATTEMPTS:
                    raise
                _log.info("checkpoint.again", request=order.request, because=fault.sentence)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _attempt(self) -> Taken:
        crash.here("checkpoint.converged")
        mounts = await self._run(mounts_to_freeze, [disk.path for disk in self._disks.disks])
        freezer = Freezer(mounts, self._budget, record=self._record)
        with_filesystem = _covered(self._disks, mounts)
        frozen = Frozen(
            self._disks,
            self._transfer,
            freezer,
            bool(mounts),
            with_filesystem,
            self._workers,
            self._outlook,
        )
        try:
            taken = await self._hold(frozen)
            if frozen.works:
                await self._transfer.send(frozen.take)
            crash.here("checkpoint.sent")
        except BaseException:
            # What no sender has begun is dirty again; what one has, belongs to the transfer.
            frozen.give_up()
            raise
        finally:
            frozen.free()
        return taken

    async def _readable(self) -> None:
        """Whatever could not be read until now must be readable.

        Raises:
            LocalFault: SOURCE_DISK_READ.
        """
        await self._disks.try_again(now=True)
        self._disks.refuse_unreadable()

    # --- before the freeze --------------------------------------------------------------------

    async def _converge(self) -> None:
        """Delta passes until a freeze is forecast to fit. Gives up when passes bring nothing.

        Raises:
            LocalFault: FREEZE_TOO_LONG with what would be needed.
        """
        disks, outlook, budget = self._disks, self._outlook, self._ordered
        before: int | None = None
        in_vain = 0
        for _ in range(DELTA_PASSES):
            await disks.drain()
            if outlook.fits(disks, budget):
                return
            if outlook.hopeless(disks, budget):
                break
            dirty = sum(disk.live_map.dirty_bytes for disk in disks.disks)
            if before is not None and not disks.suspect and dirty > SHRINKS * before:
                in_vain += 1
                if in_vain >= (1 if outlook.outruns else PATIENCE):
                    break
            before = None if disks.suspect else dirty
            await run_pass(self._transfer, disks)
        else:
            await disks.drain()
        if not outlook.fits(disks, budget):
            raise outlook.too_long(disks, budget)

    async def _hook(self, phase: Phase, limit: float) -> bool:
        """Run the hooks of a phase; whether there was one. Those after the thaw only warn."""
        runs = await run_hooks(self._hooks, phase, self._context, limit)
        for run in runs:
            _log.info(
                "hook.ran",
                hook=run.hook,
                phase=phase,
                seconds=round(run.seconds, 3),
                ok=run.ok,
                said=run.output[-300:].strip(),
            )
        if phase != "post-thaw":
            raise_failed(runs)
        return bool(runs)

    # --- the freeze ---------------------------------------------------------------------------

    async def _hold(self, frozen: Frozen) -> Taken:
        """From the preparations to the thaw and what must be undone after it."""
        await self._run(frozen.reserve)
        crash.here("checkpoint.reserved")
        hooked = False
        try:
            if frozen.mounted:
                await self._run(lock_memory)
            await self._run(frozen.freezer.prepare)
            crash.here("checkpoint.prepared")
            await self._settle(frozen)
            self._disks.refuse_unreadable()
            try:
                crash.here("checkpoint.settled")
                hooked = await self._hook("pre-freeze", HOOK_SECONDS)
                crash.here("checkpoint.hooked")
                # Not before: a hook may be what makes the writer stop.
                await self._run(frozen.refuse_busy)
                # A database's hook writes, and so did everybody during the last pass; better
                # now than frozen.
                expected = await self._flush(frozen)
                exact = await self._inside(frozen)
            finally:
                await self._hook("post-thaw", HOOK_SECONDS)
            crash.here("checkpoint.post_thaw")
            await self._run(frozen.judge_moved)
        finally:
            await self._run(_let_go, frozen.freezer)
        consistency = exact.consistency
        if hooked and consistency == "filesystem":
            consistency = "application"
        return Taken(consistency, exact.frozen_seconds, expected, exact.taken, exact.milliseconds)

    async def _settle(self, frozen: Frozen) -> None:
        """Have as little as possible to write and to read while frozen: each round sends what
        was written in the one before, which took longer."""
        if not self._disks.tracked or self._outlook.outruns:
            return
        for again in range(SETTLING):
            if again:
                await self._run(frozen.freezer.flush)
            await self._disks.drain()
            await run_pass(self._transfer, self._disks)

    async def _flush(self, frozen: Frozen) -> float:
        """The last sync, and whether the freeze still fits: the seconds that it should take.

        Raises:
            LocalFault: FREEZE_TOO_LONG.
        """
        if not frozen.mounted:
            return 0.0
        disks, outlook = self._disks, self._outlook
        syncs = 0
        while (seconds := await self._run(frozen.freezer.flush)) > SYNC_SHARE * self._budget:
            syncs += 1
            if syncs < MOST_SYNCS:
                continue
            because = f"writing out what is dirty takes {seconds:.2f} s each time"
            raise outlook.too_long(disks, self._ordered, because)
        if disks.tracked:
            await disks.drain()
            # The watchdog keeps to the budget; what surely does not fit need not be tried.
            seconds = outlook.believed(outlook.forecast_settled(disks))
            if not disks.suspect and seconds > self._budget:
                raise outlook.too_long(disks, self._ordered)
            await self._run(frozen.enlarge)
        return outlook.forecast_settled(disks) + outlook.costs.hooks

    async def _inside(self, frozen: Frozen) -> Exact:
        """Everything between the first FIFREEZE and the last FITHAW."""
        exact = Exact(frozen.consistency)
        hooks: asyncio.Task[bool] | None = None
        begun = time.monotonic()
        try:
            if frozen.mounted:
                with exact.step("freeze"):
                    await self._run(frozen.freezer.freeze)
            crash.here("checkpoint.frozen")
            hooks = asyncio.create_task(self._hook("frozen", max(0.1, self._budget)))
            if self._disks.tracked:
                await read_frozen(frozen, exact)
            else:
                await compare_frozen(frozen, exact)
            with exact.step("hooks"):
                await hooks
            with exact.step("still"):
                await self._run(frozen.still)
            crash.here("checkpoint.still")
        except BaseException:
            try:
                if frozen.mounted:
                    await self._run(_thaw_quietly, frozen.freezer)
                    self._outlook.rest(time.monotonic() - begun)
            finally:
                if hooks is not None:
                    await ended(hooks)
            raise
        if frozen.mounted:
            with exact.step("thaw"):
                exact.frozen_seconds = await self._run(self._thaw, frozen.freezer, begun)
        crash.here("checkpoint.thawed")
        if frozen.mounted:
            self._learn(exact)
        return exact

    def _thaw(self, freezer: Freezer, begun: float) -> float:
        try:
            return freezer.thaw()
        finally:
            self._outlook.rest(time.monotonic() - begun)

    def _learn(self, exact: Exact) -> None:
        """What this freeze cost is what the next one is expected to cost."""
        if self._disks.tracked and "send" not in exact.milliseconds:
            reading, hooks = (exact.milliseconds[step] / 1000 for step in ("read", "hooks"))
            self._outlook.froze(
                exact.frozen_seconds, reading, hooks, exact.read_bytes, exact.read_runs
            )


def _let_go(freezer: Freezer) -> None:
    """End the watchdog, whatever is still frozen thaws then; and unlock our memory."""
    try:
        freezer.close()
    finally:
        unlock_memory()


def _thaw_quietly(freezer: Freezer) -> None:
    """Thaw after something else went wrong, whose fault is the one to report."""
    try:
        freezer.thaw()
    except Fault as fault:
        if fault.code not in {FREEZE_OVERRUN.code, FREEZE_FAILED.code}:
            raise
    except RuntimeError:
        # It never came to a freeze.
        return


def _covered(disks: DiskSet, mounts: tuple[FrozenMount, ...]) -> frozenset[str]:
    """The paths of the disks that at least one of the filesystems lies on."""
    names = {name for mount in mounts for name in mount.disks}
    return frozenset(d.path for d in disks.disks if Path(d.path).resolve().name in names)
