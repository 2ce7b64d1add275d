"""The disk that is copied: a loop device with ext4 and what works on it, or an image file.

Both are filled to a good half, with content that compresses and content that does not,
so that speed and wire bytes look as they do on a server.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from demo.signals import undisturbed
from demo.stage import loops, record_process, run

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE = 4 << 20
FIO_IOPS = 300


@contextlib.contextmanager
def loop_disk(place: Path, size: int) -> Iterator[tuple[str, Path]]:
    """A loop device of ``size`` bytes with a mounted ext4; yields (device, mount point)."""
    backing, mount = place / "source.img", place / "mnt"
    backing.touch(mode=0o600)
    os.truncate(backing, size)
    mount.mkdir()
    device = run("losetup", "--find", "--show", backing)
    try:
        run("mkfs.ext4", "-q", "-m", "0", "-L", "demo", device)
        run("mount", "-o", "noatime", device, mount)
        try:
            with open(mount / "data", "wb") as file:
                _fill(file.fileno(), size * 55 // 100)
            run("sync", "--file-system", mount)
            yield device, mount
        finally:
            run("fsfreeze", "--unfreeze", mount, check=False)
            run("umount", mount)
    finally:
        # asked anew: a number that somebody else freed may be another one's disk by now
        for own in loops(place):
            run("losetup", "--detach", own)


def image_disk(place: Path, size: int) -> str:
    """A regular file of ``size`` bytes, filled to a good half; returns its path."""
    image = place / "source.img"
    with open(image, "wb") as file:
        _fill(file.fileno(), size * 55 // 100)
        file.truncate(size)
    return str(image)


def _fill(descriptor: int, amount: int) -> None:
    """Three pieces that do not compress, then one that does, until ``amount`` bytes."""
    line = b"Nov 22 04:05:06 web01 nginx: GET /index.html 200 612\n"
    text = (line * (PIECE // len(line) + 1))[:PIECE]
    for number in range(amount // PIECE):
        os.write(descriptor, text if number % 4 == 3 else os.urandom(PIECE))


@contextlib.contextmanager
def busy(place: Path, kind: str, target: Path) -> Iterator[str]:
    """Keep ``target`` being written while the block runs; yields a sentence about who writes.

    Args:
        kind: ``files`` (a mounted directory) or ``blocks`` (an image file).
    """
    writer = [sys.executable, "-m", "demo.writer", kind]
    commands = [[*writer, str(target / "files" if kind == "files" else target)]]
    sentence = "a writer that creates, rewrites, renames, deletes and syncs files"
    if kind == "blocks":
        sentence = "a writer that rewrites random 4 KiB blocks of the image"
    elif shutil.which("fio"):
        commands.append(_fio(target))
        sentence += f", and fio with {FIO_IOPS} random 4 KiB writes a second"
    processes: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as undo:
        for command in commands:
            with undisturbed():
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                    cwd=Path(__file__).parent.parent,
                )
                processes.append(process)
                record_process(place, process.pid)
                undo.callback(process.wait)
                undo.callback(process.kill)
        yield sentence
        # a load that ended early (a full disk, say) would make the comparison an easy one
        for process in processes:
            if process.poll() is not None:
                raise RuntimeError(f"{process.args!r} ended before the demo did")


def _fio(mount: Path) -> list[str]:
    job = "--name=demo --rw=randwrite --bs=4k --size=16m --ioengine=psync --thread --time_based"
    return ["fio", *job.split(), "--runtime=3600", "--fsync=64", f"--rate_iops={FIO_IOPS}",
            f"--filename={mount / 'fio'}", "--output=/dev/null"]  # fmt: skip
