"""A job copies the disk that it was made for, whatever that is called, and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.loops import MIB, flush, loop_device, run
from tests.support.pair import Pair, pair, same_content, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

SIZE = 24 * MIB


def turn(link: Path, device: str) -> None:
    """The name means another disk from now on."""
    new = link.with_suffix(".new")
    new.symlink_to(device)
    new.rename(link)


def make_filesystem(device: str) -> None:
    run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", device)


def taken_up(both: Pair, since: str) -> dict[str, Any]:
    """The disk, once its copy has been taken up anew."""

    def anew() -> Any:
        disk = both.show()["disks"][0]
        return disk["recovery"] and disk["recovery"]["since"] > since and disk

    disk: dict[str, Any] = until(anew, what="the copy taken up")
    return disk


def exact(both: Pair, image: Path) -> None:
    both.checkpoint("--hold")
    flush(image)
    assert same_content(both.intermediate(), image)
    both.resume()


def failed(both: Pair, code: str) -> str:
    error = both.state("error")["error"]
    assert error["code"] == code, error
    sentence: str = error["message"] + " " + error["remedy"]
    return sentence


def test_names_swapped_clones_and_other_disks(tmp_path: Path) -> None:
    """One job through all that can become of names: two of them exchanged while the source is
    down, a clone beside the disk, another disk in its place. Names are links, as in /dev/disk."""
    ours, theirs = tmp_path / "ours.img", tmp_path / "theirs.img"
    one, two = tmp_path / "one", tmp_path / "two"
    with (
        loop_device(ours, SIZE) as our_disk,
        loop_device(theirs, SIZE) as their_disk,
        loop_device(tmp_path / "clone.img", SIZE) as clone,
        pair([str(one), str(two)], start=False) as both,
    ):
        for device in (our_disk, their_disk):
            make_filesystem(device)
        turn(one, our_disk)
        turn(two, their_disk)
        both.start()
        both.create("--disk", str(one), "--freeze-budget", "30s")
        both.synced()
        exact(both, ours)
        sent = both.show()["logical_bytes"]
        since = both.show()["disks"][0]["recovery"]["since"]

        # The names are exchanged, and the daemon's maps are lost: only marks can tell.
        both.source.stop()
        for path in (both.directory / "sr").iterdir():
            path.unlink()
        turn(one, their_disk)
        turn(two, our_disk)
        both.source.start()
        disk = taken_up(both, since)
        assert (disk["path"], disk["device"]) == (str(one), str(two))
        assert disk["recovery"]["grade"] == "compare"
        both.clean()
        exact(both, ours)
        assert both.show()["logical_bytes"] - sent < MIB
        copy = both.intermediate().read_bytes()

        # A daemon that is killed finds it where it was, without a comparison; also beside a
        # clone, because it was never detached.
        since = disk["recovery"]["since"]
        run("dd", f"if={ours}", f"of={clone}", "bs=1M", "conv=fsync")
        both.source.kill()
        turn(one, clone)
        both.source.start()
        disk = taken_up(both, since)
        assert (disk["device"], disk["recovery"]["grade"]) == (str(two), "intact")
        exact(both, ours)

        # Without the map nobody knows which is which, not even by name.
        both.source.kill()
        for path in (both.directory / "sr").iterdir():
            path.unlink()
        both.source.start()
        sentence = failed(both, "RPL-5011")
        assert str(one) in sentence
        assert str(two) in sentence

        # Another disk under the name, and ours is not there.
        turn(one, their_disk)
        two.unlink()
        both.receiver.run("job", "retry", both.job)
        until(lambda: (both.show()["error"] or {}).get("code") == "RPL-5003", what="5003")
        assert f"job set ID accept={one}" in failed(both, "RPL-5003")
        assert both.intermediate().read_bytes() == copy, "not one byte was written"

        # The administrator agrees: a full pass, zeros and all, of a new generation.
        until(lambda: _offered(both, one, their_disk), what="the inventory of now")
        since = both.show()["disks"][0]["recovery"]["since"]
        both.receiver.run("job", "set", both.job, f"accept={one}")
        both.receiver.run("job", "retry", both.job)
        found = taken_up(both, since)["recovery"]
        assert found["grade"] == "full"
        assert "accepted another disk" in found["reason"]
        until(lambda: both.show()["disks"][0]["recovery"]["ended"], what="the full pass")
        assert both.show()["disks"][0]["recovery"]["bytes_sent"] >= SIZE
        exact(both, theirs)


def _offered(both: Pair, path: Path, device: str) -> bool:
    """Whether the receiver has been told what is at ``path`` now."""
    uuid = run("blkid", "-p", "-s", "UUID", "-o", "value", device)
    (source,) = both.receiver.run("source", "list")
    found = {disk["path"]: disk["identity"]["filesystems"] for disk in source["disks"]}
    return bool(found.get(str(path)) == [uuid])


def test_a_filesystem_made_anew_on_a_disk_that_never_left(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with loop_device(image, SIZE) as device, pair([device]) as both:
        make_filesystem(device)
        both.create("--freeze-budget", "30s")
        both.synced()
        both.source.kill()
        # Another UUID, no other mark: only that it was never detached tells.
        make_filesystem(device)
        since = both.show()["disks"][0]["recovery"]["since"]
        both.source.start()
        assert taken_up(both, since)["recovery"]["grade"] == "intact"
        exact(both, image)


def test_a_disk_that_is_exchanged_while_a_session_is_open(tmp_path: Path) -> None:
    """A link of the name is turned to another disk: not copied over the old one's copy."""
    ours, theirs = tmp_path / "ours.img", tmp_path / "theirs.img"
    with loop_device(ours, SIZE) as one, loop_device(theirs, SIZE) as two:
        for device in (one, two):
            make_filesystem(device)
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
