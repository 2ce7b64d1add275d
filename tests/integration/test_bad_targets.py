"""The receiver's disks fail: the job stops with their error, keeps all, and goes on after a retry.

Real errors of real disks (tests/support/baddisk.py). The worst of them is the failed sync: the
kernel reports it once, calls the pages clean, and shows in the cache what no disk holds.
"""

from __future__ import annotations

import errno
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.support.baddisk import BadDisk, attached, bad_disk
from tests.support.loops import MIB, filesystem, loop_device, mounted, run
from tests.support.pair import CommandFailed, Pair, pair, same_content, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

SIZE = 24 * MIB
GRANULE = 4096


def write(path: str | Path, at: int, size: int) -> None:
    """Random content, durably."""
    with open(path, "r+b") as disk:
        disk.seek(at)
        disk.write(random.Random(at + size).randbytes(size))
        disk.flush()
        os.fsync(disk.fileno())


def failed(both: Pair, code: str, path: str | Path) -> None:
    """The job is in error with this code, which names the disk; both daemons live."""
    error = both.state("error", seconds=60)["error"]
    assert error["code"] == code, error
    assert str(path) in error["message"]
    assert "retry" in error["remedy"]
    assert both.receiver.running
    assert both.source.running


def retried(both: Pair, disk: str | Path) -> None:
    """After the retry the copy is exact, and it was not copied anew."""
    sent = both.show()["logical_bytes"]
    both.receiver.run("job", "retry", both.job)
    both.state("syncing")
    both.checkpoint("--hold")
    run("cmp", "-n", str(SIZE), both.intermediate(), disk)
    assert both.show()["logical_bytes"] - sent < SIZE // 4
    assert both.show()["error"] is None
    both.resume()


