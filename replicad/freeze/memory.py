"""Keep this process in memory while filesystems are frozen.

A page fault that has to read from a disk can wait behind the writes of everybody else, and one
that has to evict a dirty page waits for a frozen filesystem. Locked memory has no such faults.

What is locked is what exists, and what comes (MCL_ONFAULT): the stacks of all threads and the
holes of a dirty map are hundreds of megabytes that nobody ever touches, and touching them for
nothing was most of what this daemon weighed. What a fault would have to *read* is code and data of
the interpreter and its libraries, so these are read beforehand, and locked.
Source: mlockall(2), mlock(2), proc_pid_maps(5).
"""

from __future__ import annotations

import ctypes
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4

NEVER_CALLED = re.compile(r"/lib(scipy_)?(openblas|gfortran|quadmath)[^/]*$")
"""Linear algebra, which numpy brings along and nobody here asks for: 27 MiB that need not be read
and locked for each freeze."""


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
    libc = _libc()
    failed = libc.mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0
    reason = os.strerror(ctypes.get_errno()) if failed else ""
    if failed:
        # MCL_FUTURE may have been set before MCL_CURRENT failed: later allocations must not fail.
        libc.munlockall()
    else:
        for start, end in read_only_files(Path("/proc/self/maps").read_text()):
            # A file that was cut short meanwhile has pages that cannot be had; nobody wants them.
            libc.mlock(start, end - start)
    return Locked(not failed, reason, time.monotonic() - begun, 0 if failed else _locked_kib())


def read_only_files(maps: str) -> Iterator[tuple[int, int]]:
    """The mappings ``[start, end)`` of files that can be read and not written: programs and
    libraries. (Locking what could be written would make a private copy of all of it.)"""
    for line in maps.splitlines():
        addresses, rights, _, _, inode, *_ = line.split(maxsplit=5)
        wanted = inode != "0" and not NEVER_CALLED.search(line)
        if wanted and rights[0] == "r" and rights[1] == "-":
            start, end = addresses.split("-")
            yield int(start, 16), int(end, 16)


def unlock_memory() -> None:
    """Undo :func:`lock_memory`."""
    if _libc().munlockall() != 0:
        raise OSError(ctypes.get_errno(), "munlockall")


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc


def _locked_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmLck:"):
            return int(line.split()[1])
    return 0
