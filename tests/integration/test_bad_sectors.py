"""Source disks that cannot be read in places: the place is named, the rest goes on, it heals.

The errors are the kernel's (tests/support/baddisk.py). What must never happen: a checkpoint that is
called good while a place of it could not be read, or one bad sector that stops everything else.
"""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.baddisk import attached, bad_disk
from tests.support.loops import MIB, flush, loop_device, mounted
from tests.support.pair import Pair, pair, same_content, until
from tests.support.serving import fails

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

SIZE = 24 * MIB
GRANULE = 4096
FIRST, SECOND = 5 * MIB + 3 * GRANULE, SIZE - GRANULE
"""The granules of the bad sectors; the second is the last of the disk."""


def write(path: str | Path, at: int, size: int) -> None:
    """Random content, durably."""
    with open(path, "r+b") as disk:
        disk.seek(at)
        disk.write(random.Random(at + size).randbytes(size))
        disk.flush()
        os.fsync(disk.fileno())


def spoiled(both: Pair, *places: int, dirty: bool = True) -> dict[str, Any]:
    """Wait until exactly these granules of the first disk are said to be unreadable, everywhere,
    and everything else has been copied."""
    wanted = [{"offset": place, "length": GRANULE} for place in places]

    def said() -> Any:
        views = both.show(), both.status()["job"]
        disks = [view["disks"][0] for view in views if view and view["disks"]]
        size = GRANULE * len(places)
        return (
            len(disks) == 2
            and all(disk["unreadable"] == wanted for disk in disks)
            and all(disk["unreadable_bytes"] == size for disk in disks)
            and all(disk["dirty_bytes"] == (size if dirty else 0) for disk in disks)
            and views[0]
        )

    view: dict[str, Any] = until(said, 40, f"exactly {wanted} being unreadable")
    assert view["state"] == "syncing"
    return view


def measured(both: Pair, size: int) -> None:
    """Wait until both sides' metrics say so; they are made once a second."""

    def said() -> bool:
        mine, theirs = both.metrics("source"), both.metrics("receiver")
        ours = mine.get("replicad_unreadable_bytes"), theirs.get("receiver_unreadable_bytes")
        return ours == (size, size)

    until(said, 10, "the metrics")


def refused(both: Pair, path: str, place: int) -> None:
    """A checkpoint is refused for the sake of this granule, and the job goes on."""
    error = fails(both.receiver, "RPL-5004", 1, "job", "checkpoint", both.job, "--wait")
    assert f"{path} at bytes {place}-{place + GRANULE} failed: Input/output error" in str(error)
    assert both.show()["epoch"] == 0
    until(lambda: both.show()["state"] == "syncing", 20, "going on")


def differing(one: Path, other: Path) -> list[int]:
    """The granules in which two files differ."""
    mine, theirs = one.read_bytes(), other.read_bytes()
    assert len(mine) == len(theirs)
    granules = range(0, len(mine), GRANULE)
    return [at for at in granules if mine[at : at + GRANULE] != theirs[at : at + GRANULE]]


def exact(both: Pair, behind: Path) -> None:
    """A checkpoint can be taken, and is what the disk holds."""
    both.checkpoint("--hold")
    assert same_content(both.intermediate(), behind)
    assert both.show()["error"] is None
    both.resume()


def test_bad_sectors_are_named_held_back_and_heal(tmp_path: Path) -> None:
    with (
        bad_disk(tmp_path, SIZE) as disk,
        attached(disk) as device,
        loop_device(tmp_path / "good.img", 8 * MIB) as good,
        pair([device, good]) as both,
    ):
        write(device, 0, SIZE)
        write(good, 0, 8 * MIB)
        for place in (FIRST, SECOND):
            disk.cannot_read(place + 1024, 512)
        both.create("--freeze-budget", "30s")
        both.synced()
        view = spoiled(both, FIRST, SECOND)
        assert "8 KiB" in view["sentence"]
        assert device in view["sentence"]
        assert view["disks"][1]["unreadable"] == []
        measured(both, 2 * GRANULE)
        assert differing(both.intermediate(0), disk.behind) == [FIRST, SECOND]
        assert same_content(both.intermediate(1), Path(good))
        refused(both, device, FIRST)

        # Passes go on, on both disks, and do not run into the bad places again and again.
        tried = disk.tried
        for at in (0, FIRST + GRANULE, 9 * MIB):
            write(device, at, GRANULE)
        write(good, MIB, MIB)
        until(lambda: same_content(both.intermediate(1), Path(good)), 20, "the other disk")
        spoiled(both, FIRST, SECOND)
        time.sleep(3)
        assert differing(both.intermediate(0), disk.behind) == [FIRST, SECOND]
        assert disk.tried - tried < 30, "it is read without a pause"
        log = both.source.log.read_text()
        assert log.count('"event":"disk.unreadable"') == 2, "not once for each place"
        # Two places, and the checkpoint that was asked for twice (fails() does).
        until(lambda: both.metrics("source")["replicad_errors_total"] == 4, 5, "four errors")

        # A sector that is written is mended by the disk: nobody need do anything.
        write(device, FIRST, GRANULE)
        spoiled(both, SECOND)
        refused(both, device, SECOND)
        # One that reads again for another reason: the next try, or at once when asked.
        disk.heal()
        both.receiver.run("job", "retry", both.job)
        until(lambda: not both.show()["disks"][0]["unreadable_bytes"], 4, "healing after retry")
        exact(both, disk.behind)
        assert both.source.log.read_text().count('"event":"disk.readable"') == 2

        # A verification meets a bad sector that nobody has written since: it judges the rest.
        disk.cannot_read(FIRST, 512)
        verified = both.receiver.run("job", "verify", both.job, "--wait")
        assert verified["differing_bytes"] == 0
        assert spoiled(both, FIRST, dirty=False)["error"] is None
        disk.heal()
        exact(both, disk.behind)