def physical(file: Path, at: int) -> int:
    """Where on its filesystem's device a file has its byte ``at`` (filefrag)."""
    for line in run("filefrag", "-b4096", "-v", file).splitlines():
        if found := re.match(r"\s*\d+:\s+(\d+)\.\.\s*(\d+):\s+(\d+)\.\.", line):
            first, last, place = map(int, found.groups())
            if first <= at // 4096 <= last:
                return (place + at // 4096 - first) * 4096
    raise AssertionError(f"{file} has no block at {at}")


def test_a_file_whose_sync_fails(tmp_path: Path) -> None:
    """fsyncgate: of the raw disk nothing is believed, a compare pass finds what was lost."""
    with (
        bad_disk(tmp_path, 128 * MIB) as below,
        attached(below) as storage,
        mounted(storage, tmp_path / "storage", "ext4") as where,
        loop_device(tmp_path / "disk.img", SIZE) as device,
        pair([device], start=False) as both,
    ):
        both.storage.rmdir()
        both.storage.symlink_to(where)
        both.start()
        write(device, 0, SIZE)
        both.create("--freeze-budget", "30s")
        both.clean()
        copy = both.intermediate()
        at = physical(copy, 8 * MIB)
        below.bad_writes, below.write_error = [(at, at + GRANULE)], errno.EIO
        write(device, 8 * MIB, GRANULE)
        failed(both, "RPL-4108", copy)
        # As long as the disk is like that the job fails again, and nothing else is lost.
        both.receiver.run("job", "retry", both.job)
        failed(both, "RPL-4108", copy)
        below.heal()
        write(device, 9 * MIB, GRANULE)
        retried(both, device)
        assert '"compare"' in both.source.log.read_text()


class Neighbour:
    """Another source of the same receiver, with a job of its own that must not notice."""

    def __init__(self, both: Pair, directory: Path, image: Path) -> None:
        directory.mkdir()
        self._image = image
        self._receiver = both.receiver
        self._control = both.control
        own = Pair(directory, [str(image)], tracker="off")
        own.source.config.write_text(own.source.config.read_text().replace("web01", "web02"))
        self._source = own.source
        self._job = ""

    def __enter__(self) -> Self:
        self._source.start()
        code = self._receiver.run("activation", "create")["code"]
        where = f"127.0.0.1:{self._control}"
        self._source.run("enroll", "-", "--receiver", where, stdin=code)
        until(lambda: self._receiver.run("source", "show", "web02")["disks"], 30, "its disks")
        made = self._receiver.run("job", "create", "--source", "web02", "--freeze-budget", "30s")
        self._job = made["id"]
        return self

    def __exit__(self, *_: object) -> None:
        self._source.kill()

    def goes_on(self) -> None:
        """Its job takes a checkpoint, and is exact."""
        write(self._image, 0, GRANULE)
        self._receiver.run("job", "checkpoint", self._job, "--wait")
        view = self._receiver.run("job", "show", self._job)
        assert view["error"] is None
        assert same_content(Path(view["disks"][0]["intermediate"]), self._image)


@pytest.fixture
def on_a_bad_device(tmp_path: Path) -> Iterator[tuple[Pair, str, BadDisk, str]]:
    """A job whose target is a device that can fail: pair, source, target's disk, target."""
    with (
        bad_disk(tmp_path, SIZE + MIB) as below,
        attached(below) as target,
        loop_device(tmp_path / "disk.img", SIZE) as device,
        pair([device]) as both,
    ):
        write(device, 0, SIZE)
        both.create("--freeze-budget", "30s", "--disk", device, "--target", f"device:{target}")
        both.clean()
        yield both, device, below, target


def test_a_device_fails_in_every_way(on_a_bad_device: tuple[Pair, str, BadDisk, str]) -> None:
    """Sync, write, no space (a thin pool), and reading for a comparison; another job goes on."""
    both, device, below, target = on_a_bad_device
    image = both.directory / "other.img"
    image.write_bytes(os.urandom(MIB))
    with Neighbour(both, both.directory / "other", image) as other:
        below.sync_error = errno.EIO
        write(device, 5 * MIB, 16 * GRANULE)
        failed(both, "RPL-4108", target)
        other.goes_on()
        below.heal()
        retried(both, device)
    for number, fault in enumerate(("write", "space")):
        below.write_error = errno.EIO if fault == "write" else errno.ENOSPC
        write(device, (1 + number) * MIB, 16 * GRANULE)
        failed(both, "RPL-4108", target)
        below.heal()
        retried(both, device)
    both.source.stop()
    for path in (both.directory / "sr").glob("*.map"):
        path.unlink()  # so that the next pass compares
    below.cannot_read(12 * MIB, GRANULE)
    both.source.start()
    failed(both, "RPL-4108", target)
    below.heal()
    retried(both, device)


def test_the_storage_is_full_when_a_checkpoint_is_committed(tmp_path: Path) -> None:
    """Neither a snapshot nor the catalog can be written: no checkpoint, then one."""
    image = tmp_path / "disk.img"
    with (
        loop_device(image, SIZE) as device,
        filesystem("xfs", tmp_path) as where,
        pair([device], start=False) as both,
    ):
        both.storage.rmdir()
        both.storage.symlink_to(where)
        both.start()
        write(device, 0, SIZE)
        both.create("--freeze-budget", "60s")
        both.clean()
        ballast = where / "ballast"
        fill = f"cat /dev/zero > {ballast} || :\nsync -f {ballast} || :"
        hook = both.hook("frozen", "10-fill", fill)
        with pytest.raises(CommandFailed) as refused:
            both.checkpoint()
        assert refused.value.error["error"]["code"] in {"RPL-4107", "RPL-4111"}
        assert refused.value.code == 1
        hook.unlink()
        assert both.show()["epoch"] == 0
        assert both.show()["checkpoint"] is None
        assert not list(where.glob("snapshots/*/[0-9]"))
        ballast.unlink()
        until(lambda: both.show()["state"] in {"error", "syncing"}, 30, "the word of the source")
        retried(both, device)
        assert both.show()["epoch"] == 1
        (snapshot,) = where.glob("snapshots/*/1/*")
        assert same_content(snapshot, image)
