"""Hooks that fail or take too long: the checkpoint is refused by name, nothing stays frozen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.loops import MIB, loop_device, mounted
from tests.support.pair import CommandFailed, Pair, pair, same_content

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


def refusal(both: Pair) -> str:
    """The code with which a checkpoint is refused."""
    with pytest.raises(CommandFailed) as refused:
        both.checkpoint()
    code: str = refused.value.error["error"]["code"]
    return code


def write_durably(path: Path) -> None:
    """Hangs, and fails by the test's timeout, on a frozen filesystem."""
    with path.open("wb") as file:
        file.write(os.urandom(4096))
        os.fsync(file.fileno())


def test_hooks_that_fail_and_hooks_that_are_slow(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with (
        loop_device(image, 160 * MIB) as device,
        mounted(device, tmp_path / "mnt", "ext4") as where,
        pair([device]) as both,
    ):
        undone = both.directory / "undone"
        frozen = both.directory / "frozen"
        (where / "ballast").write_bytes(os.urandom(8 * MIB))
        both.create("--freeze-budget", "2s")
        both.synced()
        both.hook("post-thaw", "10-undo", f"echo $REPLICAD_EPOCH >> '{undone}'")

        failing = both.hook("pre-freeze", "50-database", "echo no such database; exit 3")
        both.hook("frozen", "10-witness", f"touch '{frozen}'")
        assert refusal(both) == "RPL-6005"
        error = both.show()["error"]
        assert "50-database" in error["message"]
        assert "no such database" in error["message"]
        assert undone.read_text().split() == ["1"]
        assert not frozen.exists(), "it was frozen although a hook had failed"
        write_durably(where / "after-failing")
        failing.unlink()

        slow = both.hook("frozen", "20-slow", "sleep 30")
        # The hook's own limit and the watchdog's are the same instant: either may be first.
        assert refusal(both) in {"RPL-6003", "RPL-6005"}
        write_durably(where / "after-slow")
        assert set(undone.read_text().split()) == {"1"}
        slow.unlink()

        both.hook("pre-freeze", "50-database", "true")
        reference = both.directory / "reference.img"
        both.keep_reference(image, reference)
        taken = both.checkpoint("--hold")
        assert (taken["epoch"], taken["consistency"]) == (1, "application")
        assert taken["frozen_seconds"] < 2
        assert same_content(both.intermediate(), reference)
        assert both.show()["error"] is None
