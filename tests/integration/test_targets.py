"""Block device targets and full filesystems, real ones: what must be refused, and why."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.errors import Fault
from receiver.catalog import TargetIdentity
from receiver.disk import BlockDisk, RawDisk
from receiver.disk.device import Machine
from tests.support import loops
from tests.support.loops import MIB

pytestmark = pytest.mark.root

SIZE = 32 * MIB


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    with loops.loop_device(tmp_path / "target", SIZE) as path:
        yield path


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    (tmp_path / "storage").mkdir()
    return tmp_path / "storage"


def take(
    path: str | Path,
    storage: Path,
    *,
    size: int = SIZE,
    others: list[tuple[str, str]] | None = None,
    identity: TargetIdentity | None = None,
    source_path: str = "",
) -> BlockDisk:
    return BlockDisk.open(
        str(path),
        size,
        job="job1",
        others=others or [],
        storage=storage,
        identity=identity,
        source_path=source_path,
    )


def digest(path: str | Path) -> str:
    """Of all its content: two of them fit into the message of a test that fails."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refused(path: str | Path, code: str, storage: Path, **more: object) -> str:
    """That it is refused with this code, and not one byte of it changes."""
    before = digest(path) if Path(path).is_block_device() else ""
    with pytest.raises(Fault) as caught:
        take(path, storage, **more)  # type: ignore[arg-type]
    assert caught.value.code == code
    assert not before or digest(path) == before
    return caught.value.sentence


def test_a_free_device_is_written_and_zeroed(device: str, storage: Path) -> None:
    noise = random.Random(1).randbytes(SIZE)
    Path(device).write_bytes(noise)
    with take(device, storage) as disk:
        assert not disk.known_zero
        disk.zero(MIB + 100, 4 * MIB)
        disk.write(2 * MIB, memoryview(b"new"))
        disk.sync()
    expected = bytearray(noise)
    expected[MIB + 100 : 5 * MIB + 100] = bytes(4 * MIB)
    expected[2 * MIB : 2 * MIB + 3] = b"new"
    assert Path(device).read_bytes() == expected


def test_zeroing_a_device_reaches_what_is_below_it(tmp_path: Path, storage: Path) -> None:
    with loops.loop_device(tmp_path / "image", SIZE) as device:
        Path(device).write_bytes(b"x" * SIZE)
        with take(device, storage) as disk:
            disk.zero(0, SIZE)
            disk.sync()
        assert (tmp_path / "image").stat().st_blocks * 512 < MIB


def test_a_mounted_device(device: str, storage: Path, tmp_path: Path) -> None:
    with loops.mounted(device, tmp_path / "mnt", "ext4"):
        assert str(tmp_path / "mnt") in refused(device, "RPL-4102", storage)
    take(device, storage).close()


def test_a_device_mounted_under_a_number_of_btrfs(storage: Path, tmp_path: Path) -> None:
    size = loops.SMALLEST["btrfs"]
    with loops.loop_device(tmp_path / "b", size) as device:
        # Read-only: btrfs commits by itself every now and then, and bytes are compared.
        with loops.mounted(device, tmp_path / "m n t", "btrfs", "ro"):
            assert "m n t" in refused(device, "RPL-4102", storage, size=size)


def test_a_disk_with_a_mounted_partition_and_the_partition(storage: Path, tmp_path: Path) -> None:
    with loops.partitioned(tmp_path / "p", SIZE) as (whole, part):
        with loops.mounted(part, tmp_path / "mnt", "ext4"):
            refused(whole, "RPL-4102", storage)
            refused(part, "RPL-4102", storage, size=MIB)
        take(part, storage, size=SIZE - MIB).close()
        take(whole, storage).close()


def test_a_partition_of_a_disk_that_is_held(storage: Path, tmp_path: Path) -> None:
    with loops.partitioned(tmp_path / "p", SIZE) as (whole, part):
        with take(whole, storage):
            assert "holds it" in refused(part, "RPL-4103", storage, size=MIB)
        with take(part, storage, size=MIB):
            assert "holds it" in refused(whole, "RPL-4103", storage)


def test_swap_space(device: str, storage: Path) -> None:
    loops.run("mkswap", device)
    loops.run("swapon", device)
    try:
        assert "swap" in refused(device, "RPL-4103", storage)
    finally:
        loops.run("swapoff", device)


def test_a_device_that_backs_a_loop_device(device: str, storage: Path) -> None:
    upper = loops.run("losetup", "--find", "--show", device)
    try:
        assert Path(upper).name in refused(device, "RPL-4103", storage)
    finally:
        loops.run("losetup", "--detach", upper)


def test_a_device_that_another_process_holds(device: str, storage: Path) -> None:
    holder = os.open(device, os.O_RDONLY | os.O_EXCL)
    try:
        refused(device, "RPL-4103", storage)
    finally:
        os.close(holder)


