"""What has been sent and not durably acknowledged, per connection, limited by count and bytes.

The window is its own object (the idea is etcd raft's ``inflights``): senders ask it for room
before they take anything from the dirty map, so what is in flight is bounded however late the
acknowledgements come. Acknowledgements are cumulative per connection: one for frame ``n`` is
one for every frame before it on that connection, and says nothing about other connections.

Losing a connection does not by itself free its batches: see :meth:`InFlight.lost`.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from replicad.dirtymap import Batch


class Stopped(Exception):
    """The window was closed while a sender waited for room."""


@dataclass(frozen=True, slots=True)
class Window:
    """At most so many ``batches`` and ``bytes`` in flight, over all connections."""

    batches: int
    bytes: int


class _Sent(NamedTuple):
    sequence: int
    batch: Batch
    bytes: int
    at: float


class InFlight:
    """The batches in flight of one session. Thread-safe.

    Invariants: sequences of one connection ascend; ``bytes`` is the sum of what was added and
    reserved; nothing is added without room that was reserved for it.
    """

    def __init__(self, window: Window) -> None:
        self._window = window
        # Taken for each frame: a lock is one call in C, its condition a dozen in Python.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._sent: dict[int, deque[_Sent]] = {}
        self._batches = 0
        self._bytes = 0
        self._stopped = False

    # --- room ---------------------------------------------------------------------------------

    @property
    def batches(self) -> int:
        """Batches in flight and reserved."""
        return self._batches

    @property
    def bytes(self) -> int:
        """Bytes in flight and reserved."""
        return self._bytes

    @property
    def empty(self) -> bool:
        """Whether nothing is in flight or reserved."""
        return not self._batches

    def room(self, batches: int, size: int) -> bool:
        """Whether so much could be reserved now. One batch alone always fits."""
        if not self._batches:
            return True
        fits = self._batches + batches <= self._window.batches
        return fits and self._bytes + size <= self._window.bytes

    def reserve(self, batches: int, size: int, timeout: float | None = None) -> bool:
        """Waits until ``batches`` of ``size`` bytes together fit, and keeps the room for them.

        False after ``timeout`` seconds (0: do not wait). Raises :class:`Stopped` after
        :meth:`stop`. What is reserved is used up by :meth:`add` or given back by :meth:`cancel`.
        """
        with self._lock:
            there = self.room(batches, size) or self._changed.wait_for(
                lambda: self._stopped or self.room(batches, size), timeout
            )
            if self._stopped:
                raise Stopped
            if not there:
                return False
            self._batches += batches
            self._bytes += size
            return True

    def cancel(self, batches: int, size: int) -> None:
        """Gives back room that was reserved and is not needed."""
        with self._lock:
            self._free(batches, size)

    def _free(self, batches: int, size: int) -> None:
        if batches > self._batches or size > self._bytes:
            raise ValueError(f"{batches} batches of {size} bytes are more than is in flight")
        self._batches -= batches
        self._bytes -= size
        self._changed.notify_all()

    def stop(self) -> None:
        """Wakes every waiting sender with :class:`Stopped`; what is in flight stays known."""
        with self._lock:
            self._stopped = True
            self._changed.notify_all()

    def resume(self) -> None:
        """Takes :meth:`stop` back."""
        with self._lock:
            self._stopped = False

    # --- what happens to batches --------------------------------------------------------------

    def add(
        self, connection: int, sequence: int, batch: Batch, size: int, reserved: int, now: float
    ) -> None:
        """A batch of ``size`` bytes leaves as frame ``sequence``; ``reserved`` was kept for it.

        Call it *before* the frame is given to the socket: its acknowledgement must find it.
        """
        with self._lock:
            queue = self._sent.setdefault(connection, deque())
            if queue and queue[-1].sequence >= sequence:
                raise ValueError(f"frame {sequence} after {queue[-1].sequence}")
            queue.append(_Sent(sequence, batch, size, now))
            self._bytes += size - reserved
            if size < reserved:
                self._changed.notify_all()

    def acked(self, connection: int, sequence: int) -> list[Batch]:
        """The batches that a cumulative, durable acknowledgement releases, oldest first."""
        with self._lock:
            queue = self._sent.get(connection, deque())
            released = []
            size = 0
            while queue and queue[0].sequence <= sequence:
                sent = queue.popleft()
                released.append(sent.batch)
                size += sent.bytes
            if released:
                self._free(len(released), size)
            return released

    def lost(self, connection: int) -> list[Batch]:
        """The batches of a connection that is gone, oldest first; they are no longer known here.

        Call it, and report the batches lost to their maps, only after the receiver has fenced
        off the connection: until then a frame of it may still be written, after a newer copy of
        the same granules that another connection carried (promise 3).
        """
        with self._lock:
            queue = self._sent.pop(connection, deque())
            if queue:
                self._free(len(queue), sum(sent.bytes for sent in queue))
            return [sent.batch for sent in queue]

    def connections(self) -> list[int]:
        """Connections that have something in flight."""
        with self._lock:
            return [number for number, queue in self._sent.items() if queue]

    def oldest_age(self, now: float) -> float:
        """Seconds since the oldest unacknowledged batch was added; 0 if there is none."""
        with self._lock:
            return max((now - queue[0].at for queue in self._sent.values() if queue), default=0.0)

    def __str__(self) -> str:
        return (
            f"{self._batches} of {self._window.batches} batches, "
            f"{self._bytes} of {self._window.bytes} bytes in flight"
        )
