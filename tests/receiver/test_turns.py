"""However many workers there are, few compute at a time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from protocol.wire.crypto import SessionKeys
from protocol.wire.frames import Fence, encode_meta
from receiver.decoder import Decoder
from receiver.turns import COMPUTING

WORKERS = 8


class Opener:
    """Takes its time; ``most``: how many were at it at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = self.most = 0

    def open(self, sealed: memoryview, into: memoryview) -> int:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(0.02)
        with self._lock:
            self._now -= 1
        into[: len(sealed)] = sealed
        return len(sealed)


def test_few_open_frames_at_a_time() -> None:
    opener, meta = Opener(), encode_meta(Fence())

    def work(index: int) -> None:
        decoder = Decoder(SessionKeys(bytes(32), bytes(16)), index)
        cast(Any, decoder)._opener = opener
        for _ in range(3):
            decoder.open(memoryview(meta), memoryview(bytearray(64)), memoryview(b""))

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(work, range(WORKERS)))
    assert opener.most == COMPUTING
