"""A source's disk that grows while it is copied: taken in by both sides, whatever dies meanwhile.

Real loop devices that are given more capacity (losetup -c), real daemons; the copy is compared with
the disk byte for byte at checkpoints before and after.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.loops import MIB, filesystem, loop_device, run
from tests.support.pair import Pair, pair, same_content, until
from tests.support.serving import fails

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

SIZE = 32 * MIB
LARGER = SIZE + 8 * MIB + 1024
"""Not a multiple of a granule or of a block that is compared."""


def fill(path: str | Path, size: int = SIZE, at: int = 0) -> None:
    """Random content, durably."""
    with open(path, "r+b") as disk:
        disk.seek(at)
        disk.write(random.Random(size + at).randbytes(size))
        disk.flush()
        os.fsync(disk.fileno())


def grow(image: Path, device: str, size: int = LARGER) -> None:
    os.truncate(image, size)
    run("losetup", "--set-capacity", device)


def grown(both: Pair, size: int = LARGER) -> dict[str, object]:
    """Wait until both sides have the new size and nothing differs. It must never be an error."""

    def done() -> object:
        view = both.status()["job"]  # the source's word: the receiver's is older
        if view is None:
            return False
        assert view["state"] in {"syncing", "preparing"}, view["error"]
        disk = view["disks"][0] if view["disks"] else {"passed": 0}
        settled = view["state"] == "syncing" and disk["passed"] and not disk["dirty_bytes"]
        return settled and disk["size"] == size and disk

    disk: dict[str, object] = until(done, 60, "growing")
    assert both.intermediate().stat().st_size == size or both.intermediate().is_block_device()
    return disk


def exact(both: Pair, disk: str | Path) -> None:
    both.checkpoint("--hold")
    size = both.show()["disks"][0]["size"]
    run("cmp", "-n", str(size), both.intermediate(), disk)
    both.resume()


@contextlib.contextmanager
def copied(tmp_path: Path) -> Iterator[tuple[Pair, Path, str]]:
    """A pair whose job has copied a filled loop device: pair, backing file, device."""
    image = tmp_path / "disk.img"
    with loop_device(image, SIZE) as device, pair([device]) as both:
        fill(device)
        both.create("--freeze-budget", "30s")
        both.synced()
        yield both, image, device


def test_growth_is_taken_in_and_older_snapshots_keep_their_size(tmp_path: Path) -> None:
    """Nothing is copied again but what is new, and status says why it compares."""
    image = tmp_path / "disk.img"
    with (
        loop_device(image, SIZE) as device,
        filesystem("xfs", tmp_path) as storage,
        pair([device], start=False) as both,
    ):
        both.storage.rmdir()
        both.storage.symlink_to(storage)
        both.start()
        fill(device)
        both.create("--freeze-budget", "30s")
        both.synced()
        before = both.checkpoint()
        reference = image.read_bytes()
        sent, inode = both.show()["logical_bytes"], both.intermediate().stat().st_ino
        grow(image, device)
        fill(device, MIB, SIZE - 4096)
        disk = grown(both)
        assert disk["trust"] == "tracked without a gap since the compare pass (epoch 1)"
        assert f"grew from {SIZE} to {LARGER} bytes" in both.source.log.read_text()
        assert both.show()["logical_bytes"] - sent < 3 * MIB
        assert both.intermediate().stat().st_ino == inode
        exact(both, image)
        fill(device, 4096, LARGER - 4096)  # the tracker knows the new part
        exact(both, image)
        assert both.show()["disks"][0]["trust"].startswith("tracked without a gap since the comp")
        assert (Path(before["snapshot"]) / both.intermediate().name).read_bytes() == reference
        assert both.status()["job"]["error"] is None


def test_growing_while_a_checkpoint_is_taken(tmp_path: Path) -> None:
    """That instant is given up, and the checkpoint is taken with the new size."""
    with copied(tmp_path) as (both, image, device):
        marker = both.directory / "grown"
        script = f"[ -e '{marker}' ] || {{ truncate -s {LARGER} '{image}'; losetup -c {device}; }}"
        both.hook("frozen", "10-grow", f"{script}\ntouch '{marker}'")
        taken = both.checkpoint("--hold")
        assert taken["epoch"] == 1
        assert both.show()["disks"][0]["size"] == LARGER
        assert same_content(both.intermediate(), image)


def test_a_file_that_grows_without_a_tracker(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(os.urandom(SIZE))
    with pair([str(image)], tracker="off") as both:
        both.create("--freeze-budget", "30s")
        both.synced()
        os.truncate(image, LARGER)
        fill(image, MIB, SIZE)
        grown(both)
        exact(both, image)


def test_a_target_device_that_is_too_small_and_is_enlarged(tmp_path: Path) -> None:
    image, behind = tmp_path / "disk.img", tmp_path / "target.img"
    with (
        loop_device(image, SIZE) as device,
        loop_device(behind, SIZE + MIB) as target,
        pair([device]) as both,
    ):
        fill(device)
        options = ("--disk", device, "--target", f"device:{target}")
        both.create("--freeze-budget", "30s", *options)
        both.synced()
        grow(image, device, SIZE + MIB)  # there is room for that
        fill(device, MIB, SIZE)
        grown(both, SIZE + MIB)
        exact(both, image)
        before = behind.read_bytes()
        grow(image, device)
        error = both.state("error", seconds=60)["error"]
        assert error["code"] == "RPL-4101"
        assert all(part in error["message"] for part in (target, str(SIZE + MIB), str(LARGER)))
        assert "retry" in error["remedy"]
        assert behind.read_bytes() == before
        fails(both.receiver, "RPL-4005", 3, "job", "checkpoint", both.job)
        grow(behind, target, LARGER + MIB)
        fill(device, MIB, LARGER - MIB)
        both.receiver.run("job", "retry", both.job)
        both.state("syncing")
        grown(both)
        exact(both, image)


def test_both_sides_are_killed_while_growing(tmp_path: Path) -> None:
    """At a step of each: the next opening ends what was begun, without a full copy. (All steps
    of the receiver are tests/receiver/test_growth.py's.)"""
    with copied(tmp_path) as (both, image, device):
        sent = both.show()["logical_bytes"]
        for side in (both.receiver, both.source):
            side.kill()
        grow(image, device)
        fill(device, MIB, SIZE)
        both.source.start(REPLICAD_CRASH_AT="map.created")
        both.receiver.start(REPLICAD_CRASH_AT="disk.extended")
        until(lambda: not both.receiver.running, 30, "the death of the receiver")
        both.receiver.start()
        until(lambda: not both.source.running, 30, "the death of the source")
        both.source.start()
        grown(both)
        exact(both, image)
        assert both.show()["logical_bytes"] - sent < 3 * MIB
