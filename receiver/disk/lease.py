"""Noticing that somebody else writes to an intermediate disk that is a file.

Our own writes move the file's time of change as well. So before one the time until which that may
happen is put on record (the lease); a time of change that lies after it is not ours. Renewing costs
a system call or two in two seconds; between renewals a write costs one look at the clock.

What is noticed: a change more than :data:`LEASE_NS` after our last write, at our next write, at a
checkpoint, or when the session closes or opens. What is not: a change between our own writes, and
one during which the machine's clock was put back.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from protocol.errors import TARGET_TOUCHED
from receiver.evidence import NS, touched

if TYPE_CHECKING:
    from collections.abc import Callable

LEASE_NS = 3 * NS
"""Long enough that a machine that stands still for a moment is not taken for somebody else."""

RENEW_NS = 2 * NS
"""A lease that has less than this left is renewed."""


class Lease:
    """The lease of one file; use as ``with lease:`` around each change of it. Thread-safe.

    Args:
        path: of the file, for messages.
        changed: its time of change (ctime), Unix nanoseconds.
        record: puts the end of the lease on record before it counts.

    Attributes:
        doubt: what was seen to be wrong, in words; '' while nothing was.
    """

    def __init__(
        self,
        path: str,
        changed: Callable[[], int],
        record: Callable[[int], None],
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.doubt = ""
        self._path = path
        self._changed = changed
        self._record = record
        self._clock = clock
        self._lock = threading.Lock()
        self._active = 0
        self._until = 0
        self._extend(clock())

    def __enter__(self) -> None:
        """We are about to change the file.

        Raises:
            LocalFault: TARGET_TOUCHED: somebody else has changed it.
        """
        with self._lock:
            now = self._clock()
            if self._due(now):
                # With another change of ours under way its time may be anything.
                if not self._active:
                    self._look()
                self._extend(now)
            self._active += 1

    def __exit__(self, *_: object) -> None:
        """We have changed it; that may have taken long."""
        with self._lock:
            self._active -= 1
            if self._due(now := self._clock()):
                self._extend(now)

    def look(self) -> None:
        """See whether somebody else has changed the file. Nothing is said while we change it.

        Raises:
            LocalFault: TARGET_TOUCHED.
        """
        with self._lock:
            if not self._active:
                self._look()

    def _due(self, now: int) -> bool:
        # Also when the clock was put back: the lease would last too long.
        return not 0 <= self._until - now - RENEW_NS <= LEASE_NS - RENEW_NS

    def _look(self) -> None:
        changed = self._changed()
        if changed > self._until:
            self.doubt = self.doubt or touched(changed)
        if self.doubt:
            raise TARGET_TOUCHED.fault(path=self._path, detail=self.doubt)

    def _extend(self, now: int) -> None:
        self._until = now + LEASE_NS
        self._record(self._until)
