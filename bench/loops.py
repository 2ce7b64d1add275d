"""Loop disks over files in memory, and mounts on them; detached and unmounted at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.support.loops import run


@contextlib.contextmanager
def loop(image: Path, *options: str) -> Iterator[str]:
    """A loop device over a file that is there."""
    device = run("losetup", "--find", "--show", *options, image)
    try:
        yield device
    finally:
        run("losetup", "--detach", device)
