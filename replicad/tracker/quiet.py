"""Waiting until no program marks the bitmap that was active before a flip.

It sits inside the freeze of the filesystems, so its latency is downtime. The kernel's own wait, a
grace period of RCU (membarrier(MEMBARRIER_CMD_GLOBAL) or the update of an inner map), took 9 ms in
the median and up to 160 ms where this was measured; docs/decisions/0011 has the figures. Programs
therefore count themselves per CPU and hook while they mark, and the wait looks until each count was
zero once: microseconds. The argument is Dekker's: the program raises its count, then reads which
bitmap is active; the drain flips, then reads the counts; with a full barrier between the two steps
on both sides at least one sees the other. The program's barrier is its atomic increment, the
drain's is membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED), used here for nothing but the full barrier
that it executes on the caller's CPU (it returns early with one CPU online, where program order is
enough).

Where that is refused, or a count stays up (a program preempted on a real-time kernel), the wait is
RCU's. Every BPF program runs inside an RCU read-side critical section, and updating a map of maps
returns after a grace period (kernel/bpf/syscall.c, maybe_wait_bpf_programs) also where membarrier
refuses (nohz_full) or does nothing (one CPU).
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

MEMBARRIER_CMD_GLOBAL_EXPEDITED = 1 << 1
SYSCALL_MEMBARRIER = {
    "x86_64": 324,
    "aarch64": 283,
    "riscv64": 283,
    "loongarch64": 283,
    "ppc64le": 365,
    "s390x": 356,
}
PATIENCE = 0.005
"""Seconds of looking before falling back to RCU; programs run for about a microsecond."""


class Quiescence:
    """Knows when every program that began before now has ended."""

    def __init__(self, readers: NDArray[np.uint64], grace_period: Callable[[], None]) -> None:
        """``readers``: the counts of each possible CPU, mapped. ``grace_period`` returns after an
        RCU grace period.
        """
        self._readers = readers
        self._grace_period = grace_period
        self._number = SYSCALL_MEMBARRIER.get(os.uname().machine)
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._everyone = np.arange(readers.size)

    def barrier(self) -> bool:
        """Executes a full memory barrier on this CPU; False where the kernel refuses."""
        if self._number is None:
            return False
        command = ctypes.c_int(MEMBARRIER_CMD_GLOBAL_EXPEDITED)
        return bool(self._syscall(ctypes.c_long(self._number), command, 0, 0) == 0)

    def order(self) -> None:
        """What was written before is seen by every program that sees what is written after."""
        if not self.barrier():
            self._grace_period()

    def wait(self) -> None:
        """Returns when no program is running that could have begun before the call."""
        if not self.barrier():
            self._grace_period()
            return
        busy = self._everyone
        end = time.monotonic() + PATIENCE
        while (busy := busy[self._readers[busy] != 0]).size:
            if time.monotonic() > end:
                self._grace_period()
                return
            time.sleep(0)
