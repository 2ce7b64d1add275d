"""Writes lines to a file descriptor without ever making the caller wait for it.

While the source holds filesystems frozen, a log that ends up on one of them cannot be
written: journald stops reading, its socket fills, and ``write(2)`` blocks. A thread that
logs would then wait for a thaw that it is itself supposed to bring about (promise 6). So
lines go into a bounded queue in memory and one thread, which holds no lock while it writes,
carries them out. When the queue is full the oldest lines go, and a line says how many.

The thread is a daemon thread: one that is stuck in ``write(2)`` does not keep a process alive.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# Bytes of lines that may wait. A busy daemon logs some KiB a second: minutes of a stuck log.
QUEUE_BYTES: Final = 4 << 20

# Lines that may wait; bounds what many short lines cost in objects.
QUEUE_LINES: Final = 16_384

# How long the end of the process waits for a log that does not take lines.
FLUSH_SECONDS: Final = 2.0


class LineWriter:
    """A bounded queue of lines in front of a file descriptor, which stays the caller's.

    Args:
        fd: where lines are written. May be blocking or not.
        about_dropped: makes the line that reports a number of dropped lines.
        limit_bytes: bytes of lines that may wait.
        limit_lines: lines that may wait.

    Attributes:
        dropped: lines lost since the start, because the queue was full or the file failed.
    """

    def __init__(
        self,
        fd: int,
        about_dropped: Callable[[int], bytes],
        *,
        limit_bytes: int = QUEUE_BYTES,
        limit_lines: int = QUEUE_LINES,
    ) -> None:
        self._fd = fd
        self._about_dropped = about_dropped
        self._limit_bytes = limit_bytes
        self._limit_lines = limit_lines
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._unreported = 0
        self._closing = False
        self.dropped = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._carry, name="log", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        """Queue a line that ends in a newline. Never waits for the file."""
        with self._changed:
            if self._closing:
                self.dropped += 1
                return
            self._lines.append(line)
            self._bytes += len(line)
            while self._bytes > self._limit_bytes or len(self._lines) > self._limit_lines:
                self._bytes -= len(self._lines.popleft())
                self.dropped += 1
                self._unreported += 1
            self._changed.notify()

    def close(self, seconds: float = FLUSH_SECONDS) -> bool:
        """Write what waits, for at most ``seconds``; False when lines were left behind."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _next(self) -> tuple[int, bytes]:
        """The number of losses to report and the next line; ``(0, b"")`` at the end."""
        with self._changed:
            while not self._lines and not self._closing:
                self._changed.wait()
            line = self._lines.popleft() if self._lines else b""
            self._bytes -= len(line)
            count, self._unreported = self._unreported, 0
            return count, line

    def _carry(self) -> None:
        while True:
            count, line = self._next()
            if not count and not line:
                return
            try:
                # What was dropped is older than what is in the queue: it is said first.
                _write_all(self._fd, (self._about_dropped(count) if count else b"") + line)
            except OSError:
                if not line:
                    return
                # A full disk, a closed pipe: there is no place left to report to. The loss
                # is said before the next line that can be written.
                with self._changed:
                    self.dropped += 1
                    self._unreported += count + 1


def _write_all(fd: int, line: bytes) -> None:
    rest = memoryview(line)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            # Standard error may be a pipe that another process made non-blocking.
            select.select([], [fd], [])
