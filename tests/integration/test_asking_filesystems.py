"""What filesystems say of their free space is relied on only where it cannot be undone, and where
it is not about to be denied."""

from __future__ import annotations

import fcntl
import os
import struct
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from replicad import unused
from replicad.freeze.blockgraph import number
from replicad.freeze.mounts import mounts_to_freeze
from replicad.lesser import CAP_SYS_ADMIN, without
from replicad.unused import FreeSpace, Range, free_space
from tests.support.loops import MIB, loop_device, mounted, run

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

SIZE = 400 * MIB


def asked(device: str) -> AbstractContextManager[FreeSpace]:
    return free_space(number(os.stat(device).st_rdev), mounts_to_freeze([device]))


def relied_on(device: str) -> list[Range]:
    with asked(device) as free:
        free.rely()
        return list(free)


def effective() -> int:
    words = dict(
        line.split(":") for line in Path("/proc/thread-self/status").read_text().splitlines()
    )
    return int(words["CapEff"], 16)


def test_a_capability_is_given_up_and_taken_back() -> None:
    before = effective()
    with without(CAP_SYS_ADMIN):
        assert effective() == before & ~(1 << CAP_SYS_ADMIN)
    assert effective() == before


def test_an_xfs_answers_from_its_free_space_also_with_a_reverse_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reverse map says "free" of a block that was copied on write and is changing its owner:
    it was written before, and would not be sent."""
    answers: list[bytes] = []
    real = unused.answered

    def seen(answer: bytearray, *rest: Any, **more: Any) -> Any:
        answers.append(bytes(answer))
        return real(answer, *rest, **more)

    monkeypatch.setattr(unused, "answered", seen)
    with loop_device(tmp_path / "disk.img", SIZE) as device:
        run("mkfs.xfs", "-q", "-f", "-m", "rmapbt=1,reflink=1", device)
        with mounted(device, tmp_path / "mnt") as where:
            (where / "file").write_bytes(os.urandom(20 * MIB))
            free = relied_on(device)
            assert sum(length for _, length in free) > SIZE // 2
    owners = {
        owner
        for answer in answers
        for _, _, _, owner, _, _ in struct.iter_unpack(
            "=2I4Q24x", answer[192 : 192 + 64 * struct.unpack_from("=4I", answer)[3]]
        )
    }
    assert owners == {unused.FMR_OWN_FREE, unused.FMR_OWN_UNKNOWN}


def places(path: Path) -> list[Range]:
    """Where the first extents of a file lie (FIEMAP)."""
    answer = bytearray(struct.pack("=QQ4I", 0, 1 << 62, 1, 0, 32, 0)) + bytearray(56 * 32)
    with path.open("rb") as file:
        fcntl.ioctl(file, 0xC020660B, answer)
    count = struct.unpack_from("=I", answer, 20)[0]
    extents = (struct.unpack_from("=3Q", answer, 32 + 56 * at) for at in range(count))
    return [(physical, length) for _, physical, length in extents]


def is_named(free: FreeSpace, places: list[Range]) -> bool:
    """Whether all of these places are said to be unused."""
    return all(
        any(at <= place and place + length <= at + size for at, size in free)
        for place, length in places
    )


def test_what_is_free_stays_free_when_the_filesystem_dies(tmp_path: Path) -> None:
    """A file that was deleted, and is there again because nobody had noted it: its blocks must not
    have been called unused."""
    with loop_device(tmp_path / "disk.img", SIZE) as device:
        with mounted(device, tmp_path / "mnt", "xfs") as where:
            path = where / "file"
            path.write_bytes(os.urandom(40 * MIB))
            run("sync", "-f", where)
            was = places(path)
            path.unlink()
            named = False
            deadline = time.monotonic() + 10
            while not named and time.monotonic() < deadline:  # it is freed in the background
                with asked(device) as free:
                    if is_named(free, was):
                        free.rely()
                        named = is_named(free, was)
            assert named
            run("xfs_io", "-x", "-c", "shutdown", where)
        with mounted(device, tmp_path / "mnt") as where:
            assert not (where / "file").exists(), "a file without its content"


def test_a_filesystem_that_cannot_be_synced_has_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: int) -> None:
        raise OSError

    with loop_device(tmp_path / "disk.img", SIZE) as device:
        with mounted(device, tmp_path / "mnt", "ext4"):
            assert relied_on(device)
            monkeypatch.setattr(unused, "sync", fails)
            assert not relied_on(device)


def test_an_ext4_with_errors_has_nothing(tmp_path: Path) -> None:
    """Its bitmaps may be wrong, and e2fsck takes blocks into use without writing them."""
    with loop_device(tmp_path / "disk.img", SIZE) as device:
        with mounted(device, tmp_path / "mnt", "ext4"):
            assert relied_on(device)
            name = Path(device).name
            Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("of a test\n")
            assert not relied_on(device)
