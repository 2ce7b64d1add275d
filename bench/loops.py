"""Loop disks over files in memory, and mounts on them; detached and unmounted at the end."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from bench.images import random_image
from tests.support.loops import mounted, run

_MAKE = {
    # All of it made at once: else the kernel goes on making it while something is measured.
    "ext4": ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-l", "size=64m"),
}


def _attach(image: Path, options: tuple[str, ...]) -> str:
    """Others may take the free device between its choice and its use."""
    for left in reversed(range(10)):
        try:
            return run("losetup", "--find", "--show", *options, image)
        except AssertionError:
            if not left:
                raise
            time.sleep(0.05)
    raise AssertionError("no free loop device")


@contextlib.contextmanager
def loop(image: Path, *options: str) -> Iterator[str]:
    """A loop device over a file that is there."""
    device = _attach(image, options)
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


@contextlib.contextmanager
def sparse_loop(image: Path, size: int) -> Iterator[str]:
    """A loop device over a new file that is one hole; the file goes with it."""
    with image.open("xb") as file:
        file.truncate(size)
    try:
        with loop(image) as device:
            yield device
    finally:
        image.unlink()


@contextlib.contextmanager
def filesystem(device: str, where: Path, kind: str) -> Iterator[Path]:
    """A new filesystem, mounted."""
    run(*_MAKE[kind], device)
    with mounted(device, where):
        yield where


def fill(path: Path, size: int, seed: int = 1) -> None:
    """A file of random bytes, on the disk when this returns."""
    random_image(path, size, seed)
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
