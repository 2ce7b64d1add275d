"""What nobody uses does not travel, and everything else does: real filesystems, real swapping."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.loops import MIB, loop_device, mounted, partitioned, run
from tests.support.pair import Pair, busy_writer, pair, same_content, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

SIZE = 1600 * MIB
KEPT, DELETED = 60 * MIB, 300 * MIB
"""bytes of one file each; small ones are another 30 MiB of each."""
CHECKED = {"ext4": ("e2fsck", "-f", "-n"), "xfs": ("xfs_repair", "-n")}
OPTIONS: dict[str, tuple[str, ...]] = {"ext4": (), "xfs": ("-o", "nouuid")}


def fill(path: Path, size: int) -> None:
    """A file of incompressible content."""
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
        os.fsync(file.fileno())


@contextlib.contextmanager
def disk(kind: str, tmp_path: Path, *, whole: bool = True) -> Iterator[tuple[Path, str, Path]]:
    """A filesystem with a file, and blocks of a deleted one: image, device, where it is mounted.
    Not ``whole``: in a partition."""
    image = tmp_path / "disk.img"
    with contextlib.ExitStack() as stack:
        if whole:
            device = part = stack.enter_context(loop_device(image, SIZE))
        else:
            device, part = stack.enter_context(partitioned(image, SIZE))
        where = stack.enter_context(mounted(part, tmp_path / "mnt", kind))
        fill(where / "kept", KEPT)
        fill(where / "deleted", DELETED)
        for number in range(60):
            fill(where / f"small-{number}", MIB)
        (where / "deleted").unlink()
        for number in range(0, 60, 2):  # free space with files on both sides of it
            (where / f"small-{number}").unlink()
        run("sync", "-f", where)
        yield image, device, where


def first_pass(both: Pair) -> dict[str, Any]:
    view = both.synced()
    found: dict[str, Any] = view["disks"][0]
    return found


def recovered(both: Pair, grade: str) -> dict[str, Any]:
    """The copy has been taken up again in this way: what that cost."""

    def said() -> Any:
        recovery = both.show()["disks"][0]["recovery"]
        # A source that has just started has not said it yet.
        return recovery and recovery["grade"] == grade and recovery["ended"] and recovery

    found: dict[str, Any] = until(said, what=f"recovery {grade}")
    return found


def same_files(copy: Path, kind: str, where: Path, offset: int = 0) -> None:
    """The held copy is mounted elsewhere (a copy of it: the log is replayed), has the files of the
    source, and is sound."""
    there, image = where.parent / "copied", where.parent / "copied.img"
    there.mkdir(exist_ok=True)
    run("cp", "--sparse=always", copy, image)
    device = run("losetup", "--find", "--show", "--offset", str(offset), image)
    try:
        run("mount", "-t", kind, *OPTIONS[kind], device, there)
        try:
            differing = subprocess.run(["diff", "-rq", where, there], check=False)
            assert differing.returncode == 0, "a file is not what it is on the source"
        finally:
            run("umount", there)
        # A mount namespace that another test made meanwhile may have it mounted for a while.
        mounted = Path("/sys/fs", kind, Path(device).name)
        until(lambda: not mounted.exists(), what="the last unmount of the copy")
        run(*CHECKED[kind], device)
    finally:
        run("losetup", "--detach", device)
        image.unlink()


@pytest.mark.parametrize(
    ("kind", "whole"), [("ext4", True), ("ext4", False), ("xfs", True), ("xfs", False)]
)
def test_free_space_is_left_out_until_it_is_used(kind: str, whole: bool, tmp_path: Path) -> None:
    with disk(kind, tmp_path, whole=whole) as (image, device, where), pair([device]) as both:
        both.create("--freeze-budget", "60s", "--free-space", "skip")
        said = first_pass(both)
        assert said["left_out_bytes"] > SIZE - KEPT - 250 * MIB
        assert said["total_bytes"] < KEPT + 250 * MIB
        assert both.show()["wire_bytes"] < KEPT + 70 * MIB, "deleted blocks were sent"

        # Used again, given back, used again: also while passes go on.
        with busy_writer(where):
            fill(where / "again", DELETED)
            fill(where / "more", DELETED)
            (where / "again").unlink()
            fill(where / "last", DELETED // 2)
            (where / "kept").rename(where / "renamed")
        run("sync", "-f", where)
        taken = both.checkpoint("--hold")
        assert taken["consistency"] == "filesystem"
        same_files(both.intermediate(), kind, where, offset=0 if whole else MIB)

        both.resume()
        clean = both.receiver.run("job", "verify", both.job, "--wait")
        assert clean["differing_bytes"] == 0
        assert clean["bytes_compared"] < SIZE - both.show()["disks"][0]["left_out_bytes"] + MIB

        # Another mind: all of it after all.
        both.receiver.run("job", "set", both.job, "free_space=copy")
        until(lambda: not both.show()["disks"][0]["left_out_bytes"], what="all of it wanted")
        reference = both.directory / "reference.img"
        both.keep_reference(image, reference)
        both.checkpoint("--hold", "--timeout", "60")
        assert same_content(both.intermediate(), reference)


def test_a_killed_source_knows_what_it_left_out(tmp_path: Path) -> None:
    with disk("ext4", tmp_path) as (_, device, where), pair([device]) as both:
        both.create("--freeze-budget", "60s", "--free-space", "skip")
        left = first_pass(both)["left_out_bytes"]
        both.source.kill()
        fill(where / "meanwhile", DELETED)
        both.source.start()
        recovered(both, "intact")
        assert both.clean()["disks"][0]["left_out_bytes"] <= left - DELETED + MIB
        both.checkpoint("--hold")
        same_files(both.intermediate(), "ext4", where)


def test_a_comparison_leaves_it_out_too(tmp_path: Path) -> None:
    with disk("ext4", tmp_path) as (_, device, where), pair([device]) as both:
        both.create("--freeze-budget", "60s", "--free-space", "skip")
        first_pass(both)
        both.checkpoint()
        both.source.stop()
        for path in (both.directory / "sr").glob("*.map"):
            path.unlink()
        fill(where / "meanwhile", DELETED)
        both.source.start()
        assert recovered(both, "compare")["bytes_read"] < KEPT + DELETED + 250 * MIB
        both.checkpoint("--hold")
        same_files(both.intermediate(), "ext4", where)


def test_much_of_it_is_left_out_by_itself(tmp_path: Path) -> None:
    with disk("xfs", tmp_path) as (_, device, where), pair([device]) as both:
        both.create()
        assert first_pass(both)["left_out_bytes"] > SIZE - KEPT - 250 * MIB
        until(
            lambda: (
                both.metrics("source").get("replicad_left_out_bytes", 0) > SIZE - KEPT - 250 * MIB
            ),
            what="the metric",
        )
        both.checkpoint("--hold")
        same_files(both.intermediate(), "xfs", where)


@pytest.mark.parametrize("policy", ["copy", "auto"])
def test_a_disk_is_copied_whole_where_that_is_wanted_or_cheap(policy: str, tmp_path: Path) -> None:
    image, size = tmp_path / "disk.img", SIZE if policy == "copy" else 400 * MIB
    with (
        loop_device(image, size) as device,
        mounted(device, tmp_path / "mnt", "ext4") as where,
        pair([device]) as both,
    ):
        fill(where / "deleted", 200 * MIB)
        (where / "deleted").unlink()
        run("sync", "-f", where)
        both.create("--freeze-budget", "60s", "--free-space", policy)
        assert first_pass(both)["left_out_bytes"] == 0
        reference = both.directory / "reference.img"
        both.keep_reference(image, reference)
        both.checkpoint("--hold")
        assert same_content(both.intermediate(), reference)


def test_what_another_disk_held_is_not_left_in_a_copy(tmp_path: Path) -> None:
    """A target device that holds something: free space is made equal, not left out."""
    target = tmp_path / "target.img"
    with (
        disk("ext4", tmp_path) as (image, device, _),
        loop_device(target, SIZE) as block,
        pair([device]) as both,
    ):
        fill(Path(block), 600 * MIB)
        chosen = ("--disk", device, "--target", f"device:{block}")
        both.create("--freeze-budget", "60s", "--free-space", "skip", *chosen)
        assert first_pass(both)["left_out_bytes"] == 0
        reference = both.directory / "reference.img"
        both.keep_reference(image, reference)
        both.checkpoint("--hold")
        assert same_content(target, reference)


def test_what_a_device_held_behind_the_copy_is_not_left_in_a_larger_copy(tmp_path: Path) -> None:
    """The source's disk and its filesystem have grown into a part of the target that was never
    part of the copy."""
    image, target, larger = tmp_path / "disk.img", tmp_path / "target.img", 600 * MIB
    with (
        loop_device(image, 300 * MIB) as device,
        loop_device(target, larger) as block,
        mounted(device, tmp_path / "mnt", "xfs") as where,
        pair([device]) as both,
    ):
        with Path(block).open("r+b") as other:
            other.seek(300 * MIB)
            other.write(b"secret" * (50 * MIB))
        chosen = ("--disk", device, "--target", f"device:{block}")
        both.create("--freeze-budget", "60s", "--free-space", "skip", *chosen)
        first_pass(both)
        both.checkpoint()
        both.source.stop()
        os.truncate(image, larger)
        run("losetup", "--set-capacity", device)
        run("xfs_growfs", where)
        fill(where / "file", MIB)
        both.source.start()
        recovered(both, "compare")
        both.checkpoint("--hold")
        same_files(target, "xfs", where)
        run("sync", target)
        with target.open("rb") as copy:
            copy.seek(300 * MIB)
            assert all(b"secretsecret" not in copy.read(MIB) for _ in range(300))


def swapped_out(size: int) -> mmap.mmap:
    """Memory that the kernel has been told to swap out."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, size, MIB):
        memory[at : at + MIB] = os.urandom(MIB)
    memory.madvise(21)  # MADV_PAGEOUT, madvise(2)
    ctypes.CDLL(None).sync()
    return memory


