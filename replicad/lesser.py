"""Doing something as somebody who may do less.

Some answers of the kernel depend on what the asking thread may do, and the fuller one is not always
the better one. Capabilities in effect are the thread's own (capabilities(7)); what is given up here
stays permitted, so it can be taken back.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator

CAP_SYS_ADMIN = 21

_VERSION = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3: two sets of 32 bits, each effective, permitted, inheritable."""

_HEADER = struct.Struct("=Ii")
_SETS = struct.Struct("=6I")
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def without(capability: int) -> Iterator[None]:
    """This thread does not have a capability in effect; afterwards it is as before.

    Raises:
        OSError: it cannot be given up.
    """
    before = _sets()
    at = 3 * (capability // 32)
    less = [*before]
    less[at] &= ~(1 << capability % 32)
    _set(less)
    try:
        yield
    finally:
        _set(before)


def _sets() -> list[int]:
    held = ctypes.create_string_buffer(_SETS.size)
    _call(_libc.capget(_HEADER.pack(_VERSION, 0), held))
    return [*_SETS.unpack(held.raw)]


def _set(sets: list[int]) -> None:
    _call(_libc.capset(_HEADER.pack(_VERSION, 0), _SETS.pack(*sets)))


def _call(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
