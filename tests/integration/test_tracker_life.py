"""Pins, tokens, adoption: what must survive a process and what must not."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from replicad.tracker import (
    CannotTrack,
    EbpfTracker,
    TrackerUnavailable,
    collect_garbage,
    layout,
    libbpf,
    pin_directory,
)
from replicad.tracker import disk as block
from tests.replicad.tracker.devices import (
    MIB,
    Direct,
    drained,
    loop_device,
    run,
    touched,
    tracker_at,
    zram_device,
)

pytestmark = pytest.mark.root


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    with loop_device(tmp_path / "image", 64 * MIB) as path:
        yield path


def write(device: str, offset: int, length: int) -> None:
    direct = Direct(device, length)
    direct.write(offset, os.urandom(length))
    direct.close()


def test_tracking_goes_on_while_no_process_runs(tmp_path: Path, device: str) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir()
    first = EbpfTracker.open(pin_directory(runtime), runtime)
    disk = first.track(device)
    assert not first.adopted
    write(device, 0, 4096)
    first.close()
    write(device, 40960, 8192)
    with tracker_at(runtime) as second:
        assert second.adopted
        assert second.tracked() == [disk]
        assert second.track(device) == disk
        write(device, 409600, 4096)
        expected = touched(disk.size, disk.granule, [(0, 4096), (40960, 8192), (409600, 4096)])
        assert (drained(second, disk) == expected).all()


def test_untrack_and_destroy_leave_nothing(tmp_path: Path, device: str) -> None:
    runtime = tmp_path / "run"
    directory = pin_directory(runtime)
    with tracker_at(runtime) as tracker:
        disk = tracker.track(device)
        maps = [one.fd for one in tracker._table.bitmaps(0)]
        assert directory.is_dir()
        tracker.untrack(disk)
        assert tracker.tracked() == []
        for fd in maps:
            with pytest.raises(OSError):
                os.fstat(fd)
        number = ctypes.c_uint32()
        for key in range(2 * layout.MAX_SLOTS - 2):
            bitmaps = tracker._attached.maps["bitmaps"]
            assert not tracker._library.lookup(bitmaps, ctypes.c_uint32(key), number)
        with pytest.raises(CannotTrack, match="no longer tracked"):
            tracker.drain([disk], lambda *_: None)
        tracker.untrack(disk)  # twice is not an error
        assert tracker.track(device).token != disk.token
    assert not directory.exists()


def another_file_behind(device: str, image: Path) -> bool:
    """Give a loop device's number, which is free, to an image; False when somebody else, a test
    beside us, has taken it."""
    image.write_bytes(bytes(64 * MIB))
    try:
        run("losetup", device, str(image))
    except AssertionError as error:
        if "busy" not in str(error):
            raise
        return False
    return True


def test_another_file_behind_a_loop_device_is_another_disk(tmp_path: Path) -> None:
    with tracker_at(tmp_path / "run") as tracker:
        for _ in range(20):
            with loop_device(tmp_path / "one", 64 * MIB) as device:
                disk = tracker.track(device)
            if another_file_behind(device, tmp_path / "two"):
                break
            tracker.untrack(disk)
        else:
            pytest.fail("no number of a loop device stays free for a moment")
        # the same number, the same size: only diskseq differs
        try:
            seen: list[int] = []
            gap = tracker.drain([disk], lambda _d, first, _w: seen.append(first))
            assert gap[disk.path].misses > 0
            again = tracker.track(device)
            assert again.token != disk.token
            assert again.size == disk.size
        finally:
            run("losetup", "--detach", device)


def test_a_resized_disk_gets_a_new_token(tmp_path: Path, device: str) -> None:
    with tracker_at(tmp_path / "run") as tracker:
        disk = tracker.track(device)
        os.truncate(tmp_path / "image", 96 * MIB)
        run("losetup", "--set-capacity", device)
        write(device, 80 * MIB, 4096)
        assert tracker.drain([disk], lambda *_: None)[disk.path].misses > 0
        grown = tracker.track(device)
        assert (grown.size, grown.token == disk.token) == (96 * MIB, False)
        write(device, 80 * MIB, 4096)
        assert (drained(tracker, grown) == touched(96 * MIB, 4096, [(80 * MIB, 4096)])).all()


def test_a_resized_disk_that_nobody_has_drained_gets_a_new_token(
    tmp_path: Path, device: str
) -> None:
    """A daemon that starts after the resize tracks before it drains."""
    with tracker_at(tmp_path / "run") as tracker:
        disk = tracker.track(device)
        os.truncate(tmp_path / "image", 96 * MIB)
        run("losetup", "--set-capacity", device)
        grown = tracker.track(device)
        assert (grown.size, grown.token == disk.token) == (96 * MIB, False)


def test_an_unchanged_disk_keeps_its_token_and_bits(tmp_path: Path, device: str) -> None:
    with tracker_at(tmp_path / "run") as tracker:
        disk = tracker.track(device)
        write(device, 4096, 4096)
        assert tracker.track(device) == disk
        assert drained(tracker, disk).nonzero()[0].tolist() == [1]


def test_two_processes_cannot_drain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicad.tracker.pins.lock.__defaults__", (0.05,))
    runtime = tmp_path / "run"
    with tracker_at(runtime), pytest.raises(TrackerUnavailable, match="another process"):
        EbpfTracker.open(pin_directory(runtime), runtime)


def test_pins_of_another_layout_are_replaced(tmp_path: Path, device: str) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir()
    first = EbpfTracker.open(pin_directory(runtime), runtime)
    disk = first.track(device)
    meta = layout.Meta()
    key = ctypes.c_uint32(0)
    first._library.lookup(first._attached.maps["meta"], key, meta)
    meta.layout += 1
    first._library.update(first._attached.maps["meta"], key, meta)
    first.close()
    with tracker_at(runtime) as second:
        assert not second.adopted
        assert second.tracked() == []
        assert second.track(device).token != disk.token


@pytest.mark.parametrize("missing", ["meta", "link_rq_complete_0", "state"])
def test_incomplete_pins_are_replaced(tmp_path: Path, missing: str) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir()
    EbpfTracker.open(pin_directory(runtime), runtime).close()
    (pin_directory(runtime) / missing).unlink()
    with tracker_at(runtime) as second:
        assert not second.adopted


def test_pins_that_cannot_be_opened_leave_nothing_open(tmp_path: Path) -> None:
    """Neither those that could be opened before it: what is open stays in the kernel."""
    runtime = tmp_path / "run"
    runtime.mkdir()
    pins = pin_directory(runtime)
    EbpfTracker.open(pins, runtime).close()
    program = pins / "prog_rq_complete_0"
    kept = pins / "kept"
    program.rename(kept)
    program.mkdir()  # a name of which nothing can be got
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(TrackerUnavailable, match=program.name):
        EbpfTracker.open(pins, runtime)
    assert set(os.listdir("/proc/self/fd")) == before
    program.rmdir()
    kept.rename(program)
    with tracker_at(runtime) as second:
        assert second.adopted


def links(runtime: Path) -> set[str]:
    return {pin.name.removeprefix("link_") for pin in pin_directory(runtime).glob("link_*")}


FIRST = {"rq_complete_0", "rq_complete_0_2"}
BIO = {"bio_queue_0", "bio_queue_0_2", "bio_complete_1", "bio_complete_1_2"}


def test_what_only_bio_based_disks_need_is_attached_with_the_first(
    tmp_path: Path, device: str
) -> None:
    """And stays; a start that finds it, or a part of it that a kill left, goes on from there."""
    runtime = tmp_path / "run"
    with zram_device(16 * MIB) as one, zram_device(16 * MIB) as other:
        with tracker_at(runtime) as tracker:
            tracker.track(device)
            assert links(runtime) == FIRST
            token = tracker.track(one).token
            assert links(runtime) == FIRST | BIO
            tracker.track(other)
            tracker.close()
            heir = EbpfTracker.open(pin_directory(runtime), runtime)
            tracker.__dict__.update(heir.__dict__)  # the fixture destroys what is current
            assert heir.adopted
            assert heir.track(one).token == token
            assert links(runtime) == FIRST | BIO
        with tracker_at(runtime) as tracker:
            token = tracker.track(device).token
            tracker._attached.for_bio_based_disks(tracker._library)
            tracker.close()
            for name in ("bio_complete_1", "bio_complete_1_2"):
                (pin_directory(runtime) / f"link_{name}").unlink()
            heir = EbpfTracker.open(pin_directory(runtime), runtime)
            tracker.__dict__.update(heir.__dict__)
            assert heir.adopted
            assert heir.track(device).token == token
            disk = heir.track(one)
            assert links(runtime) == FIRST | BIO
            write(one, 4096, 4096)
            assert drained(heir, disk).nonzero()[0].tolist() == [1]


@pytest.mark.parametrize("missing", sorted(BIO))
def test_a_bio_based_disk_without_its_programs_begins_anew(tmp_path: Path, missing: str) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir()
    with zram_device(16 * MIB) as device:
        first = EbpfTracker.open(pin_directory(runtime), runtime)
        token = first.track(device).token
        first.close()
        (pin_directory(runtime) / f"link_{missing}").unlink()
        with tracker_at(runtime) as second:
            assert not second.adopted
            assert second.track(device).token != token


def test_misses_count_where_they_matter(tmp_path: Path, device: str) -> None:
    """A request-based disk is marked when a request lands; all else is for bio-based disks."""
    with zram_device(16 * MIB) as zram, tracker_at(tmp_path / "run") as tracker:
        disks = [tracker.track(device), tracker.track(zram)]
        programs, skipped = tracker._attached.programs, {0: 0, 1: 0, 2: 0}

        class Library(libbpf.Libbpf):
            def recursion_misses(self, fd: int) -> int:
                return skipped[programs.index(fd)]

        def misses() -> list[int]:
            drain = tracker.drain(disks, lambda *_: None)
            assert [tracker.misses(disk) for disk in disks] == [d.misses for d in drain.values()]
            return [tracker.misses(disk) for disk in disks]

        tracker._library = Library()
        before = misses()
        skipped[layout.HOOK_QUEUE] += 1
        skipped[layout.HOOK_BIO] += 1
        tracker._table.state.long_requests += 1
        tracker._table.state.insert_failures += 1
        assert misses() == [before[0], before[1] + 4]
        skipped[layout.HOOK_REQUEST] += 1
        assert misses() == [before[0] + 1, before[1] + 5]


def test_a_disk_of_another_kind_is_another_disk(
    tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else is the same: it is marked by other programs."""
    with tracker_at(tmp_path / "run") as tracker:
        token = tracker.track(device).token
        assert tracker.track(device).token == token
        found = block.inspect(device)
        monkeypatch.setattr(block, "inspect", lambda _: replace(found, bio_based=True))
        other = tracker.track(device).token
        assert other != token
        assert tracker.track(device).token == other
        assert links(tmp_path / "run") == FIRST | BIO


