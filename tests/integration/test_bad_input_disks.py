"""Disks that give way under a job: the receiver's is full, the source's vanishes or shrinks.

The job stops with the disk's own error and keeps everything; both daemons run on, and when the
disk is as it was, ``job retry`` goes on from there.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.loops import MIB, loop_device, run
from tests.support.pair import Pair, pair, same_content, until
from tests.support.serving import fails

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

SIZE = 32 * MIB


def fill(device: str, size: int = SIZE) -> None:
    """Random content on a whole device."""
    with open(device, "r+b") as disk:
        disk.writelines(os.urandom(MIB) for _ in range(size // MIB))
        disk.flush()
        os.fsync(disk.fileno())


def failed(both: Pair, code: str) -> str:
    """Wait for the job's error; both daemons must live and agree on it. Its message."""
    error = both.state("error", seconds=60)["error"]
    assert error["code"] == code, error
    assert error["remedy"]
    assert both.receiver.running
    assert both.source.running
    until(lambda: _knows_of_error(both), 20, "the source's word of the error")
    fails(both.receiver, "RPL-4005", 3, "job", "checkpoint", both.job)
    for log in (both.receiver.log, both.source.log):
        assert "Traceback" not in log.read_text()
    return str(error["message"])


def _knows_of_error(both: Pair) -> bool:
    status = both.source.run("status")
    return bool(status["connected"] and status["job"]["state"] == "error")


def exact(both: Pair, disk: Path) -> None:
    """The job syncs, and its checkpoint is the disk, which nobody writes to now."""
    both.synced()
    both.checkpoint("--hold")
    assert same_content(both.intermediate(), disk)


# --- the receiver's disk --------------------------------------------------------------------------


