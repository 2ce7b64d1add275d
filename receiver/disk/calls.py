"""The calls in progress on one descriptor, and the end of them.

A closed descriptor's number is reused by the kernel, and a late writer must not hit another file:
so closing waits for the calls in progress, and refuses those that come after.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocol.errors import LocalFault


class Calls:
    """Use as ``with calls:`` around one call, or several. Thread-safe, may be nested.

    Each frame enters it, so it is not made with ``contextlib``: that takes ten times as long.

    Args:
        path: of what the descriptor is of, for messages.
        fault: what an OSError of a call is to its caller.

    Attributes:
        poison: what every call that begins from now on fails with; None while there is nothing.
    """

    def __init__(self, path: str, fault: Callable[[OSError], LocalFault]) -> None:
        self.poison: LocalFault | None = None
        self._path = path
        self._fault = fault
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._count = 0
        self._closed = False

    def __enter__(self) -> None:
        """Raises ValueError when it is closed, and the poison."""
        with self._lock:
            if self._closed:
                raise ValueError(f"{self._path} is closed")
            if self.poison is not None:
                raise self.poison
            self._count += 1

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            if isinstance(error, OSError):
                raise self._fault(error) from error
        finally:
            with self._lock:
                self._count -= 1
                if self._closed and not self._count:
                    self._idle.notify_all()

    def close(self) -> bool:
        """Refuse calls from now on and wait for those in progress. False if it was closed."""
        with self._lock:
            if self._closed:
                return False
            self._closed = True
            self._idle.wait_for(lambda: not self._count)
        return True