def test_a_device_of_another_job_under_any_name(device: str, storage: Path, tmp_path: Path) -> None:
    alias = tmp_path / "alias"
    alias.symlink_to(device)
    node = tmp_path / "node"
    os.mknod(node, 0o600 | 0o060000, os.stat(device).st_rdev)
    for name in (device, alias, node):
        sentence = refused(name, "RPL-4104", storage, others=[("job2", device)])
        assert "job2" in sentence
    take(alias, storage, others=[("job1", device)]).close()
    take(node, storage).close()


def test_a_partition_of_another_jobs_disk(storage: Path, tmp_path: Path) -> None:
    with loops.partitioned(tmp_path / "p", SIZE) as (whole, part):
        refused(part, "RPL-4104", storage, size=MIB, others=[("job2", whole)])
        refused(whole, "RPL-4104", storage, others=[("job2", part)])


def test_too_small_read_only_missing_and_no_device(
    device: str, storage: Path, tmp_path: Path
) -> None:
    refused(device, "RPL-4101", storage, size=SIZE + 1)
    refused("/dev/no-such-device", "RPL-4105", storage)
    (tmp_path / "file").write_bytes(bytes(4096))
    assert "not a block device" in refused(tmp_path / "file", "RPL-4105", storage)
    refused("/dev/null", "RPL-4105", storage)
    # The flag outlives the loop device: the next user of /dev/loopN would inherit it.
    loops.run("blockdev", "--setro", device)
    try:
        assert "read-only" in refused(device, "RPL-4105", storage)
    finally:
        loops.run("blockdev", "--setrw", device)


def test_the_receivers_own_storage(tmp_path: Path) -> None:
    for kind in ("ext4", "btrfs"):
        size = loops.SMALLEST[kind]
        with (
            loops.loop_device(tmp_path / f"s{kind}", size) as device,
            loops.mounted(device, tmp_path / kind, kind) as storage,
        ):
            # The mount hides the reason from the tests' first look, so ask for it by name.
            assert Machine().device_of_directory(storage) == Machine().number_of(device)
            assert "own storage" in refused(device, "RPL-4103", storage, size=MIB)


def test_the_disk_that_is_to_be_copied(device: str, storage: Path, tmp_path: Path) -> None:
    alias = tmp_path / "alias"
    alias.symlink_to(device)
    assert "to be copied" in refused(device, "RPL-4103", storage, source_path=str(alias))


def test_another_device_under_the_same_path(storage: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    with (
        loops.loop_device(tmp_path / "one", SIZE) as one,
        loops.loop_device(tmp_path / "two", SIZE) as two,
        loops.loop_device(tmp_path / "larger", 2 * SIZE) as larger,
    ):
        link.symlink_to(one)
        with take(link, storage) as disk:
            identity = disk.identity()
        take(link, storage, identity=identity).close()
        for other in (two, larger):
            link.unlink()
            link.symlink_to(other)
            refused(link, "RPL-4106", storage, identity=identity)


def test_a_link_that_is_turned_between_check_and_open(
    device: str, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "link"
    link.symlink_to(device)
    with loops.loop_device(tmp_path / "other", SIZE) as other:
        real = Path.resolve

        def turned(self: Path, strict: bool = False) -> Path:
            return real(Path(other) if self == link else self, strict)

        monkeypatch.setattr(Path, "resolve", turned)
        assert "elsewhere" in refused(link, "RPL-4106", storage)


def test_a_real_failed_sync_is_final_and_its_cache_is_not_believed(
    tmp_path: Path, storage: Path
) -> None:
    """A loop device whose file cannot grow: the kernel takes the write and loses it later."""
    with (
        loops.filesystem("ext4", tmp_path) as small,
        loops.loop_device(small / "image", 4 * SIZE) as device,
    ):
        noise = memoryview(random.Random(3).randbytes(MIB))
        with take(device, storage) as disk:
            for offset in range(0, SIZE, MIB):
                disk.write(offset, noise)
            with pytest.raises(Fault, match="RPL-4108"):
                disk.sync()
            with pytest.raises(Fault, match="RPL-4108"):
                disk.sync()
        seen = bytearray(SIZE)
        with take(device, storage) as disk:
            disk.read([(0, len(seen))], memoryview(seen))
        stored = (small / "image").read_bytes()[:SIZE]
        lost = sum(stored[at : at + MIB] != noise for at in range(0, SIZE, MIB))
        assert lost > 0
        assert seen == stored


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_full_filesystem_is_a_fault_by_name_and_can_go_on(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.disk.raw.FREE_BYTES_MIN", 0)
    size = loops.SMALLEST[kind]
    piece = memoryview(random.Random(2).randbytes(MIB))
    with (
        loops.filesystem(kind, tmp_path) as storage,
        RawDisk.create(
            storage, "job1", number=0, source_path="/dev/vda", size=2 * size, generation="g"
        ) as disk,
    ):

        def fill() -> None:
            for offset in range(0, 2 * size, MIB):
                disk.write(offset, piece)
                disk.sync()

        with pytest.raises(Fault, match="RPL-4107"):
            fill()
        if disk.poisoned is None:
            disk.zero(0, 8 * MIB)
            disk.sync()
            disk.write(0, piece)
            disk.sync()
