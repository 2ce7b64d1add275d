"""The process that freezes filesystems and surely thaws them again.

It is started by :mod:`replicad.freeze.freezer` as ``python -I -S watchdog.py`` and imports only
the standard library, so that little can go wrong in it and little has to stay in memory. After
the first FIFREEZE it opens nothing, imports nothing, forks nothing and writes to no file: all it
uses are descriptors that it inherited and memory that it has locked.

One watchdog serves one freeze. It talks over an inherited SOCK_SEQPACKET socket::

    watchdog                            daemon
    {"say": "ready", ...}         ->
                                  <-    freeze SECONDS
    {"say": "frozen", ...}        ->                        or {"say": "failed", "index", "errno"}
                                  <-    thaw
    {"say": "thawed", "why", ...} ->                        also unasked

Everything else thaws: the deadline (SECONDS after the first FIFREEZE began), the end of the
socket (the daemon is gone), any other message, SIGTERM, SIGINT, SIGHUP.

FIFREEZE cannot be interrupted, not even by SIGKILL: the kernel waits for writers and for dirty
data in uninterruptible sleep. So it is called in a second thread. When the time is over while it
blocks, this thread thaws what is already frozen, and the second thread thaws its own filesystem
as soon as the kernel lets it go.

The *ledger*, one byte per mount in memory shared with the daemon, says what was done to each. If
this process is killed, the daemon knows from it what must be thawed and, as important, what was
frozen by somebody else and must not be.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import os
import select
import signal
import socket
import sys
import threading
import time

FIFREEZE = 0xC0045877
FITHAW = 0xC0045878
MCL_CURRENT, MCL_FUTURE = 1, 2
CLONE_FILES = 0x400

UNTOUCHED, TRYING, FROZEN, SYNCED, REFUSED, THAWED = b"\0", b"t", b"F", b"S", b"R", b"T"
"""What the ledger says of a mount. FROZEN is frozen by us, TRYING perhaps."""

STACK_BYTES = 256 * 1024
"""Of the second thread: locked memory is not spent on a stack of 8 MiB."""

MESSAGE_BYTES = 64
"""A longer message from the daemon is malformed."""

MOST_SECONDS = 600.0
"""A longer budget is a mistake."""

DONE = b"!"
"""The second thread's word on the wake pipe; signals write their number (1, 2, 15) there."""

libc = ctypes.CDLL(None, use_errno=True)


