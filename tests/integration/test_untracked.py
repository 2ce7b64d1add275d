"""Without a tracker every sync compares: it says so, it is exact, and little travels."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.support.loops import MIB, flush, loop_device, mounted
from tests.support.pair import Pair, pair, same_content

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

SIZE = 160 * MIB
CHANGED = 200
"""Blocks of 4 KiB that are changed between two checkpoints."""

SECOND_SYNC = CHANGED * 4096 * 1.1 + (SIZE >> 16) * 20 + CHANGED * 16 * 20 + 64 * 1024
"""Wire bytes of a compare pass, at most: what differs, a digest for each 64 KiB, one for each
4 KiB of those that differ (16 bytes, with some for ranges), and the frames around them."""


def first_checkpoint(both: Pair, reason: str) -> int:
    """The first copy; the wire bytes so far."""
    both.create("--freeze-budget", "30s")
    both.synced()
    disk = both.show()["disks"][0]
    assert disk["tracker"] == "none"
    assert reason in disk["trust"]
    both.checkpoint("--hold")
    wire: int = both.show()["wire_bytes"]
    return wire


def test_a_mounted_disk_with_the_tracker_switched_off(tmp_path: Path) -> None:
    chosen = random.Random(8)
    image = tmp_path / "disk.img"
    with (
        loop_device(image, SIZE) as device,
        mounted(device, tmp_path / "mnt", "ext4") as where,
        pair([device], tracker="off") as both,
    ):
        file = where / "database"
        file.write_bytes(chosen.randbytes(64 * MIB))
        flush(where)
        reference = both.directory / "reference.img"
        both.keep_reference(image, reference)
        assert "switched off" in both.status()["tracker"]["sentence"]
        wire = first_checkpoint(both, "switched off")
        assert same_content(both.intermediate(), reference)
        both.resume()
        with file.open("r+b", buffering=0) as database:
            for block in chosen.sample(range(64 * MIB // 4096), CHANGED):
                os.pwrite(database.fileno(), chosen.randbytes(4096), block * 4096)
            os.fsync(database.fileno())
        assert both.checkpoint("--hold")["consistency"] == "filesystem"
        assert same_content(both.intermediate(), reference)
        # ext4's own metadata are some blocks more.
        assert both.show()["wire_bytes"] - wire <= SECOND_SYNC + 4 * MIB


def test_an_image_file_as_the_source_disk(tmp_path: Path) -> None:
    chosen = random.Random(9)
    image = tmp_path / "disk.img"
    image.write_bytes(chosen.randbytes(48 * MIB))
    os.truncate(image, SIZE)
    with pair([str(image)]) as both:
        wire = first_checkpoint(both, "")
        assert same_content(both.intermediate(), image)
        both.resume()
        with image.open("r+b") as file:
            for block in chosen.sample(range(SIZE // 4096), CHANGED):
                file.seek(block * 4096)
                file.write(chosen.randbytes(4096))
        assert both.checkpoint("--hold")["consistency"] == "crash"
        assert same_content(both.intermediate(), image)
        assert both.show()["wire_bytes"] - wire <= SECOND_SYNC
