"""More than one disk, a partitioned disk, a device as target: whose instant is it?"""

from __future__ import annotations

import contextlib
import os
import random
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.replicad.tracker.devices import Direct
from tests.support.loops import MIB, loop_device, mounted, partitioned, run
from tests.support.pair import CommandFailed, busy_writer, pair, same_content, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

COUNTER = struct.Struct("<Q")


@contextlib.contextmanager
def repeated(step: Callable[[], None]) -> Iterator[None]:
    """``step`` again and again in a thread, until the end."""
    stop = threading.Event()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.is_set():
                step()
        except BaseException as error:  # noqa: BLE001 - raised in the test's own thread below
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]


def counter_of(intermediate: Path, where: Path, options: str) -> int:
    """The counter in a copy, read as it stands: no journal is replayed."""
    device = run("losetup", "--find", "--show", "--read-only", intermediate)
    where.mkdir(exist_ok=True)
    try:
        run("mount", "-o", options, device, where)
        try:
            (value,) = COUNTER.unpack((where / "counter").read_bytes())
            return int(value)
        finally:
            run("umount", where)
    finally:
        run("losetup", "--detach", device)


def test_two_filesystems_are_frozen_at_one_instant(tmp_path: Path) -> None:
    """An application writes A, then B, each durably: A is never behind, or more than one ahead."""
    with (
        loop_device(tmp_path / "a.img", 128 * MIB) as a,
        loop_device(tmp_path / "b.img", 304 * MIB) as b,
        mounted(a, tmp_path / "a", "ext4") as on_a,
        mounted(b, tmp_path / "b", "xfs") as on_b,
        contextlib.ExitStack() as files,
        pair([a, b]) as both,
    ):
        counters = []
        for place in (on_a, on_b):
            (place / "counter").write_bytes(COUNTER.pack(0))
            (place / "ballast").write_bytes(os.urandom(8 * MIB))
            counters.append(files.enter_context((place / "counter").open("r+b", buffering=0)))
        value = 0

        def step() -> None:
            nonlocal value
            value += 1
            for file in counters:
                os.pwrite(file.fileno(), COUNTER.pack(value), 0)
                os.fsync(file.fileno())

        with repeated(step):
            both.create("--freeze-budget", "10s")
            both.synced()
            last = 0
            for _ in range(5):
                assert both.checkpoint("--hold")["consistency"] == "filesystem"
                ahead = counter_of(both.intermediate(0), tmp_path / "copy", "ro,noload")
                behind = counter_of(both.intermediate(1), tmp_path / "copy", "ro,norecovery,nouuid")
                assert ahead - behind in {0, 1}
                assert ahead > last, "the application stood still, so this proved nothing"
                last = ahead
                both.resume()


def test_a_partitioned_disk_is_frozen_and_identical(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with (
        partitioned(image, 160 * MIB) as (device, partition),
        mounted(partition, tmp_path / "mnt", "ext4") as where,
        pair([device]) as both,
    ):
        reference = both.directory / "reference.img"
        both.keep_reference(image, reference)
        both.create("--freeze-budget", "10s")
        with busy_writer(where):
            both.synced()
            for _ in range(2):
                assert both.checkpoint("--hold")["consistency"] == "filesystem"
                assert same_content(both.intermediate(), reference)
                both.resume()


def test_an_unmounted_disk_to_a_device(tmp_path: Path) -> None:
    """Nothing to freeze: right when nobody writes, refused by name while somebody does."""
    chosen = random.Random(7)
    size = 128 * MIB
    image = tmp_path / "disk.img"
    with (
        loop_device(image, size) as device,
        loop_device(tmp_path / "target.img", size + MIB) as target,
        pair([device]) as both,
    ):
        direct = Direct(device, MIB)
        for at in range(0, size // 2, MIB):
            direct.write(at, chosen.randbytes(MIB))
        direct.close()
        both.create("--disk", device, "--target", f"device:{target}")
        both.synced()
        assert both.intermediate() == Path(target)
        taken = both.checkpoint("--hold")
        assert (taken["consistency"], taken["frozen_seconds"]) == ("crash", 0)
        run("cmp", "-n", str(size), image, target)
        both.resume()

        writer = Direct(device, MIB)

        def step() -> None:
            writer.write(chosen.randrange(size // 4096) * 4096, chosen.randbytes(4096))

        with repeated(step):
            with pytest.raises(CommandFailed) as refused:
                both.checkpoint()
            assert (refused.value.code, refused.value.error["error"]["code"]) == (3, "RPL-6001")
            assert both.show()["error"]["code"] == "RPL-6001"
        writer.close()
        until(lambda: both.show()["state"] == "syncing", what="going on after the refusal")
        assert both.checkpoint("--hold")["epoch"] == 2
        assert both.show()["error"] is None
        run("cmp", "-n", str(size), image, target)
