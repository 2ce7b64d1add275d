"""Real block devices and filesystems for tests, made of files and always taken away again."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

MIB = 1 << 20

SMALLEST = {"ext4": 16 * MIB, "xfs": 300 * MIB, "btrfs": 256 * MIB}
"""What each mkfs insists on, roughly."""

_MAKE = {
    # All of it made at once: else the kernel goes on making it while a test compares bytes.
    "ext4": ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-m", "reflink=1"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}


def run(*command: str | Path) -> str:
    """A command's output; its own words when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{command}: {done.stderr.strip()}")
    return done.stdout.strip()


def flush(written: str | Path) -> None:
    """What was written is on the disk: of the filesystem of a directory, of a block device, or of
    the loop devices over an image. Not ``os.sync()``: that waits for what all others have written,
    on a slow disk for minutes."""
    if os.path.isfile(written):
        devices = run("losetup", "--associated", written, "--noheadings", "--output", "NAME")
        for device in devices.split():
            run("sync", device)
    elif os.path.isdir(written):
        run("sync", "--file-system", written)
    else:
        run("sync", written)


@contextlib.contextmanager
def loop_device(image: Path, size: int, *options: str) -> Iterator[str]:
    """A loop device over a new sparse file of ``size`` bytes."""
    with image.open("xb") as file:
        file.truncate(size)
    device = run("losetup", "--find", "--show", *options, image)
    try:
        yield device
    finally:
        run("losetup", "--detach", device)
        image.unlink()


@contextlib.contextmanager
def partitioned(image: Path, size: int) -> Iterator[tuple[str, str]]:
    """A loop device with one partition, from 1 MiB to the end: both paths.

    The kernel is told of it directly (BLKPG), so it need not know any partition table.
    """
    with loop_device(image, size) as device:
        # A run that was killed may have left one on this loop device, which outlives its file.
        subprocess.run(["delpart", device, "1"], capture_output=True, check=False)
        run("addpart", device, "1", str(MIB // 512), str((size - MIB) // 512))
        try:
            yield device, f"{device}p1"
        finally:
            _patiently("delpart", device, "1")


@contextlib.contextmanager
def mounted(
    device: str, where: Path, kind: str | None = None, options: str = "rw"
) -> Iterator[Path]:
    """``device`` mounted at ``where``, with a new filesystem if ``kind`` says which."""
    if kind is not None:
        run(*_MAKE[kind], device)
    where.mkdir(exist_ok=True)
    run("mount", "-o", options, device, where)
    try:
        yield where
    finally:
        _unmount(where)


def _unmount(where: Path) -> None:
    """Unmount; a process that was just killed may still hold the mount for a moment."""
    _patiently("umount", where)


def _patiently(*command: str | Path, seconds: float = 60.0) -> None:
    """Until nobody is in the way any more: who looks at all disks of the machine opens each."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            run(*command)
            return
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@contextlib.contextmanager
def filesystem(kind: str, directory: Path, size: int | None = None) -> Iterator[Path]:
    """A new mounted filesystem of its own."""
    with (
        loop_device(directory / f"{kind}.image", size or SMALLEST[kind]) as device,
        mounted(device, directory / kind, kind) as where,
    ):
        yield where