def test_a_write_of_a_former_owner_is_not_this_disks(tmp_path: Path) -> None:
    """A kill can leave what was remembered of a write in flight: the next start throws it away."""
    with zram_device(16 * MIB) as zram, tracker_at(tmp_path / "run") as tracker:
        tracker.track(zram)
        table, key = tracker._attached.maps["in_flight"], ctypes.c_uint64(0xFFFF888000001000)
        former = layout.Write(ref=layout.reference(77, True, 0), sector=8, bytes=4096)
        tracker._library.update(table, key, former)
        tracker._table.repair()
        assert not tracker._library.lookup(table, key, layout.Write())
        for disk in tracker.tracked():
            own = layout.Write(ref=layout.reference(tracker._table.slots[0].generation, True, 0))
            tracker._library.update(table, key, own)
            tracker._table.repair()
            assert tracker._library.lookup(table, key, layout.Write())
            tracker.untrack(disk)
            assert not tracker._library.lookup(table, key, layout.Write())


def test_garbage_of_removed_daemons_is_collected(tmp_path: Path) -> None:
    gone, alive = tmp_path / "gone", tmp_path / "alive"
    for runtime in (gone, alive):
        runtime.mkdir()
        EbpfTracker.open(pin_directory(runtime), runtime).close()
    shutil.rmtree(gone)
    try:
        assert pin_directory(gone) in collect_garbage()
        assert not pin_directory(gone).exists()
        assert pin_directory(alive).exists()
    finally:
        EbpfTracker.open(pin_directory(alive), alive).destroy()