def used_swap(device: str) -> int:
    """KiB of a swap area in use."""
    for line in Path("/proc/swaps").read_text().splitlines()[1:]:
        words = line.split()
        if words[0] == device:
            return int(words[3])
    return 0


@contextlib.contextmanager
def swapping(part: str) -> Iterator[None]:
    """Swapping to a partition that is a swap area."""
    run("swapon", part)
    try:
        yield
    finally:
        run("swapoff", part)


def test_of_swap_only_the_header_travels(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with partitioned(image, 320 * MIB) as (device, part), pair([device]) as both:
        run("mkswap", part)
        with swapping(part), contextlib.closing(swapped_out(100 * MIB)):
            assert used_swap(part) > 50 * 1024, "nothing was swapped out"
            both.create()
            assert first_pass(both)["left_out_bytes"] > 310 * MIB
            both.checkpoint("--hold")
            assert both.show()["logical_bytes"] < 3 * MIB
        with both.intermediate().open("rb") as copy, image.open("rb") as original:
            assert copy.read(MIB + 4096) == original.read(MIB + 4096)


def test_what_is_swapped_out_later_is_not_sent_and_what_comes_after_it_is(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with partitioned(image, 320 * MIB) as (device, part), pair([device]) as both:
        run("mkswap", part)
        both.create()
        assert first_pass(both)["left_out_bytes"] == 0
        sent = both.show()["logical_bytes"]
        with swapping(part), contextlib.closing(swapped_out(100 * MIB)):
            assert used_swap(part) > 50 * 1024, "nothing was swapped out"
            until(lambda: both.show()["disks"][0]["left_out_bytes"] > 50 * MIB, what="its notice")
            both.checkpoint()
            assert both.show()["logical_bytes"] < sent + MIB
            # What the copy has there is another content, and nobody's damage.
            clean = both.receiver.run("job", "verify", both.job, "--wait")
            assert clean["differing_bytes"] == 0

        # No longer swap: what is written to it now is of use.
        with mounted(part, tmp_path / "mnt", "ext4") as where:
            fill(where / "file", 200 * MIB)
            both.checkpoint("--hold")
            same_files(both.intermediate(), "ext4", where, offset=MIB)