def test_the_first_error_comes_while_frozen(tmp_path: Path) -> None:
    """It thaws at once, nothing is committed, and the next checkpoint is exact."""
    with (
        bad_disk(tmp_path, SIZE) as disk,
        attached(disk) as device,
        mounted(device, tmp_path / "mnt", "ext4") as where,
        pair([device]) as both,
    ):
        (where / "file").write_bytes(os.urandom(4 * MIB))
        flush(where)
        both.create("--freeze-budget", "20s")
        both.synced()
        ready, go = both.directory / "ready", both.directory / "go"
        dirty = f"dd if=/dev/urandom of={where}/file bs=4k count=9 conv=notrunc,fsync 2>&1"
        wait = f"touch {ready}; while [ ! -e {go} ]; do sleep 0.05; done"
        hook = both.hook("pre-freeze", "10-spoil", f"{dirty}\n{wait}")

        def spoil() -> None:
            until(ready.exists, 60, "the hook")
            disk.cannot_read(0, SIZE)
            go.touch()

        thread = threading.Thread(target=spoil)
        thread.start()
        begun = time.monotonic()
        error = fails(both.receiver, "RPL-5004", 1, "job", "checkpoint", both.job, "--wait")
        assert device in str(error)
        thread.join()
        (where / "written").write_bytes(b"it has thawed")
        assert time.monotonic() - begun < 15, "the freeze lasted"
        assert both.show()["epoch"] == 0
        assert not list(both.storage.glob("snapshots/*/*"))
        disk.heal()
        hook.unlink()
        reference = both.directory / "reference.img"
        both.keep_reference(disk.behind, reference)
        assert both.checkpoint("--hold")["consistency"] == "filesystem"
        assert same_content(both.intermediate(), reference)


def test_a_block_that_cannot_be_read_in_a_comparison(tmp_path: Path) -> None:
    """Everything else of its 64 KiB is copied; while frozen the comparison ends at once."""
    with bad_disk(tmp_path, SIZE) as disk, pair([str(disk.path)], tracker="off") as both:
        write(disk.path, 0, SIZE)
        both.create("--freeze-budget", "30s")
        both.synced()
        assert same_content(both.intermediate(), disk.behind)
        both.source.stop()
        for at in (MIB, FIRST - GRANULE, FIRST, FIRST + GRANULE, SECOND):
            write(disk.path, at, GRANULE)
        disk.cannot_read(FIRST, 512)
        sent = both.show()["logical_bytes"]
        both.source.start()
        spoiled(both, FIRST)
        assert differing(both.intermediate(), disk.behind) == [FIRST]
        assert both.show()["logical_bytes"] - sent < MIB
        refused(both, str(disk.path), FIRST)
        disk.heal()
        exact(both, disk.behind)
        # Readable until the freeze, and then not.
        disk.cannot_read(SECOND, 512)
        error = fails(both.receiver, "RPL-5004", 1, "job", "checkpoint", both.job, "--wait")
        assert f"bytes {SECOND}-{SIZE}" in str(error)
        disk.heal()
        exact(both, disk.behind)


def test_a_disk_that_cannot_be_read_at_all_and_comes_back(tmp_path: Path) -> None:
    """Its path has failed, as the kernel says it: EIO for everything. It is no fault of the job."""
    with bad_disk(tmp_path, SIZE) as disk, attached(disk) as device, pair([device]) as both:
        write(device, 0, SIZE)
        disk.cannot_read(0, SIZE)
        both.create("--freeze-budget", "30s")
        wanted = [{"offset": 0, "length": SIZE}]
        until(lambda: both.show()["disks"][0]["unreadable"] == wanted, 60, "the whole of it", 0.5)
        assert both.show()["disks"][0]["unreadable_bytes"] == SIZE
        disk.heal()
        both.clean()
        exact(both, disk.behind)
