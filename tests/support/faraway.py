"""A line as long as one wants, for the kernel's own TCP: what goes out comes back later.

A packet for :data:`THERE` goes into a tun device. Its two addresses are swapped (which leaves
every checksum as it was) and it comes back after a while, as one from :data:`THERE` to
:data:`HERE`. So who listens on HERE is reached as THERE, over a line of that length.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import select
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Final

HERE: Final = "198.18.203.1"
THERE: Final = "198.18.203.2"
"""Of the addresses for measuring networks (RFC 2544), which nobody routes."""

DEVICE: Final = "replicad-far0"
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN_NO_PI: Final = 0x1001
_PACKET_MAX: Final = 65535


@contextlib.contextmanager
def far_away(seconds: float) -> Iterator[None]:
    """THERE is HERE, ``seconds`` there and ``seconds`` back. Needs root."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _IFF_TUN_NO_PI))
        for words in (
            ["addr", "add", f"{HERE}/30", "dev", DEVICE],
            ["link", "set", DEVICE, "up"],
        ):
            subprocess.run(["ip", *words], check=True, timeout=30)
        ended = threading.Event()
        late: queue.SimpleQueue[tuple[float, bytes] | None] = queue.SimpleQueue()
        threads = [
            threading.Thread(target=_take, args=(device, seconds, late, ended)),
            threading.Thread(target=_give, args=(device, late)),
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            late.put(None)
            for thread in threads:
                thread.join()
    finally:
        os.close(device)


def _take(
    device: int,
    seconds: float,
    late: queue.SimpleQueue[tuple[float, bytes] | None],
    ended: threading.Event,
) -> None:
    while not ended.is_set():
        if not select.select([device], [], [], 0.1)[0]:
            continue
        with contextlib.suppress(BlockingIOError):
            packet = os.read(device, _PACKET_MAX)
            if packet[0] >> 4 == 4:  # not what IPv6 says to its neighbours
                late.put((time.monotonic() + seconds, packet))


def _give(device: int, late: queue.SimpleQueue[tuple[float, bytes] | None]) -> None:
    while (found := late.get()) is not None:
        due, packet = found
        time.sleep(max(0.0, due - time.monotonic()))
        os.write(device, packet[:12] + packet[16:20] + packet[12:16] + packet[20:])
