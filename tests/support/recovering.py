"""A job over a small loop device whose ends are interrupted, and what its recovery then says."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.loops import MIB, flush, loop_device
from tests.support.pair import Pair, pair, same_content, until

SIZE = 48 * MIB
BLOCK = 4096


class Recovering:
    """A disk without a filesystem, half of it random, in step with its copy."""

    def __init__(self, both: Pair, device: str, image: Path) -> None:
        self.both = both
        self.device = device
        self.image = image
        self._random = random.Random(7)

    def write(self, *blocks: int) -> None:
        """Other content in some blocks of the source's disk, on the disk when this returns."""
        write_blocks(self.device, self._random, blocks)

    def spoil(self, path: Path, *blocks: int) -> None:
        """Other content in some blocks of a copy, as somebody else would write it."""
        write_blocks(str(path), self._random, blocks)

    @property
    def disk(self) -> dict[str, Any]:
        """The disk as ``replicad status`` shows it now; empty before it is opened."""
        job = self.both.status()["job"] or {}
        disks: list[dict[str, Any]] = job.get("disks", [])
        return disks[0] if disks else {}

    def recovered(self, grade: str, since: str = "") -> dict[str, Any]:
        """Wait until a recovery that began after ``since`` has ended, of this grade."""

        def over() -> Any:
            found = self.disk.get("recovery")
            return found and found["since"] > since and found["ended"] and found

        found: dict[str, Any] = until(over, 60, "the end of a recovery")
        assert found["grade"] == grade, found
        return found

    def since(self) -> str:
        """When the last recovery began."""
        found: str = self.disk["recovery"]["since"]
        return found

    def exact(self) -> None:
        """A checkpoint is taken and the copy is, byte for byte, the disk."""
        self.both.checkpoint("--hold")
        flush(self.device)
        assert same_content(self.both.intermediate(), self.image)
        self.both.resume()

    def in_step(self) -> None:
        """Wait until the receiver lacks nothing."""
        self.both.clean()


def write_blocks(path: str, chosen: random.Random, blocks: tuple[int, ...]) -> None:
    """Random content in blocks of 4 KiB of a file or device."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        for block in blocks:
            os.pwrite(descriptor, chosen.randbytes(BLOCK), block * BLOCK)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def recovering(tmp_path: Path, *options: str, start: bool = True) -> Iterator[Recovering]:
    """A job that has made its first copy; ``options`` are of ``job create``."""
    image = tmp_path / "disk.img"
    with loop_device(image, SIZE) as device, pair([device], start=start) as both:
        it = Recovering(both, device, image)
        it.write(*range(0, SIZE // BLOCK, 2))
        if start:
            both.create("--freeze-budget", "30s", *options)
            both.synced()
            it.in_step()
        yield it
