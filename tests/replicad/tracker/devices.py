"""Real block devices for tests, and what was written to them; everything made here is undone on the
way out.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from replicad.tracker import EbpfTracker, TrackedDisk, pin_directory
from replicad.tracker.bitmap import bits_of

BLKDISCARD = 0x1277
BLKZEROOUT = 0x127F
MIB = 1024 * 1024


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


@contextlib.contextmanager
def loop_device(image: Path, size: int, *options: str) -> Iterator[str]:
    with image.open("ab") as file:
        file.truncate(size)
    device = run("losetup", "--find", "--show", *options, str(image))
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


@contextlib.contextmanager
def zram_device(size: int) -> Iterator[str]:
    number = Path("/sys/class/zram-control/hot_add").read_text().strip()
    try:
        Path(f"/sys/block/zram{number}/disksize").write_text(str(size))
        yield f"/dev/zram{number}"
    finally:
        Path("/sys/class/zram-control/hot_remove").write_text(number)


@contextlib.contextmanager
def mounted(device: str, where: Path, kind: str) -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    run("mount", "-t", kind, device, str(where))
    try:
        yield where
    finally:
        run("umount", str(where))


@contextlib.contextmanager
def tracker_at(runtime: Path) -> Iterator[EbpfTracker]:
    """A tracker whose pins are gone afterwards."""
    runtime.mkdir(exist_ok=True)
    tracker = EbpfTracker.open(pin_directory(runtime), runtime)
    try:
        yield tracker
    finally:
        tracker.destroy()


class Seen:
    """A sink that keeps every granule that was ever handed over."""

    def __init__(self, disk: TrackedDisk) -> None:
        self.words = np.zeros(-(-disk.size // disk.granule // 64) + 1, np.uint64)
        self.size = -(-disk.size // disk.granule)

    def __call__(self, disk: TrackedDisk, first: int, words: NDArray[np.uint64]) -> None:
        assert words.any(), "a part without a bit was handed over"
        self.words[first : first + len(words)] |= words

    @property
    def granules(self) -> NDArray[np.bool_]:
        bits = bits_of(self.words)
        assert not bits[self.size :].any(), "granules behind the end of the disk"
        return bits[: self.size]


def drained(tracker: EbpfTracker, disk: TrackedDisk) -> NDArray[np.bool_]:
    """Drains and returns which granules were marked; nothing may have been missed."""
    seen = Seen(disk)
    assert tracker.drain([disk], seen)[disk.path].misses == 0
    return seen.granules


def content(image: Path) -> NDArray[np.uint8]:
    return np.fromfile(image, np.uint8)


def differing(
    before: NDArray[np.uint8], after: NDArray[np.uint8], granule: int
) -> NDArray[np.bool_]:
    """Which granules differ byte for byte; the last may be short."""
    differ = before.view(np.uint64) != after.view(np.uint64)
    return np.logical_or.reduceat(differ, np.arange(0, differ.size, granule // 8))


def touched(size: int, granule: int, ranges: list[tuple[int, int]]) -> NDArray[np.bool_]:
    """Which granules the byte ranges (offset, length) touch."""
    result = np.zeros(-(-size // granule), np.bool_)
    for offset, length in ranges:
        result[offset // granule : -(-(offset + length) // granule)] = True
    return result


class Direct:
    """O_DIRECT writes from one aligned buffer."""

    def __init__(self, device: str, largest: int) -> None:
        self._fd = os.open(device, os.O_RDWR | os.O_DIRECT)
        self._buffer = mmap.mmap(-1, largest)

    def write(self, offset: int, data: bytes) -> None:
        self._buffer[: len(data)] = data
        with memoryview(self._buffer) as view, view[: len(data)] as part:
            assert os.pwrite(self._fd, part, offset) == len(data)

    def close(self) -> None:
        os.close(self._fd)
        self._buffer.close()


def ioctl_range(device: str, request: int, offset: int, length: int) -> None:
    fd = os.open(device, os.O_RDWR)
    try:
        fcntl.ioctl(fd, request, struct.pack("QQ", offset, length))
    finally:
        os.close(fd)