class Watchdog:
    """One freeze of ``fds``, in their order. Those whose index is in ``sync_only`` may be of a
    kind that cannot freeze (vfat) and are then only synced."""

    def __init__(
        self, peer: socket.socket, fds: list[int], sync_only: set[int], ledger: mmap.mmap
    ) -> None:
        self.peer, self.fds, self.sync_only, self.ledger = peer, fds, sync_only, ledger
        self.lock = threading.Lock()
        self.over = False
        self.claimed: set[int] = set()
        self.failure: tuple[int, int] | None = None
        self.first = self.last = 0.0
        self.wake_read, self.wake_write = os.pipe()
        os.set_blocking(self.wake_write, False)
        self.begin = threading.Event()
        self.thread = threading.Thread(target=self.freeze_all, daemon=True)

    def run(self) -> None:
        """From ``ready`` to the thaw."""
        threading.stack_size(STACK_BYTES)
        self.thread.start()
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        self.say(say="ready", **secure_myself())
        budget = self.hear_budget()
        if budget is None:
            return
        why = "error"
        self.first = time.monotonic()
        try:
            self.begin.set()
            why = self.hold(self.first + budget)
        finally:
            self.end(why)

    def hear_budget(self) -> float | None:
        """Wait for ``freeze SECONDS``; None when the daemon wants no freeze any more."""
        ready, _, _ = select.select([self.peer.fileno(), self.wake_read], [], [])
        words = [] if self.wake_read in ready else self.peer.recv(MESSAGE_BYTES).split()
        try:
            budget = float(words[1]) if words[0] == b"freeze" else 0.0
        except (IndexError, ValueError):
            return None
        return budget if 0.0 < budget <= MOST_SECONDS else None

    def hold(self, deadline: float) -> str:
        """Keep the filesystems frozen; returns why that ended."""
        poll = select.poll()
        poll.register(self.peer, select.POLLIN)
        poll.register(self.wake_read, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            ready = {fd for fd, _ in poll.poll(left * 1000)}
            if self.wake_read in ready:
                if os.read(self.wake_read, 64).strip(DONE):
                    return "signal"
                if self.failure is not None:
                    return "failed"
                self.say(say="frozen", first=self.first, last=self.last)
            if self.peer.fileno() in ready:
                return self.hear_end()
        return "deadline"

    def hear_end(self) -> str:
        """What a message that ends the freeze means."""
        try:
            message = self.peer.recv(MESSAGE_BYTES)
        except OSError:
            return "gone"
        return {b"thaw": "asked", b"": "gone"}.get(message, "malformed")

    def freeze_all(self) -> None:
        """The second thread: freeze one after the other until done, failed or over.

        It takes a table of descriptors of its own, without the socket. Otherwise, killed inside
        FIFREEZE, it would keep the socket open, and the daemon would not learn of the end.
        """
        if libc.unshare(CLONE_FILES) == 0:
            os.close(self.peer.fileno())
        self.begin.wait()
        for index, fd in enumerate(self.fds):
            if self.is_over():
                return
            self.mark(index, TRYING)
            try:
                self.freeze_one(index, fd)
            except OSError as error:
                self.mark(index, REFUSED)
                self.failure = (index, error.errno or errno.EIO)
                break
            if self.is_over():
                self.thaw_all([index])
                return
        self.last = time.monotonic()
        os.write(self.wake_write, DONE)

    def is_over(self) -> bool:
        """Whether the first thread has begun to thaw."""
        with self.lock:
            return self.over

    def freeze_one(self, index: int, fd: int) -> None:
        """Freeze it, or sync it where that is all that its kind can. Raises OSError."""
        try:
            fcntl.ioctl(fd, FIFREEZE, 0)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP or index not in self.sync_only:
                raise
            if libc.syncfs(fd) != 0:
                raise OSError(ctypes.get_errno(), "syncfs") from error
            self.mark(index, SYNCED)
        else:
            self.mark(index, FROZEN)

    def end(self, why: str) -> None:
        """Thaw in reverse and say so. ``broken``: what was no longer frozen as we left it."""
        with self.lock:
            self.over = True
        broken = self.thaw_all(list(reversed(range(len(self.fds)))))
        now = time.monotonic()
        if self.failure is not None:
            self.say(say="failed", index=self.failure[0], errno=self.failure[1])
        held = why == "asked" and self.last > 0 and self.failure is None and not broken
        self.say(say="thawed", why=why, held=held, first=self.first, end=now, broken=broken)
        self.thread.join()

    def thaw_all(self, indexes: list[int]) -> list[int]:
        """Thaw those that we froze, until all are. Returns those that were not frozen any more."""
        with self.lock:
            pending = [i for i in indexes if self.ledger[i : i + 1] == FROZEN]
            pending = [i for i in pending if i not in self.claimed]
            self.claimed.update(pending)
        broken: list[int] = []
        pause = 0.001
        while pending:
            again: list[int] = []
            for index in pending:
                try:
                    fcntl.ioctl(self.fds[index], FITHAW, 0)
                except OSError as error:
                    # EINVAL: not frozen. Anything else (EBUSY, EIO) leaves it frozen: try again.
                    (broken if error.errno == errno.EINVAL else again).append(index)
                if index not in again:
                    self.mark(index, THAWED)
            pending = again
            if pending:
                time.sleep(pause)
                pause = min(0.1, pause * 2)
        return broken

    def mark(self, index: int, state: bytes) -> None:
        """Write to the ledger."""
        self.ledger[index : index + 1] = state

    def say(self, **message: object) -> None:
        """Tell the daemon, if it listens."""
        # A daemon that is stopped or gone must not keep this process from thawing.
        with contextlib.suppress(OSError):
            self.peer.send(json.dumps(message).encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def secure_myself() -> dict[str, str]:
    """Stay in memory, be run first, be killed last. Returns what was refused and why."""
    refused = {}
    if libc.mlockall(MCL_CURRENT | MCL_FUTURE) != 0:
        refused["unlocked"] = os.strerror(ctypes.get_errno())
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except OSError as error:
        refused["ordinary_priority"] = os.strerror(error.errno or 0)
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
            score.write("-1000")
    except OSError as error:
        refused["killable"] = os.strerror(error.errno or 0)
    return refused


def main(arguments: list[str]) -> None:
    """``watchdog.py SOCKET LEDGER FD[s] ...``: descriptors; an ``s`` marks one as sync only."""
    peer = socket.socket(fileno=int(arguments[0]))
    fds = [int(word.rstrip("s")) for word in arguments[2:]]
    sync_only = {index for index, word in enumerate(arguments[2:]) if word.endswith("s")}
    with peer, mmap.mmap(int(arguments[1]), max(1, len(fds))) as ledger:
        Watchdog(peer, fds, sync_only, ledger).run()


if __name__ == "__main__":
    main(sys.argv[1:])
