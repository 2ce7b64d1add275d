"""The daemon's side of a freeze.

Everything that is slow or can fail is done in :meth:`Freezer.prepare`: descriptors are opened
and checked, dirty data is synced, the watchdog is started and has locked its memory. Between
``freeze`` and ``thaw`` only memory, sockets and raw disks are touched.

The watchdog process does the freezing and thawing (:mod:`replicad.freeze.watchdog`) and thaws
by itself when the daemon is killed, is stopped or is late. The guardian thread
(:mod:`replicad.freeze.guardian`) thaws when something happens to the watchdog.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from typing import TYPE_CHECKING, Self

from protocol.errors import FREEZE_FAILED, FREEZE_OVERRUN, LocalFault
from protocol.local import crash
from replicad.freeze import watchdog
from replicad.freeze.blockgraph import mount_id
from replicad.freeze.guardian import PATIENCE_SECONDS, RESCUE_SECONDS, Guardian
from replicad.freeze.leftover import remove_record, write_record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
from types import TracebackType

from replicad.freeze.mounts import FrozenMount

READY_SECONDS = 20.0
"""For the watchdog to start: an interpreter without site packages needs 0.02 s on an idle CPU."""

GRACE_SECONDS = 0.1
"""After the deadline the watchdog gets this long before the guardian thaws in its place."""

RESYNC_SECONDS = 0.05
"""A sync that took longer is followed by another one: much may have been written meanwhile."""

MOST_SYNCS = 3


class Freezer:
    """Freeze ``mounts`` in their order for at most ``budget`` seconds. One object, one freeze.

    Used from one worker thread::

        with Freezer(mounts, budget) as freezer:
            freezer.prepare()
            freezer.freeze()
            ...                       # read, as long as freezer.remaining allows
            seconds = freezer.thaw()  # raises if it was not frozen all the time

    Leaving the block thaws in any case.

    Args:
        mounts: first to freeze first, see :func:`replicad.freeze.mounts.mounts_to_freeze`. None
            at all is allowed: then there is nothing to hold and only the time is measured.
        budget: seconds from the first FIFREEZE to the moment when the watchdog thaws by itself.
        clock: CLOCK_MONOTONIC, which the watchdog uses too.
        record: a file in memory that says what is frozen while it is, for the case that daemon
            and watchdog are killed together (:mod:`replicad.freeze.leftover`).
    """

    def __init__(
        self,
        mounts: Sequence[FrozenMount],
        budget: float,
        clock: Callable[[], float] = time.monotonic,
        record: Path | None = None,
    ) -> None:
        self.mounts = tuple(mounts)
        self.budget = budget
        self._clock = clock
        self._record = record
        self._fds: list[int] = []
        self._guardian: Guardian | None = None
        self._first: float | None = None

    def prepare(self) -> None:
        """Open, sync, start the watchdog. Takes as long as dirty data takes to be written.

        Raises:
            LocalFault: ``freeze_failed``: a mount cannot be opened or synced, or the watchdog
                does not start.
        """
        for mount in self.mounts:
            self._fds.append(_open_mount(mount))
        for fd, mount in zip(self._fds, self.mounts, strict=True):
            _sync(fd, mount, self._clock)
        sync_only = {index for index, mount in enumerate(self.mounts) if mount.sync_only}
        try:
            self._guardian = Guardian(self._fds, sync_only, self._clock)
        except OSError as error:
            raise self._failed(f"its watchdog cannot be started: {error}") from error
        self._guardian.wait(("ready",), READY_SECONDS)
        if "ready" not in self._guardian.heard:
            raise self._failed("its watchdog does not start")

    def flush(self) -> float:
        """Sync once more: what was written since :meth:`prepare` need not be written frozen.

        Returns:
            Seconds that it took; FIFREEZE begins with the same.

        Raises:
            LocalFault: ``freeze_failed``.
        """
        begun = self._clock()
        for fd, mount in zip(self._fds, self.mounts, strict=True):
            _sync(fd, mount, self._clock, 1)
        return self._clock() - begun

    def freeze(self) -> None:
        """Freeze all, or none.

        Raises:
            LocalFault: ``freeze_failed``. All is thawed again, except what the kernel is still
                freezing, which is thawed as soon as it is.
        """
        guardian = self._prepared()
        if self._record is not None:
            paths = [(mount.device, [path for path, _ in mount.ways]) for mount in self.mounts]
            write_record(self._record, paths)
            crash.here("freeze.recorded")
        self._first = self._clock()
        guardian.expect(self._first + self.budget + GRACE_SECONDS)
        guardian.send(f"freeze {self.budget:.6f}")
        limit = self.budget + GRACE_SECONDS + RESCUE_SECONDS
        guardian.wait(("frozen", "failed", "thawed"), limit)
        if "frozen" in guardian.heard:
            self._first = float(guardian.heard["frozen"]["first"])
        elif "failed" in guardian.heard:
            failed = guardian.heard["failed"]
            raise self._refused(int(failed["index"]), int(failed["errno"]))
        else:
            raise self._failed(self._why(guardian))

    @property
    def remaining(self) -> float:
        """Seconds until the watchdog thaws; the whole budget before the freeze, 0 after it."""
        if self._first is None:
            return self.budget
        if self._prepared().ended:
            return 0.0
        return max(0.0, self._first + self.budget - self._clock())

    @property
    def synced_only(self) -> tuple[str, ...]:
        """Mount points that were synced while the others were frozen, as they cannot freeze."""
        guardian = self._prepared()
        return tuple(
            mount.point
            for index, mount in enumerate(self.mounts)
            if guardian.state(index) == watchdog.SYNCED
        )

    @property
    def unprotected(self) -> dict[str, str]:
        """What the watchdog asked of the kernel and was refused, with the reason.

        Keys: ``unlocked`` (memory), ``ordinary_priority``, ``killable`` (when memory runs out).
        """
        ready = self._prepared().heard["ready"]
        return {name: str(why) for name, why in ready.items() if name != "say"}

    @property
    def watchdog_pid(self) -> int:
        """Process id of the watchdog."""
        return self._prepared().pid

    def thaw(self) -> float:
        """Thaw all. Returns the seconds from the first FIFREEZE to the end of the last FITHAW.

        Raises:
            LocalFault: ``freeze_overrun``: it was not frozen from ``freeze`` until now, and what
                was read meanwhile is no single instant of the disk.
        """
        guardian = self._prepared()
        if self._first is None:
            raise RuntimeError("thaw() before freeze()")
        if not guardian.ended:
            # Never later than it was to take over anyway: thawing belongs to the budget.
            latest = self._first + self.budget + GRACE_SECONDS
            guardian.expect(min(self._clock() + PATIENCE_SECONDS, latest))
            guardian.send("thaw")
        guardian.wait(("thawed",), PATIENCE_SECONDS + RESCUE_SECONDS)
        thawed = guardian.heard.get("thawed")
        if thawed is None or not thawed["held"]:
            end = float(thawed["end"]) if thawed else self._clock()
            raise FREEZE_OVERRUN.fault(seconds=end - self._first, detail=self._why(guardian))
        return float(thawed["end"]) - float(thawed["first"])

    def close(self) -> None:
        """Thaw if that has not been done, end the watchdog and close everything."""
        if self._guardian is not None:
            frozen = self._first is not None and not self._guardian.ended
            self._guardian.close(
                self._first + self.budget + GRACE_SECONDS if frozen and self._first else None
            )
            self._guardian = None
            if self._record is not None:
                remove_record(self._record)
        while self._fds:
            os.close(self._fds.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _prepared(self) -> Guardian:
        if self._guardian is None:
            raise RuntimeError("the freezer is not prepared, or closed")
        return self._guardian

    def _failed(self, detail: str) -> LocalFault:
        points = ", ".join(mount.point for mount in self.mounts) or "(none)"
        return FREEZE_FAILED.fault(mount=points, detail=detail)

    def _refused(self, index: int, number: int) -> LocalFault:
        detail = {
            errno.EBUSY: "somebody else has frozen it already",
            errno.EOPNOTSUPP: f"{self.mounts[index].kind} cannot be frozen",
        }.get(number, os.strerror(number))
        return FREEZE_FAILED.fault(mount=self.mounts[index].point, detail=detail)

    def _why(self, guardian: Guardian) -> str:
        """Why the freeze ended otherwise than by our asking."""
        thawed = guardian.heard.get("thawed")
        if thawed is None:
            return guardian.reason or "the watchdog ended early"
        if thawed["broken"]:
            points = ", ".join(self.mounts[int(index)].point for index in thawed["broken"])
            return f"somebody else has thawed {points}"
        return {
            "deadline": f"the budget of {self.budget:g} s was used up",
            "signal": "the watchdog was told to end",
        }.get(thawed["why"], f"the watchdog ended it ({thawed['why']})")


def _open_mount(mount: FrozenMount) -> int:
    """Open the filesystem by the first of its ways that really leads to it."""
    detail = "no way leads to it"
    for path, wanted in mount.ways:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            detail = f"{path}: {error.strerror}"
            continue
        if mount_id(fd) == wanted:
            return fd
        os.close(fd)
        detail = f"{path} is hidden by another mount"
    raise FREEZE_FAILED.fault(mount=mount.point, detail=detail)


def _sync(fd: int, mount: FrozenMount, clock: Callable[[], float], most: int = MOST_SYNCS) -> None:
    """Write out what is dirty, so that FIFREEZE finds little to write."""
    libc = ctypes.CDLL(None, use_errno=True)
    for _ in range(most):
        begun = clock()
        if libc.syncfs(fd) != 0:
            detail = f"syncing it: {os.strerror(ctypes.get_errno())}"
            raise FREEZE_FAILED.fault(mount=mount.point, detail=detail)
        if clock() - begun < RESYNC_SECONDS:
            return
