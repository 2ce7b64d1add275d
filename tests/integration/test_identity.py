"""A job copies the disk that it was made for, whatever that is called, and no other."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.support.loops import MIB, loop_device, run
from tests.support.pair import Pair, pair, same_content, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

SIZE = 24 * MIB


def filled(image: Path, seed: int, size: int = SIZE) -> None:
    """An image with a filesystem of its own UUID and some content."""
    image.write_bytes(random.Random(seed).randbytes(size))
    run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)


def attach(image: Path, device: str) -> None:
    run("losetup", device, image)


def exact(both: Pair, image: Path) -> None:
    both.checkpoint("--hold")
    os.sync()
    assert same_content(both.intermediate(), image)
    both.resume()


def failed(both: Pair, code: str) -> str:
    error = both.state("error")["error"]
    assert error["code"] == code, error
    sentence: str = error["message"] + " " + error["remedy"]
    return sentence


def test_names_swapped_clones_and_other_disks(tmp_path: Path) -> None:
    """One job through all that can become of names: two loop devices whose files are exchanged
    while the source is down, a clone beside the disk, another disk in its place."""
    ours, theirs = tmp_path / "ours.img", tmp_path / "theirs.img"
    with (
        loop_device(tmp_path / "a", MIB) as one,
        loop_device(tmp_path / "b", MIB) as two,
        pair([one, two], start=False) as both,
    ):
        for device in (one, two):
            run("losetup", "--detach", device)
        filled(ours, 1)
        filled(theirs, 2)
        try:
            attach(ours, one)
            attach(theirs, two)
            both.start()
            both.create("--disk", one, "--freeze-budget", "30s")
            both.synced()
            exact(both, ours)
            before = both.show()["logical_bytes"]

            both.source.stop()
            for device in (one, two):
                run("losetup", "--detach", device)
            attach(ours, two)
            attach(theirs, one)
            both.source.start()
            until(lambda: both.show()["disks"][0]["device"] == two, what="the disk is followed")
            both.clean()
            exact(both, ours)
            disk = both.show()["disks"][0]
            assert disk["path"] == one
            assert disk["recovery"]["grade"] == "compare"
            assert both.show()["logical_bytes"] - before < MIB
            taken = Path(two).read_bytes()

            # A daemon that is killed finds it where it was, without a comparison.
            since = disk["recovery"]["since"]
            both.source.kill()
            both.source.start()
            until(lambda: both.show()["disks"][0]["recovery"]["since"] > since, what="taken up")
            assert both.show()["disks"][0]["recovery"]["grade"] == "intact"
            exact(both, ours)

            # A clone: the disk was attached anew, so nothing but its marks is known of it.
            both.source.stop()
            for device in (one, two):
                run("losetup", "--detach", device)
            clone = tmp_path / "clone.img"
            run("cp", ours, clone)
            attach(ours, two)
            attach(clone, one)
            both.source.start()
            sentence = failed(both, "RPL-5011")
            assert one in sentence
            assert two in sentence

            # Another disk under the name, and ours is not there.
            run("losetup", "--detach", one)
            run("losetup", "--detach", two)
            attach(theirs, one)
            both.receiver.run("job", "retry", both.job)
            until(lambda: (both.show()["error"] or {}).get("code") == "RPL-5003", what="5003")
            assert f"job set ID accept={one}" in failed(both, "RPL-5003")
            assert both.intermediate().read_bytes() == taken, "not one byte was written"

            # The administrator agrees: a full pass, zeros and all, of a new generation.
            both.receiver.run("job", "set", both.job, f"accept={one}")
            both.receiver.run("job", "retry", both.job)
            both.synced()
            until(lambda: both.show()["disks"][0]["recovery"]["ended"], what="the full pass")
            found = both.show()["disks"][0]["recovery"]
            assert found["grade"] == "full"
            assert "accepted another disk" in found["reason"]
            assert found["bytes_sent"] >= SIZE
            exact(both, theirs)
        finally:
            for device in (one, two):
                if Path(f"/sys/block/{Path(device).name}/loop").exists():
                    run("losetup", "--detach", device)
            # The fixtures detach them once more.
            attach(tmp_path / "a", one)
            attach(tmp_path / "b", two)


def test_a_filesystem_made_anew_on_a_disk_that_never_left(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with loop_device(image, SIZE) as device, pair([device]) as both:
        run("mkfs.ext4", "-q", "-F", device)
        both.create("--freeze-budget", "30s")
        both.synced()
        both.source.kill()
        # Another UUID, no other mark: only that it was never detached tells.
        run("mkfs.ext4", "-q", "-F", device)
        since = both.show()["disks"][0]["recovery"]["since"]
        both.source.start()
        until(lambda: both.show()["disks"][0]["recovery"]["since"] > since, what="taken up")
        assert both.show()["disks"][0]["recovery"]["grade"] == "intact"
        exact(both, image)


def test_a_disk_that_is_exchanged_while_a_session_is_open(tmp_path: Path) -> None:
    """A link of the name is turned to another disk: not copied over the old one's copy."""
    ours, theirs = tmp_path / "ours.img", tmp_path / "theirs.img"
    with loop_device(ours, SIZE) as one, loop_device(theirs, SIZE) as two:
        for device in (one, two):
            run("mkfs.ext4", "-q", "-F", device)
        name = tmp_path / "disk"
        name.symlink_to(one)
        with pair([str(name)]) as both:
            both.create("--freeze-budget", "30s")
            both.synced()
            both.clean()
            exact(both, ours)
            both.clean()
            before = both.intermediate().read_bytes()
            turned = tmp_path / "turned"
            turned.symlink_to(two)
            turned.rename(name)
            # Whatever is asked of it now, it looks before it copies.
            error = both.receiver.run("job", "checkpoint", both.job, "--wait", "--hold", code=3)
            assert error["code"] == "RPL-5003"
            failed(both, "RPL-5003")
            assert both.intermediate().read_bytes() == before
            turned.symlink_to(one)
            turned.rename(name)
            both.receiver.run("job", "retry", both.job)
            both.synced()
            exact(both, ours)