def test_a_slot_that_was_being_taken_at_a_kill_is_freed(tmp_path: Path, device: str) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir()
    first = EbpfTracker.open(pin_directory(runtime), runtime)
    disk = first.track(device)
    key = ctypes.c_uint32(disk.major << 20 | disk.minor)
    first._library.delete(first._attached.maps["index_of"], key)
    first.close()
    with tracker_at(runtime) as second:
        assert second.tracked() == []
        write(device, 0, 4096)
        assert not drained(second, second.track(device)).any()


def test_more_than_64_disks(tmp_path: Path) -> None:
    """Slots are taken until they run out, given back, and taken again."""
    with tracker_at(tmp_path / "run") as tracker, loop_device(tmp_path / "image", MIB) as device:
        table = tracker._table
        real = block.inspect(device)
        for number in range(layout.MAX_SLOTS - 1):
            table.take(block.BlockDevice("x", 999, number, MIB, 1, bio_based=False), 0)
        with pytest.raises(CannotTrack, match="127 disks"):
            table.take(real, 0)
        table.give_back(70)
        assert table.take(real, 0) == 70


def test_what_is_no_whole_disk_is_refused(tmp_path: Path) -> None:
    with tracker_at(tmp_path / "run") as tracker:
        with pytest.raises(CannotTrack, match="not a block device"):
            tracker.track(str(tmp_path))
        with pytest.raises(CannotTrack, match="No such file"):
            tracker.track("/dev/no-such-disk")


def test_the_verifier_speaks_through_the_exception(tmp_path: Path) -> None:
    library = libbpf.Libbpf()
    broken = tmp_path / "broken.o"
    broken.write_bytes(b"\x7fELF nonsense")
    with pytest.raises(libbpf.LibbpfError) as raised:
        library.load(broken, [], [], 1)
    assert "libbpf" in raised.value.log


def test_bio_based_is_recognised(tmp_path: Path) -> None:
    with zram_device(16 * MIB) as device, tracker_at(tmp_path / "run") as tracker:
        disk = tracker.track(device)
        assert tracker._table.state.stacked == 1
        tracker.untrack(disk)
        assert tracker._table.state.stacked == 0
