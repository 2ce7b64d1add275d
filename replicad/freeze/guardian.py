"""The daemon watches its watchdog.

A :class:`Guardian` starts the watchdog process, hears what it says, and does its work when it
cannot: when it was killed, and, a little after the deadline, when it was stopped or hangs. It
is a thread of its own, so it works while the daemon reads disks.

What may be frozen by us stands in the *ledger*, a byte per filesystem in memory that both
processes share. So nobody thaws what somebody else has frozen, and nothing is forgotten however
suddenly the watchdog ended.

A watchdog that is killed inside FIFREEZE lives on until the kernel is done, and FITHAW by
somebody else meanwhile waits or fails. So each filesystem is thawed in a thread of its own,
again and again until the watchdog is really dead.
"""

from __future__ import annotations

import contextlib
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
from typing import TYPE_CHECKING, Any

from replicad.freeze import watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

INTERPRETER = (sys.executable, "-I", "-S", "-B")
WATCHDOG = str(Path(watchdog.__file__).resolve())

PATIENCE_SECONDS = 1.0
"""For the watchdog to answer ``thaw`` and to end; then it is taken for stopped."""

RETRY_SECONDS = 0.002
"""Between attempts to thaw a filesystem that is still being frozen."""

RESCUE_SECONDS = 5.0
"""A thaw, or a watchdog, that the kernel holds for longer than this is left to itself."""

_RECEIVE_BYTES = 1 << 16


class Guardian:
    """The watchdog of one freeze and the thread that watches it.

    Args:
        fds: open files of the filesystems, in the order of freezing. They stay the caller's.
        sync_only: indexes of those that may be of a kind that cannot freeze.
        clock: monotonic seconds.

    Attributes:
        heard: the watchdog's messages by their ``say``.
        reason: why the guardian had to thaw, '' when it had not.
        rescued: the guardian is done; when that was not asked for, ``reason`` says why.
    """

    def __init__(self, fds: Sequence[int], sync_only: set[int], clock: Callable[[], float]) -> None:
        self.heard: dict[str, dict[str, Any]] = {}
        self.reason = ""
        self.rescued = False
        self._fds = list(fds)
        self._clock = clock
        self._changed = threading.Condition()
        self._patience: float | None = None
        self._wake = os.eventfd(0)
        shared = os.memfd_create("freeze-ledger")
        self._peer, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            os.ftruncate(shared, max(1, len(fds)))
            self._ledger = mmap.mmap(shared, max(1, len(fds)))
            words = [f"{fd}s" if index in sync_only else f"{fd}" for index, fd in enumerate(fds)]
            self._process = subprocess.Popen(
                [*INTERPRETER, WATCHDOG, str(theirs.fileno()), str(shared), *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={"LC_ALL": "C.UTF-8"},
                pass_fds=(theirs.fileno(), shared, *fds),
                start_new_session=True,
            )
        except OSError:
            self._peer.close()
            os.close(self._wake)
            raise
        finally:
            theirs.close()
            os.close(shared)
        self._thread = threading.Thread(target=self._guard, name="freeze-guardian", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """Of the watchdog."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Nothing is frozen by us any more, as far as it was in our power."""
        return self.rescued or "thawed" in self.heard

    def state(self, index: int) -> bytes:
        """What the ledger says of a filesystem."""
        return self._ledger[index : index + 1]

    def send(self, text: str) -> None:
        """Tell the watchdog. That it is gone is noticed by the thread, not here."""
        with contextlib.suppress(OSError):
            self._peer.send(text.encode(), socket.MSG_NOSIGNAL)

    def expect(self, until: float) -> None:
        """Take over if the watchdog has not ended the freeze by ``until`` (monotonic)."""
        self._patience = until
        os.eventfd_write(self._wake, 1)

    def wait(self, names: tuple[str, ...], seconds: float) -> None:
        """Until one of ``names`` was said, or the guardian had to act, or the time is over."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.rescued or any(name in self.heard for name in names), seconds
            )

    def close(self, latest: float | None = None) -> None:
        """End the watchdog; whatever it has frozen is thawed on the way, by ``latest``."""
        with contextlib.suppress(OSError):
            self._peer.shutdown(socket.SHUT_WR)
        patience = self._clock() + PATIENCE_SECONDS
        self.expect(patience if latest is None else min(patience, latest))
        self._thread.join()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(RESCUE_SECONDS)
        self._peer.close()
        os.close(self._wake)

    # --- the thread --------------------------------------------------------------------------

    def _guard(self) -> None:
        try:
            self._listen()
        finally:
            self._rescue()

    def _listen(self) -> None:
        """Hear the watchdog until it ends or is overdue."""
        poll = select.poll()
        poll.register(self._peer, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(self._milliseconds_left())}
            if self._wake in ready:
                os.eventfd_read(self._wake)
            # What has been said counts, however late we are: we may have been stopped ourselves.
            if self._peer.fileno() in ready:
                message = self._receive()
                if message is None:
                    return
                with self._changed:
                    self.heard[message["say"]] = message
                    if message["say"] == "thawed":
                        self._patience = None
                    self._changed.notify_all()
            elif self._milliseconds_left() == 0:
                self.reason = "the watchdog does not answer"
                return

    def _milliseconds_left(self) -> float | None:
        until = self._patience
        return None if until is None else max(0.0, until - self._clock()) * 1000

    def _receive(self) -> dict[str, Any] | None:
        """The next message; None at the end, which is the end of the process."""
        try:
            raw = self._peer.recv(_RECEIVE_BYTES)
        except OSError:
            return None
        message: dict[str, Any] | None = json.loads(raw) if raw else None
        return message

    def _rescue(self) -> None:
        """Make sure that the watchdog ends, and thaw what the ledger says may be frozen."""
        left = [index for index in range(len(self._fds)) if self._may_be_frozen(index)]
        if left or self.reason:
            self.reason = self.reason or "the watchdog was killed"
            self._process.kill()
        threads = [
            threading.Thread(target=self._thaw, args=(index, os.dup(self._fds[index])), daemon=True)
            for index in reversed(left)
        ]
        for thread in threads:
            thread.start()
        until = time.monotonic() + RESCUE_SECONDS
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        with self._changed:
            self.rescued = True
            self._changed.notify_all()

    def _may_be_frozen(self, index: int) -> bool:
        return self.state(index) in (watchdog.FROZEN, watchdog.TRYING)

    def _thaw(self, index: int, fd: int) -> None:
        """Thaw one filesystem, however long a FIFREEZE of it is still under way. Owns ``fd``."""
        try:
            while self._may_be_frozen(index):
                # Asked before the attempt: once it is dead nothing freezes behind our back.
                dead = self._process.poll() is not None
                try:
                    fcntl.ioctl(fd, watchdog.FITHAW, 0)
                except OSError as error:
                    if error.errno == errno.EINVAL and dead:
                        return
                    time.sleep(RETRY_SECONDS)
                else:
                    self._ledger[index : index + 1] = watchdog.THAWED
        finally:
            os.close(fd)
