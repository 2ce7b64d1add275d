"""Whose turn it is to compute.

Digesting what was opened holds the interpreter's lock all the while, and so does opening it with
AES-256-GCM (measured: two threads take twice as long as one; AEGIS lets go of it). There may be
dozens of workers, because a disk can keep one for seconds; but when dozens queue for that lock,
each for a third of a millisecond, the event loop queues with them, and an order of an administrator
takes ten seconds (docs/decisions/0175). So of all workers only as many compute as can do something
by it: one that does, and one that is ready to. The others wait here, without the lock. What
releases it for long (receiving, decompressing, reading and writing disks) needs no turn.

There is one such lock in a process, so there is one :data:`turn`.
"""

from __future__ import annotations

import queue
from typing import Final

COMPUTING: Final = 2


class Turns:
    """So many at a time; use as ``with turn:``.

    Each frame takes a turn, so this is made of a queue of tokens, which is one call in C, and
    not of ``threading.Semaphore``, which is a dozen in Python.
    """

    def __init__(self, at_a_time: int) -> None:
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(at_a_time):
            self._free.put(None)

    def __enter__(self) -> None:
        self._free.get()

    def __exit__(self, *_: object) -> None:
        self._free.put(None)


turn: Final = Turns(COMPUTING)
"""To be held while computing, never while waiting for a peer or a disk."""
