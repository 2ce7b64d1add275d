"""The load that never stops: ``python -m demo.writer files|blocks PATH``.

``files`` works as a busy server does on its filesystem: it creates, appends, rewrites in
place, renames, deletes and syncs small files. ``blocks`` rewrites parts of a regular image
file; because nothing can freeze such a file, it stands still while ``PATH.pause`` exists and
says so with ``PATH.paused`` (the hooks of the unprivileged demo use this).

The rate is held moderate on purpose: the demo is to show a copy catching up with a server at
work, not a contest for two processor cores.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import time
from pathlib import Path

FILES = 100
FILE_BYTES = 48 << 10
FILES_PER_SECOND = 150
BLOCK = 4096
BLOCKS_PER_SECOND = 400


def write_files(directory: Path) -> None:
    """Create, rewrite, rename, delete and sync files under ``directory``, for ever."""
    chance = random.Random(1)
    directory.mkdir(exist_ok=True)
    while True:
        path = directory / f"file-{chance.randrange(FILES)}"
        act = chance.random()
        if act < 0.15:
            path.unlink(missing_ok=True)
        elif act < 0.25 and path.exists():
            path.rename(directory / f"file-{chance.randrange(FILES)}")
        else:
            _rewrite(path, chance, sync=act > 0.9)
        time.sleep(1 / FILES_PER_SECOND)


def _rewrite(path: Path, chance: random.Random, *, sync: bool) -> None:
    with open(path, "r+b" if path.exists() else "wb") as file:
        file.seek(chance.randrange(FILE_BYTES))
        file.write(chance.randbytes(chance.randrange(1, FILE_BYTES)))
        if sync:
            file.flush()
            os.fsync(file.fileno())


def write_blocks(image: Path) -> None:
    """Rewrite random 4 KiB blocks of ``image``, for ever, except while asked to stand still."""
    chance = random.Random(2)
    pause, paused = Path(f"{image}.pause"), Path(f"{image}.paused")
    blocks = image.stat().st_size // BLOCK
    while True:
        with open(image, "r+b", buffering=0) as file:
            while not pause.exists():
                where = chance.randrange(blocks) * BLOCK
                os.pwrite(file.fileno(), chance.randbytes(BLOCK), where)
                time.sleep(1 / BLOCKS_PER_SECOND)
            os.fsync(file.fileno())
        # closed: a file that someone could write is refused as busy
        paused.touch()
        while pause.exists():
            time.sleep(0.01)
        paused.unlink()


if __name__ == "__main__":
    _, kind, place = sys.argv
    with contextlib.suppress(KeyboardInterrupt):
        (write_files if kind == "files" else write_blocks)(Path(place))
