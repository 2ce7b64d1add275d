"""What travels is what changed: 4 KiB writes cost hardly more than 4 KiB on the wire."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest

from tests.replicad.tracker.devices import Direct
from tests.support.loops import MIB, flush, loop_device, mounted
from tests.support.pair import Pair, pair, same_content, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

SIZE = 192 * MIB
BLOCK = 4096
OVERHEAD = 1.10
"""Wire bytes for each changed byte of scattered, incompressible 4 KiB blocks, at most."""


def differing_blocks(one: Path, other: Path) -> int:
    """How many 4 KiB blocks of two files are not the same."""
    a, b = (np.memmap(path, np.uint64, "r").reshape(-1, BLOCK // 8) for path in (one, other))
    return int((a != b).any(axis=1).sum())


def check_wire_bytes(both: Pair, before: dict[str, int], changed: int) -> None:
    """After ``changed`` bytes: the wire carried hardly more, and both sides counted the same."""
    view = both.clean(sent=before["logical_bytes"] + changed)
    assert view["logical_bytes"] - before["logical_bytes"] >= changed
    assert view["wire_bytes"] - before["wire_bytes"] <= OVERHEAD * changed

    def agreed() -> bool:
        theirs = both.metrics("receiver")["receiver_wire_bytes_total"]
        ours = both.metrics("source")["replicad_wire_bytes_total"]
        return theirs > 0 and abs(ours - theirs) <= 0.02 * theirs

    until(agreed, 10, "both sides counting the same wire bytes")
    both.checkpoint("--hold")


def test_scattered_blocks_of_a_raw_disk(tmp_path: Path) -> None:
    chosen = random.Random(1)
    image = tmp_path / "disk.img"
    with loop_device(image, SIZE) as device, pair([device]) as both:
        direct = Direct(device, MIB)
        for at in range(0, SIZE // 2, MIB):
            direct.write(at, chosen.randbytes(MIB))
        both.create()
        both.synced()
        before = both.checkpoint("--hold") and both.show()
        blocks = chosen.sample(range(SIZE // BLOCK), 2500)
        for block in blocks:
            direct.write(block * BLOCK, chosen.randbytes(BLOCK))
        direct.close()
        both.resume()
        check_wire_bytes(both, before, len(blocks) * BLOCK)
        assert same_content(both.intermediate(), image)


def test_scattered_blocks_of_a_file_on_ext4(tmp_path: Path) -> None:
    chosen = random.Random(2)
    image = tmp_path / "disk.img"
    with (
        loop_device(image, SIZE) as device,
        mounted(device, tmp_path / "mnt", "ext4") as where,
        pair([device]) as both,
    ):
        file = where / "database"
        file.write_bytes(chosen.randbytes(64 * MIB))
        flush(where)
        both.create("--freeze-budget", "30s")
        both.synced()
        before = both.checkpoint("--hold") and both.show()
        with file.open("r+b", buffering=0) as database:
            for block in chosen.sample(range(64 * MIB // BLOCK), 2500):
                os.pwrite(database.fileno(), chosen.randbytes(BLOCK), block * BLOCK)
            os.fsync(database.fileno())
        flush(where)
        changed = differing_blocks(both.intermediate(), image) * BLOCK
        assert changed >= 2500 * BLOCK
        both.resume()
        check_wire_bytes(both, before, changed)
