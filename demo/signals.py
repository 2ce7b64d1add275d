"""Signals end the demo as an error would, but never between making a thing and noting it.

A handler that raises may do so after a process was started and before anyone knows its number;
such a process would stay. So what is started is started ``with undisturbed()``: a signal that
comes meanwhile takes effect at the end of the block.
"""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_undisturbed = False
_waiting: list[int] = []


def catch() -> None:
    """From now on the first of :data:`SIGNALS` raises SystemExit, and later ones are ignored."""
    for number in SIGNALS:
        signal.signal(number, _end)


def ignore() -> None:
    """What undoes things must not be interrupted."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Hold signals back while the block runs. Not to be nested, not for anything slow."""
    global _undisturbed
    _undisturbed = True
    try:
        yield
    finally:
        _undisturbed = False
        if _waiting:
            ignore()
            raise SystemExit(128 + _waiting[0])


def _end(number: int, frame: FrameType | None) -> None:
    if _undisturbed:
        _waiting.append(number)
        return
    ignore()
    raise SystemExit(128 + number)
