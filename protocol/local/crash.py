"""Dying at a named step, so that a test can see what a death there costs (promise 10).

``crash.here("sender.sealed")`` marks a step between two things of which a kill must be able to take
the second. It does nothing: the function is chosen when the process starts, and unless the
environment has ``REPLICAD_CRASH_AT`` it is one without a body (docs/decisions/0115 has what that
costs). With it the process dies at the step as it would of ``kill -9``: no handler runs, no buffer
is flushed, no lock is let go.

    REPLICAD_CRASH_AT=sender.sealed        the first time that the step is reached
    REPLICAD_CRASH_AT=sender.sealed:3      the third time
    REPLICAD_CRASH_AT=@FILE                what FILE says, looked at at each step; empty: nothing.
                                           So a test can choose while the daemon runs.

The steps are listed, with what is lost at each, in :mod:`protocol.local.crashpoints`; a test
holds that the list and the code agree.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

VARIABLE = "REPLICAD_CRASH_AT"

_FILE_BYTES = 256


def _nothing(_: str) -> None:
    """A step that nobody wants to die at."""


class Deadly:
    """What ``here`` is in a process that is to die. Thread-safe.

    Args:
        wish: the value of the variable.
        die: what to do then; a test's own.
    """

    def __init__(self, wish: str, die: Callable[[str], None] | None = None) -> None:
        self._die = die or _die
        self._lock = threading.Lock()
        self._file: int | None = None
        self._said = ""
        self._name = ""
        self._left = 0
        if wish.startswith("@"):
            self._file = os.open(wish[1:], os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        else:
            self._wish(wish)

    def __call__(self, name: str) -> None:
        """Passed a step."""
        with self._lock:
            if self._file is not None:
                self._wish(os.pread(self._file, _FILE_BYTES, 0).decode().strip())
            if name != self._name or not self._left:
                return
            self._left -= 1
            if not self._left:
                self._die(name)

    def _wish(self, wish: str) -> None:
        """Take a wish that is another than the last; count from the beginning then."""
        if wish != self._said:
            self._said = wish
            self._name, _, times = wish.partition(":")
            self._left = int(times or 1) if self._name else 0


def _die(name: str) -> None:
    """SIGKILL for ourselves. What is said goes to standard error, past every buffer."""
    os.write(2, f"died at {name}\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)


def _bind() -> Callable[[str], None]:
    wish = os.environ.get(VARIABLE, "")
    return Deadly(wish) if wish else _nothing


here = _bind()
