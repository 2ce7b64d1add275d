"""Keep this process in memory while filesystems are frozen.

A page fault that has to read from a disk can wait behind the writes of everybody else, and one
that has to evict a dirty page waits for a frozen filesystem. Locked memory has no such faults.
Source: mlockall(2).
"""

from __future__ import annotations

import ctypes
import os
import time
from dataclasses import dataclass
from pathlib import Path

MCL_CURRENT, MCL_FUTURE = 1, 2


@dataclass(frozen=True, slots=True)
class Locked:
    """What ``lock_memory`` did. ``reason`` is why not; ``seconds`` what it cost, ``kib`` how
    much is locked."""

    locked: bool
    reason: str
    seconds: float
    kib: int


def lock_memory() -> Locked:
    """Lock all present and future pages. Before the freeze: it reads what is not in memory."""
    begun = time.monotonic()
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.mlockall(MCL_CURRENT | MCL_FUTURE) != 0
    reason = os.strerror(ctypes.get_errno()) if failed else ""
    if failed:
        # MCL_FUTURE may have been set before MCL_CURRENT failed: later allocations must not fail.
        libc.munlockall()
    return Locked(not failed, reason, time.monotonic() - begun, 0 if failed else _locked_kib())


def unlock_memory() -> None:
    """Undo :func:`lock_memory`."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.munlockall() != 0:
        raise OSError(ctypes.get_errno(), "munlockall")


def _locked_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmLck:"):
            return int(line.split()[1])
    return 0