@contextlib.contextmanager
def small_storage(where: Path, size: int) -> Iterator[None]:
    run("mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "replicad-test", where)
    try:
        yield
    finally:
        run("umount", "-l", where)


def test_a_full_receiver_keeps_everything_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """RPL-4107 names the file; after the retry only what was missing travels."""
    image = tmp_path / "disk.img"
    with (
        loop_device(image, SIZE) as device,
        pair([device], start=False) as both,
        small_storage(both.storage, 24 * MIB),
    ):
        fill(device)
        both.start()
        # Slow enough that what arrives is acknowledged as it comes: only that stays clean.
        both.create("--bandwidth", "40Mbit")
        message = failed(both, "RPL-4107")
        view = both.show()
        copy, held = both.intermediate(), view["logical_bytes"]
        assert str(copy) in message
        assert copy.stat().st_size == SIZE
        kept = copy.stat().st_blocks * 512
        assert kept > 4 * MIB
        fails(both.receiver, "RPL-4004", 3, "job", "create", "--source", "web01")
        # Without room it fails again, with the same error and nothing lost.
        both.receiver.run("job", "retry", both.job)
        failed(both, "RPL-4107")
        assert copy.stat().st_blocks * 512 >= kept
        held = both.show()["logical_bytes"]
        run("mount", "-o", "remount,size=200m", both.storage)
        both.receiver.run("job", "set", both.job, "bandwidth=unlimited")
        both.receiver.run("job", "retry", both.job)
        exact(both, image)
        sent = both.show()["logical_bytes"] - held
        assert sent < SIZE - kept + 8 * MIB, "it was copied again from the start"
        assert both.show()["error"] is None


def test_no_room_for_a_new_job_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with (
        loop_device(image, SIZE) as device,
        pair([device], start=False) as both,
        small_storage(both.storage, 24 * MIB),
    ):
        both.start()
        with (both.storage / "ballast").open("wb") as ballast:
            with contextlib.suppress(OSError):
                while True:
                    ballast.write(bytes(1 << 16))
                    ballast.flush()
        error = fails(both.receiver, "RPL-4107", 1, "job", "create", "--source", "web01")
        assert str(both.storage) in error["message"]
        assert both.receiver.run("job", "list") == []
        assert not list(both.storage.glob("disks/*/*"))
        (both.storage / "ballast").unlink()
        both.create()
        exact(both, image)


# --- the source's disk ----------------------------------------------------------------------------


@pytest.fixture
def copied(tmp_path: Path) -> Iterator[tuple[Pair, Path, str]]:
    """A pair whose job has copied a filled loop device: pair, backing file, device."""
    image = tmp_path / "disk.img"
    with loop_device(image, SIZE) as device, pair([device]) as both:
        fill(device)
        both.create("--freeze-budget", "30s")
        both.synced()
        yield both, image, device


def resize(image: Path, device: str, size: int) -> None:
    os.truncate(image, size)
    run("losetup", "--set-capacity", device)


def test_a_disk_that_shrinks_stops_the_job(copied: tuple[Pair, Path, str]) -> None:
    """RPL-5002 with both sizes; restored to its size, the job goes on and ends exact. A new job
    for the smaller disk, the other remedy, is test_a_new_job_for_a_shrunken_disk_is_possible."""
    both, image, device = copied
    to = SIZE - 8 * MIB
    copy = both.intermediate()
    before = copy.read_bytes()
    resize(image, device, to)
    fill(device, MIB)  # a pass has something to do, and looks at the disk
    message = failed(both, "RPL-5002")
    for part in (device, str(SIZE), str(to)):
        assert part in message
    assert copy.stat().st_size == SIZE
    assert copy.read_bytes()[MIB : SIZE - 8 * MIB] == before[MIB : SIZE - 8 * MIB]
    both.receiver.run("job", "retry", both.job)
    failed(both, "RPL-5002")
    resize(image, device, SIZE)
    fill(device)  # what was cut off is gone
    both.receiver.run("job", "retry", both.job)
    exact(both, image)


def test_a_new_job_for_a_shrunken_disk_is_possible(copied: tuple[Pair, Path, str]) -> None:
    """The remedy of RPL-5002: cancel, and create a new one, which has the new size."""
    both, image, device = copied
    resize(image, device, SIZE - MIB)
    fill(device, MIB)
    failed(both, "RPL-5002")
    both.receiver.run("job", "cancel", both.job)
    until(
        lambda: both.receiver.run("source", "show", "web01")["disks"][0]["size"] == SIZE - MIB,
        80,
        "the new size in the inventory",
    )
    both.create("--freeze-budget", "30s")
    exact(both, image)


def test_a_disk_that_vanishes_stops_the_job(tmp_path: Path) -> None:
    """RPL-5001 while the source stays connected and its other disk can still be copied."""
    gone, stays = tmp_path / "gone.img", tmp_path / "stays.img"
    for file in (gone, stays):
        file.write_bytes(os.urandom(4 * MIB))
    with loop_device(tmp_path / "loop.img", SIZE) as device:
        node = tmp_path / "node"
        number = os.stat(device).st_rdev
        os.mknod(node, 0o600 | 0o060000, number)
        with pair([str(node), str(stays)]) as both:
            fill(device)
            both.create("--disk", str(node), "--freeze-budget", "30s", "--start", "manual")
            both.source.stop()
            node.unlink()
            both.source.start()
            until(lambda: both.source.run("status")["connected"], 30, "the source's return")
            both.receiver.run("job", "start", both.job)
            assert str(node) in failed(both, "RPL-5001")
            os.mknod(node, 0o600 | 0o060000, number)
            both.receiver.run("job", "retry", both.job)
            exact(both, Path(device))


def test_a_file_that_is_truncated_stops_the_job(tmp_path: Path) -> None:
    """An image file as the source's disk: cut to nothing while it is copied."""
    image = tmp_path / "disk.img"
    content = os.urandom(SIZE)
    image.write_bytes(content)
    with pair([str(image)], tracker="off") as both:
        both.create("--bandwidth", "40Mbit")
        both.state("syncing")
        os.truncate(image, 0)
        message = failed(both, "RPL-5002")
        assert str(SIZE) in message
        assert (
            subprocess.run(["stat", str(image)], check=False, capture_output=True).returncode == 0
        )
        image.write_bytes(content)
        both.receiver.run("job", "set", both.job, "bandwidth=unlimited")
        both.receiver.run("job", "retry", both.job)
        exact(both, image)
