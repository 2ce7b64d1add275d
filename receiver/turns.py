"""Whose turn it is to compute.

Opening a frame and digesting its content hold the interpreter's lock all the while (measured: two
threads take twice as long as one). There may be dozens of workers, because a disk can keep one for
seconds; but when dozens queue for that lock, each for a third of a millisecond, the event loop
queues with them, and an order of an administrator takes ten seconds (docs/decisions/0175). So of
all workers only as many compute as can do something by it: one that does, and one that is ready to.
The others wait here, without the lock. What releases it (receiving, decompressing, reading and
writing disks) needs no turn.

There is one such lock in a process, so there is one :data:`turn`.
"""

from __future__ import annotations

import threading
from typing import Final

COMPUTING: Final = 2

turn: Final = threading.Semaphore(COMPUTING)
"""To be held while computing, never while waiting for a peer or a disk."""
