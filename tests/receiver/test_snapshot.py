"""Preserved checkpoints on filesystems that can reflink and on one that cannot."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Fault
from receiver import snapshot
from receiver.disk import RawDisk
from receiver.snapshot import epochs_to_drop
from tests.support import loops
from tests.support.loops import MIB

SIZE = 8 * MIB


@pytest.fixture(params=["xfs", "btrfs"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with loops.filesystem(request.param, tmp_path) as where:
        yield where


@pytest.fixture
def disks(storage: Path) -> Iterator[list[RawDisk]]:
    """Two intermediate disks with content, closed before their filesystem goes."""
    with contextlib.ExitStack() as stack:
        made = []
        for number in range(2):
            disk = RawDisk.create(
                storage,
                "job1",
                number=number,
                source_path=f"/dev/vd{number}",
                size=SIZE,
                generation="g",
            )
            made.append(stack.enter_context(disk))
            disk.write(number * MIB, memoryview(random.Random(number).randbytes(4 * MIB)))
            disk.sync()
        yield made


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


@pytest.mark.root
def test_a_snapshot_stays_as_it_was_and_shares_its_blocks(
    storage: Path, disks: list[RawDisk]
) -> None:
    paths = [Path(disk.path) for disk in disks]
    before = {path.name: path.read_bytes() for path in paths}
    free = os.statvfs(storage).f_bavail
    kept = snapshot.preserve(storage, "job1", 1, paths)
    assert kept.path == storage / "snapshots" / "job1" / "1"
    assert (free - os.statvfs(storage).f_bavail) * os.statvfs(storage).f_frsize < 4 * MIB
    for disk in disks:
        disk.write(0, memoryview(b"later" * 1000))
        disk.zero(MIB, 2 * MIB)
        disk.sync()
    assert files_of(kept.path) == before
    assert {path.stat().st_mode & 0o777 for path in kept.path.iterdir()} == {0o400}
    assert snapshot.can_preserve(storage)
    snapshot.drop(storage, "job1", 1)
    snapshot.drop(storage, "job1", 1)
    assert list((storage / "snapshots" / "job1").iterdir()) == []


@pytest.mark.root
def test_a_crash_at_any_step_leaves_nothing_that_looks_whole(
    storage: Path, disks: list[RawDisk], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [Path(disk.path) for disk in disks]
    home = storage / "snapshots" / "job1"

    class Killed(BaseException):
        pass

    def preserve(steps: int) -> snapshot.Preserved | None:
        """Preserve, killed before the step after ``steps`` others; None when it was killed."""
        left = steps

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any, **named: Any) -> Any:
                nonlocal left
                if left == 0:
                    raise Killed
                left -= 1
                return real(*args, **named)

            return run

        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "ioctl", counted(fcntl.ioctl))
            patch.setattr(os, "fsync", counted(os.fsync))
            patch.setattr(Path, "rename", counted(Path.rename))
            try:
                return snapshot.preserve(storage, "job1", 7, paths)
            except Killed:
                return None

    steps = 0
    while (kept := preserve(steps)) is None:
        steps += 1
        if (home / "7").exists():
            assert len(files_of(home / "7")) == 2
        snapshot.sweep(storage, "job1", [])
        assert list(home.iterdir()) == []
    assert kept.path is not None
    assert steps >= 7
    # An uncommitted one of that epoch gives way to what the disks hold now.
    disks[0].write(0, memoryview(b"now"))
    disks[0].sync()
    again = snapshot.preserve(storage, "job1", 7, paths)
    assert again.path is not None
    assert (again.path / "0-vd0.raw").read_bytes()[:3] == b"now"


@pytest.mark.root
def test_sweeping_takes_only_leftovers(storage: Path, disks: list[RawDisk]) -> None:
    paths = [Path(disk.path) for disk in disks]
    for epoch in (1, 2, 3):
        snapshot.preserve(storage, "job1", epoch, paths)
    home = storage / "snapshots" / "job1"
    (home / "4.part").mkdir()
    (home / "0.drop").mkdir()
    (home / "notes").mkdir()
    assert snapshot.sweep(storage, "job1", [1, 3]) == ["0.drop", "2", "4.part"]
    assert sorted(path.name for path in home.iterdir()) == ["1", "3", "notes"]


@pytest.mark.root
def test_a_full_filesystem_is_said_and_nothing_is_left(
    storage: Path, disks: list[RawDisk], monkeypatch: pytest.MonkeyPatch
) -> None:

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fcntl, "ioctl", full)
    with pytest.raises(Fault, match="RPL-4107"):
        snapshot.preserve(storage, "job1", 1, [Path(disk.path) for disk in disks])
    assert list((storage / "snapshots" / "job1").iterdir()) == []


@pytest.mark.root
def test_what_cannot_be_preserved_is_said(tmp_path: Path) -> None:
    with loops.filesystem("ext4", tmp_path, 64 * MIB) as storage:
        (storage / "disk").write_bytes(bytes(4096))
        kept = snapshot.preserve(storage, "job1", 1, [storage / "disk"])
        assert kept.path is None
        assert "not preserved" in kept.sentence
        assert "cannot reflink" in kept.sentence
        assert list((storage / "snapshots" / "job1").iterdir()) == []
        assert not snapshot.can_preserve(storage)


@pytest.mark.root
def test_a_set_with_a_device_is_not_half_preserved(
    storage: Path, disks: list[RawDisk], tmp_path: Path
) -> None:
    with loops.loop_device(tmp_path / "device", MIB) as device:
        kept = snapshot.preserve(storage, "job1", 1, [Path(disks[0].path), Path(device)])
    assert kept.path is None
    assert device in kept.sentence


@pytest.mark.parametrize("job", ["", "..", "a/b", ".x"])
def test_a_job_id_cannot_lead_out(tmp_path: Path, job: str) -> None:
    with pytest.raises(ValueError, match="not a job id"):
        snapshot.drop(tmp_path, job, 1)


@given(st.sets(st.integers(1, 50)), st.integers(0, 12), st.sets(st.integers(1, 50)))
def test_retention(preserved: set[int], keep: int, held: set[int]) -> None:
    dropped = epochs_to_drop(preserved, keep, held)
    left = preserved - set(dropped)
    assert dropped == sorted(dropped)
    assert set(dropped) <= preserved - held
    if preserved:
        assert max(preserved) in left
    assert len(left - held) == min(max(keep, 1), len(preserved - held))
    assert all(old < new for old in dropped for new in left - held)
    assert epochs_to_drop(left, keep, held) == []


def test_retention_by_example() -> None:
    assert epochs_to_drop([1, 2, 3, 4, 5], 3) == [1, 2]
    assert epochs_to_drop([1, 2, 3, 4, 5], 3, held=[1]) == [2]
    assert epochs_to_drop([], 3) == []


def test_every_file_is_on_stable_storage_before_the_snapshot_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power may go as soon as the catalog says that it exists."""
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    def clone(to: int, _: int, descriptor: int) -> None:
        os.write(to, os.pread(descriptor, 100, 0))

    disk = tmp_path / "0-vda.raw"
    disk.write_bytes(b"content")
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(fcntl, "ioctl", clone)
    kept = snapshot.preserve(tmp_path, "job1", 3, [disk])
    home = tmp_path / snapshot.DIRECTORY / "job1"
    assert kept.path == home / "3"
    partial = synced.index(str(home / "3.part" / disk.name))
    assert partial < synced.index(str(home / "3.part")) < synced.index(str(home))
