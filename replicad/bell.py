"""Something has changed that somebody may want to know. Who rings does not know who listens."""

from __future__ import annotations

import asyncio
import contextlib


class Bell:
    """Rung on the loop, for one listener. However often it rings between two looks, it is one."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """There may be something new."""
        self._rung.set()

    async def heard(self, seconds: float) -> None:
        """Until it rings, if it has not since the last time; at most so many seconds."""
        if not self._rung.is_set() and seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._rung.wait()
        self._rung.clear()
