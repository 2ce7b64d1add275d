"""The daemon's side of a freeze.

Everything slow or that can fail is done in :meth:`Freezer.prepare`: descriptors are opened and
checked, dirty data is synced, the watchdog is started and has locked its memory. Between
``freeze`` and ``thaw`` only memory, sockets and raw disks are touched.

The daemon and the watchdog watch each other. The watchdog thaws when the daemon is killed, is
stopped or is late. A guardian thread in the daemon thaws when the watchdog is killed, and, a
little after the deadline, when it is stopped. Who was frozen by us stands in the ledger, memory
that both share, so nobody thaws what somebody else has frozen.

FITHAW waits while a FIFREEZE of the same filesystem is still under way, so the guardian thaws
each filesystem in a thread of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import os
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from protocol.errors import FREEZE_FAILED, FREEZE_OVERRUN, LocalFault
from replicad.freeze import watchdog
from replicad.freeze.blockgraph import mount_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from replicad.freeze.mounts import FrozenMount

INTERPRETER = (sys.executable, "-I", "-S", "-B")
WATCHDOG = str(Path(watchdog.__file__).resolve())

READY_SECONDS = 20.0
"""For the watchdog to start: an interpreter without site packages needs 0.02 s on an idle CPU."""

GRACE_SECONDS = 0.1
"""After the deadline the watchdog gets this long before the guardian thaws in its place."""

ANSWER_SECONDS = 1.0
"""For the watchdog to answer ``thaw``; then it is taken for stopped."""

RESYNC_SECONDS = 0.05
"""A sync that took longer is followed by another one: much may have been written meanwhile."""

MOST_SYNCS = 3

RETRY_SECONDS = 0.002
"""Between attempts to thaw a filesystem that is still being frozen."""

CLOSE_SECONDS = 5.0
"""A watchdog, or a thaw, that the kernel holds for longer than this is left to itself."""

_RECEIVE_BYTES = 1 << 16


class Freezer:
    """Freeze ``mounts`` in their order for at most ``budget`` seconds. One object, one freeze.

    Used from one worker thread: ``with Freezer(...) as f: f.prepare(); f.freeze(); ...;
    f.thaw()``. Leaving the block thaws.

    Args:
        mounts: first to freeze first, see :func:`replicad.freeze.mounts.mounts_to_freeze`. None
            at all is allowed: then there is nothing to hold and only time is measured.
        budget: seconds from the first FIFREEZE to the moment when the watchdog thaws by itself.
        clock: must be the system's monotonic clock outside tests; the watchdog uses it too.
    """

    def __init__(
        self,
        mounts: Sequence[FrozenMount],
        budget: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.mounts = tuple(mounts)
        self.budget = budget
        self._clock = clock
        self._fds: list[int] = []
        self._ledger: mmap.mmap | None = None
        self._peer: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guardian: threading.Thread | None = None
        self._changed = threading.Condition()
        self._heard: dict[str, dict[str, Any]] = {}
        self._rescued = False
        self._reason = ""
        self._first: float | None = None
        self._alarm = -1

    # --- before ------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Open, sync, start the watchdog. Takes as long as the dirty data takes to be written.

        Raises:
            LocalFault: ``freeze_failed``: a mount cannot be opened, or no watchdog can be started.
        """
        for mount in self.mounts:
            self._fds.append(_open_mount(mount))
        for fd, mount in zip(self._fds, self.mounts, strict=True):
            _sync(fd, mount, self._clock)
        self._start_watchdog()
        self._wait(("ready",), READY_SECONDS)
        if "ready" not in self._heard:
            raise FREEZE_FAILED.fault(
                mount=self._names(), detail="the process that would thaw it does not start"
            )

    def _start_watchdog(self) -> None:
        shared = os.memfd_create("freeze-ledger")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            size = max(1, len(self._fds))
            os.ftruncate(shared, size)
            self._ledger = mmap.mmap(shared, size)
            words = [
                f"{fd}s" if mount.sync_only else str(fd)
                for fd, mount in zip(self._fds, self.mounts, strict=True)
            ]
            self._peer = ours
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    "-B",
                    str(Path(watchdog.__file__).resolve()),
                    str(theirs.fileno()),
                    str(shared),
                    *words,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={"LC_ALL": "C.UTF-8"},
                pass_fds=(theirs.fileno(), shared, *self._fds),
                start_new_session=True,
            )
        except OSError as error:
            raise FREEZE_FAILED.fault(
                mount=self._names(), detail=f"its watchdog cannot be started: {error}"
            ) from error
        finally:
            theirs.close()
            os.close(shared)
        self._alarm = os.eventfd(0)
        self._guardian = threading.Thread(target=self._guard, name="freeze-guardian", daemon=True)
        self._guardian.start()

    # --- the freeze --------------------------------------------------------------------------

    def freeze(self) -> None:
        """Freeze all, or none.

        Raises:
            LocalFault: ``freeze_failed``, with all thawed again as far as the kernel lets us.
        """
        if "ready" not in self._heard:
            raise RuntimeError("freeze() before prepare()")
        with self._changed:
            self._first = self._clock()
        self._send(f"freeze {self.budget:.6f}")
        self._wait(("frozen", "failed", "thawed"), self.budget + 2 * GRACE_SECONDS)
        if "frozen" in self._heard and not self._ended:
            self._first = float(self._heard["frozen"]["first"])
            return
        self._wait(("thawed",), ANSWER_SECONDS)
        failed = self._heard.get("failed")
        if failed is None:
            raise FREEZE_FAILED.fault(
                mount=self._names(), detail=f"it took longer than the budget ({self._why()})"
            )
        raise self._failure(int(failed["index"]), int(failed["errno"]))

    def _failure(self, index: int, number: int) -> LocalFault:
        detail = {
            errno.EBUSY: "somebody else has frozen it already",
            errno.EOPNOTSUPP: f"{self.mounts[index].kind} cannot be frozen",
        }.get(number, os.strerror(number))
        return FREEZE_FAILED.fault(mount=self.mounts[index].point, detail=detail)

    @property
    def remaining(self) -> float:
        """Seconds until the watchdog thaws; the whole budget before the freeze, 0 after it."""
        if self._first is None:
            return self.budget
        if self._ended:
            return 0.0
        return max(0.0, self._first + self.budget - self._clock())

    @property
    def broken(self) -> bool:
        """The freeze has ended without our asking: what is read now is worth nothing."""
        return self._ended

    def synced_only(self) -> tuple[str, ...]:
        """Mount points that were synced while the others were frozen, as they cannot freeze."""
        ledger = self._ledger
        if ledger is None:
            return ()
        return tuple(
            mount.point
            for index, mount in enumerate(self.mounts)
            if ledger[index : index + 1] == watchdog.SYNCED
        )

    def thaw(self) -> float:
        """Thaw all. Returns the seconds from the first FIFREEZE to the end of the last FITHAW.

        Raises:
            LocalFault: ``freeze_overrun``: it was not frozen from ``freeze`` until now.
        """
        if self._first is None:
            raise RuntimeError("thaw() before freeze()")
        self._send("thaw")
        self._wait(("thawed",), ANSWER_SECONDS)
        if not self._ended:
            self._distrust("the watchdog does not answer")
            self._wait((), ANSWER_SECONDS)
        thawed = self._heard.get("thawed")
        if thawed is None or not thawed["held"]:
            seconds = (float(thawed["end"]) if thawed else self._clock()) - self._first
            raise FREEZE_OVERRUN.fault(seconds=seconds, detail=self._why())
        return float(thawed["end"]) - float(thawed["first"])

    def close(self) -> None:
        """Thaw if that has not been done, end the watchdog and close everything."""
        if self._peer is not None:
            with contextlib.suppress(OSError):
                self._peer.shutdown(socket.SHUT_WR)
        if self._guardian is not None:
            self._guardian.join()
            self._guardian = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSE_SECONDS)
        if self._peer is not None:
            self._peer.close()
            self._peer = None
        for fd in [*self._fds, self._alarm]:
            if fd >= 0:
                os.close(fd)
        self._fds, self._alarm = [], -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- the guardian ------------------------------------------------------------------------

    def _guard(self) -> None:
        """The guardian thread: hear the watchdog, and do its work when it cannot."""
        assert self._peer is not None
        poll = select.poll()
        poll.register(self._peer, select.POLLIN)
        poll.register(self._alarm, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(self._until_distrust())}
            # What has been said counts, however late we are: we may have been stopped ourselves.
            if self._peer.fileno() in ready:
                message = self._receive()
                if message is None:
                    break
                with self._changed:
                    self._heard[message["say"]] = message
                    self._changed.notify_all()
            elif self._alarm in ready:
                break
            elif self._until_distrust() == 0:
                self._reason = "the watchdog let the deadline pass"
                break
        self._thaw_in_place()

    def _until_distrust(self) -> float | None:
        """Milliseconds until the watchdog is overdue; None when nothing is expected of it."""
        if self._first is None or self._ended:
            return None
        return max(0.0, self._first + self.budget + GRACE_SECONDS - self._clock()) * 1000

    def _receive(self) -> dict[str, Any] | None:
        assert self._peer is not None
        try:
            raw = self._peer.recv(_RECEIVE_BYTES)
        except OSError:
            return None
        message: dict[str, Any] | None = json.loads(raw) if raw else None
        return message

    def _thaw_in_place(self) -> None:
        """Kill the watchdog if it lives, and thaw what the ledger says may be frozen by us."""
        assert self._process is not None
        assert self._ledger is not None
        if self._ledger_has(watchdog.FROZEN, watchdog.TRYING):
            self._process.kill()
            threads = [
                threading.Thread(target=self._thaw_one, args=(index, os.dup(fd)), daemon=True)
                for index, fd in reversed(list(enumerate(self._fds)))
            ]
            for thread in threads:
                thread.start()
            until = time.monotonic() + CLOSE_SECONDS
            for thread in threads:
                thread.join(max(0.0, until - time.monotonic()))
            self._reason = self._reason or "the watchdog was killed"
        with self._changed:
            self._rescued = True
            self._changed.notify_all()

    def _thaw_one(self, index: int, fd: int) -> None:
        """Thaw one filesystem, waiting for a FIFREEZE of the dying watchdog that still runs."""
        assert self._process is not None
        assert self._ledger is not None
        try:
            while True:
                # Asked before the attempt: after its end nothing can freeze behind our back.
                dead = self._process.poll() is not None
                state = self._ledger[index : index + 1]
                if state not in (watchdog.FROZEN, watchdog.TRYING):
                    return
                try:
                    fcntl.ioctl(fd, watchdog.FITHAW, 0)
                except OSError as error:
                    if error.errno == errno.EINVAL and dead:
                        return
                    time.sleep(RETRY_SECONDS)
                else:
                    self._ledger[index : index + 1] = watchdog.THAWED
                    return
        finally:
            os.close(fd)

    def _ledger_has(self, *states: bytes) -> bool:
        assert self._ledger is not None
        return any(state in self._ledger[:] for state in states)

    # --- small parts -------------------------------------------------------------------------

    @property
    def _ended(self) -> bool:
        return self._rescued or "thawed" in self._heard or "failed" in self._heard

    def _distrust(self, reason: str) -> None:
        self._reason = reason
        os.eventfd_write(self._alarm, 1)

    def _send(self, text: str) -> None:
        assert self._peer is not None
        # A watchdog that is gone is the guardian's business.
        with contextlib.suppress(OSError):
            self._peer.send(text.encode(), socket.MSG_NOSIGNAL)

    def _wait(self, names: tuple[str, ...], seconds: float) -> None:
        """Until one of ``names`` was said, or the watchdog is gone, or the time is over."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._rescued or any(name in self._heard for name in names), seconds
            )

    def _why(self) -> str:
        thawed = self._heard.get("thawed")
        if thawed is None:
            return self._reason or "the watchdog does not answer"
        if thawed["broken"]:
            points = ", ".join(self.mounts[int(index)].point for index in thawed["broken"])
            return f"somebody else has thawed {points}"
        return {
            "deadline": f"the budget of {self.budget:g} s was used up",
            "signal": "the watchdog was told to end",
        }.get(thawed["why"], f"the watchdog ended it ({thawed['why']})")

    def _names(self) -> str:
        return ", ".join(mount.point for mount in self.mounts) or "(none)"


def _open_mount(mount: FrozenMount) -> int:
    """Open the filesystem by the first of its ways that really leads to it."""
    detail = "no way to it"
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


def _sync(fd: int, mount: FrozenMount, clock: Callable[[], float]) -> None:
    """Write out what is dirty, so that FIFREEZE finds little to write."""
    libc = ctypes.CDLL(None, use_errno=True)
    for _ in range(MOST_SYNCS):
        begun = clock()
        if libc.syncfs(fd) != 0:
            detail = f"syncing it: {os.strerror(ctypes.get_errno())}"
            raise FREEZE_FAILED.fault(mount=mount.point, detail=detail)
        if clock() - begun < RESYNC_SECONDS:
            return
