"""What the source's daemon weighs: it runs on a server that has other work."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.loops import MIB, loop_device, mounted
from tests.support.pair import CommandFailed, Pair, busy_writer, pair

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

MOST = 150 * MIB
"""Resident, of which about 65 MiB are pages of the interpreter and libraries."""

GROWTH = 12 * MIB
"""That ten freezes may add: allocators are untidy. What is reserved for one is 64 MiB or more."""


def resident(both: Pair) -> int:
    """Bytes of the source's daemon that are in memory."""
    for line in Path(f"/proc/{both.source.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def test_checkpoints_leave_nothing_in_memory(tmp_path: Path) -> None:
    with (
        loop_device(tmp_path / "disk.img", 256 * MIB) as device,
        mounted(device, tmp_path / "mnt", "ext4") as where,
        pair([device]) as both,
    ):
        both.create("--freeze-budget", "8s")
        both.synced()
        with busy_writer(where, "5M"):
            for _ in range(3):
                both.checkpoint()
            first = resident(both)
            print(f"after 3 checkpoints: {first / MIB:.0f} MiB")
            for _ in range(6):
                both.checkpoint()
            fails = both.hook("frozen", "20-fails", "exit 1")
            for _ in range(4):
                with pytest.raises(CommandFailed):
                    both.checkpoint()
            fails.unlink()
            both.checkpoint()
            last = resident(both)
        print(f"after 14: {last / MIB:.0f} MiB")
        assert last < first + GROWTH
        assert last < MOST
