"""The main job on real disks: ten checkpoints in a row, each exactly the frozen source."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.loops import MIB, loop_device, mounted
from tests.support.pair import busy_writer, pair, same_content

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_ten_checkpoints_under_load_are_each_identical(kind: str, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with (
        loop_device(image, 320 * MIB) as device,
        mounted(device, tmp_path / "mnt", kind) as where,
        busy_writer(where),
        pair([device]) as both,
    ):
        (where / "noise").write_bytes(os.urandom(40 * MIB))
        reference = both.directory / "reference.img"
        both.keep_reference(image, reference)
        both.create("--freeze-budget", "30s")
        both.synced()
        for epoch in range(1, 11):
            taken = both.checkpoint("--hold")
            assert taken["epoch"] == epoch
            assert taken["consistency"] == "filesystem"
            assert 0 < taken["frozen_seconds"] < 30
            assert both.show()["state"] == "waiting"
            assert same_content(both.intermediate(), reference), f"epoch {epoch} differs"
            both.receiver.run("job", "resume", both.job)
            both.state("syncing")
