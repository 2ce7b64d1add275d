"""How a daemon is told to stop: politely the first time, at once the second.

Everything that must survive is on disk or in the kernel at every moment, so ending at once is
safe; it must never be impossible.
"""

from __future__ import annotations

import asyncio
import os
import signal

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop_event() -> asyncio.Event:
    """An event that SIGTERM or SIGINT sets. A second signal ends the process at once, with the
    exit code that a shell gives to a process that a signal has killed."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def told(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in SIGNALS:
        loop.add_signal_handler(number, told, number)
    return stop
