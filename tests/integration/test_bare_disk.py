"""A checkpoint of a disk that has no filesystem: nothing freezes it, so it must stand still."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from replicad.tracker import writes_under_way
from tests.replicad.tracker.devices import MIB, Direct, loop_device
from tests.support.loops import mounted
from tests.support.pair import pair, same_content, until

pytestmark = pytest.mark.root
SIZE = 32 * MIB
REFUSED = 3


def test_a_write_that_hangs_is_said_and_a_checkpoint_follows_its_end(tmp_path: Path) -> None:
    """The disk's backing filesystem is frozen: its driver has a write, which does not end."""
    with (
        loop_device(tmp_path / "outer", 64 * MIB) as outer,
        mounted(outer, tmp_path / "mount", "ext4"),
        loop_device(tmp_path / "mount" / "image", SIZE) as disk,
        pair([disk]) as both,
    ):
        both.create("--disk", disk)
        both.synced()
        assert both.checkpoint()["consistency"] == "crash"
        writer = Direct(disk, 4096)
        number = os.major(os.stat(disk).st_rdev), os.minor(os.stat(disk).st_rdev)
        writing = threading.Thread(target=writer.write, args=(5 * 4096, b"y" * 4096))
        subprocess.run(["fsfreeze", "-f", tmp_path / "mount"], check=True)
        try:
            writing.start()
            until(lambda: writes_under_way(*number), what="a write that hangs")
            said = both.receiver.run("job", "checkpoint", both.job, "--wait", code=REFUSED)
            assert said["code"] == "RPL-6001"
            assert disk in said["message"]
        finally:
            subprocess.run(["fsfreeze", "-u", tmp_path / "mount"], check=True)
        writing.join(20)
        writer.close()
        assert both.checkpoint()["consistency"] == "crash"
        assert same_content(both.intermediate(), Path(disk))
