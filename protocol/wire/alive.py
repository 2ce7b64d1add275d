"""Whether the peer of a data connection can still be heard.

A line can die without a word, and TCP need not notice: something in between may answer for the
dead. So both ends say something in every heartbeat, and who hears nothing for three of them gives
up. A frame that has begun and hardly grows in that time is the same thing: either the line is no
use to anybody, or a bit of the length has flipped on its way, and what we wait for are the
heartbeats of a peer that has nothing else to say.
"""

from __future__ import annotations

from typing import Final

from protocol.errors import SILENT
from protocol.wire.limits import SILENCE_BEATS

CRAWL_BYTES: Final = 1024
"""bytes that a frame must at least grow by in three heartbeats: some thirty signs of life, or the
slowest modem, a hundred times slower."""


class Alive:
    """What was heard on one connection, and when. To be looked at twice in a heartbeat.

    ``now`` is any clock in seconds that never goes back.
    """

    __slots__ = ("_bytes", "_grown", "_heard", "_mark", "patience")

    def __init__(self, heartbeat: float, now: float) -> None:
        self.patience = SILENCE_BEATS * heartbeat
        self._bytes = self._mark = 0
        self._heard = self._grown = now

    def busy(self, now: float) -> None:
        """We are not listening just now: who is slow is us."""
        self._heard = self._grown = now

    def check(self, count: int, at_boundary: bool, now: float) -> None:
        """``count`` bytes came so far; ``at_boundary``: no frame has begun.

        Raises:
            PeerFault: SILENT.
        """
        if count != self._bytes:
            self._bytes, self._heard = count, now
        if at_boundary or count - self._mark >= CRAWL_BYTES:
            self._mark, self._grown = count, now
        if now - min(self._heard, self._grown) >= self.patience:
            raise SILENT.peer(seconds=self.patience)
