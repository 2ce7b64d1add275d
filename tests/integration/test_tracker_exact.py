"""What is drained is what was written: the bytes before and after decide, on real devices."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from replicad.tracker import EbpfTracker, TrackedDisk, bitmap, layout, pin_directory
from replicad.tracker.window import words
from tests.replicad.tracker.devices import (
    BLKDISCARD,
    BLKZEROOUT,
    MIB,
    Direct,
    Seen,
    content,
    differing,
    drained,
    ioctl_range,
    loop_device,
    mounted,
    run,
    touched,
    tracker_at,
    zram_device,
)

pytestmark = pytest.mark.root
SIZE = 24 * MIB + 512 * 7  # the last granule is short


class Bench:
    """One tracked loop device filled with random bytes."""

    def __init__(self, tracker: EbpfTracker, device: str, image: Path) -> None:
        self.tracker, self.device, self.image = tracker, device, image
        self.random = random.Random(20)
        self.fill()
        self.disk: TrackedDisk = tracker.track(device)
        drained(tracker, self.disk)
        self.before = content(image)

    def fill(self) -> None:
        direct = Direct(self.device, SIZE)
        direct.write(0, self.random.randbytes(SIZE))
        direct.close()

    def assert_exact(self, ranges: list[tuple[int, int]]) -> None:
        marked = drained(self.tracker, self.disk)
        after = content(self.image)
        lost = differing(self.before, after, self.disk.granule) & ~marked
        assert not lost.any(), f"written, not marked: {lost.nonzero()[0]}"
        beyond = marked & ~touched(SIZE, self.disk.granule, ranges)
        assert not beyond.any(), f"marked, not written: {beyond.nonzero()[0]}"
        self.before = after

    def range(self) -> tuple[int, int]:
        """Sectors from one to the whole disk, small ones more often."""
        sectors = SIZE // 512
        length = min(sectors, int(2 ** self.random.uniform(0, 16)))
        return self.random.randrange(sectors - length + 1) * 512, length * 512


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    image = tmp_path / "image"
    with loop_device(image, SIZE) as device, tracker_at(tmp_path / "run") as tracker:
        yield Bench(tracker, device, image)


def test_nothing_written_nothing_marked(bench: Bench) -> None:
    with open(bench.device, "rb") as device:
        device.read()
    bench.assert_exact([])


def test_direct_writes(bench: Bench) -> None:
    direct = Direct(bench.device, SIZE)
    for _ in range(8):
        ranges = [bench.range() for _ in range(12)]
        for offset, length in ranges:
            direct.write(offset, bench.random.randbytes(length))
        bench.assert_exact(ranges)
    direct.close()


def test_writes_that_are_flushed_at_once(bench: Bench) -> None:
    """Their requests end in steps: the data, then the flush behind it."""
    fd = os.open(bench.device, os.O_WRONLY | os.O_DSYNC)
    for _ in range(4):
        ranges = [(bench.random.randrange(SIZE // 4096) * 4096, 4096) for _ in range(6)]
        for offset, length in ranges:
            os.pwrite(fd, bench.random.randbytes(length), offset)
        bench.assert_exact(ranges)
    os.close(fd)


def test_buffered_writes(bench: Bench) -> None:
    for _ in range(6):
        ranges = []
        fd = os.open(bench.device, os.O_RDWR)
        for _ in range(20):
            offset, length = (
                bench.random.randrange(SIZE - 100_000),
                bench.random.randrange(1, 99_999),
            )
            os.pwrite(fd, bench.random.randbytes(length), offset)
            ranges.append((offset, length))
        os.fsync(fd)
        os.close(fd)
        bench.assert_exact(ranges)


@pytest.mark.parametrize("request_code", [BLKDISCARD, BLKZEROOUT])
def test_discards_and_zeroes(bench: Bench, request_code: int) -> None:
    for round_ in range(10):
        ranges = [bench.range() for _ in range(4)] if round_ else [(0, SIZE)]
        for offset, length in ranges:
            ioctl_range(bench.device, request_code, offset, length)
        bench.assert_exact(ranges)


def test_holes_punched_into_the_device(bench: Bench) -> None:
    for keep_size, mode in (("-n", "-p"), ("-n", "-z")):
        offset, length = 4096 * 700, 4096 * 5000
        run("fallocate", keep_size, mode, "-o", str(offset), "-l", str(length), bench.device)
        bench.assert_exact([(offset, length)])


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_filesystem_churn(tmp_path: Path, kind: str) -> None:
    """Many small files made, changed, renamed, removed; every differing byte is in a marked
    granule.
    """
    image, size = tmp_path / "image", {"ext4": 64, "xfs": 320}[kind] * MIB
    chosen = random.Random(7)
    with loop_device(image, size) as device, tracker_at(tmp_path / "run") as tracker:
        disk = tracker.track(device)
        run(f"mkfs.{kind}", "-q", device)
        for round_ in range(3):
            drained(tracker, disk)
            before = content(image)
            with mounted(device, tmp_path / "mount", kind) as root:
                churn(root, chosen, round_)
            marked = drained(tracker, disk)
            changed = differing(before, content(image), disk.granule)
            assert changed.any()
            assert not (changed & ~marked).any()


def churn(root: Path, chosen: random.Random, round_: int) -> None:
    for _ in range(150):
        path = root / f"{chosen.randrange(120)}"
        action = chosen.randrange(4)
        if action == 0 and path.exists():
            path.unlink()
        elif action == 1 and path.exists():
            path.rename(root / f"{chosen.randrange(120)}")
        else:
            path.write_bytes(chosen.randbytes(chosen.randrange(1, 200_000)))
    big = root / f"big{round_}"
    big.write_bytes(bytes(8 * MIB))
    run("fstrim", str(root))


def test_partitions_are_disk_relative(tmp_path: Path) -> None:
    image, start = tmp_path / "image", 2048 * 512 + 512 * 3
    loop = loop_device(image, 64 * MIB, "--partscan")
    with loop as device, tracker_at(tmp_path / "run") as tracker:
        run("addpart", device, "1", str(start // 512), "60000")  # no partition table, no udev
        disk = tracker.track(device)
        drained(tracker, disk)
        partition = Path(f"/dev/{Path(device).name}p1")
        made = not partition.exists()
        if made:
            number = (Path("/sys/class/block") / partition.name / "dev").read_text().split(":")
            os.mknod(partition, 0o660 | 0o060000, os.makedev(int(number[0]), int(number[1])))
        try:
            before = content(image)
            direct = Direct(str(partition), MIB)
            ranges = [(0, 512), (512 * 999, 4096 * 3), (60000 * 512 - 512, 512)]
            for offset, length in ranges:
                direct.write(offset, os.urandom(length))
            direct.close()
            marked = drained(tracker, disk)
            expected = touched(disk.size, disk.granule, [(start + o, n) for o, n in ranges])
            assert np.array_equal(marked, expected)
            assert np.array_equal(differing(before, content(image), disk.granule), expected)
            with pytest.raises(Exception, match="is a partition; name the whole disk"):
                tracker.track(str(partition))
        finally:
            if made:
                partition.unlink()


def test_the_kernel_marks_like_the_model(tmp_path: Path) -> None:
    """Word for word, on four levels: each discard is one bio, so one mark."""
    size, chosen = 64 * 1024 * MIB, random.Random(9)
    with loop_device(tmp_path / "image", size) as device, tracker_at(tmp_path / "run") as tracker:
        disk = tracker.track(device)
        for round_ in range(40):
            tracker.drain([disk], lambda *_: None)
            kernel = tracker._table.bitmaps(0)[tracker._table.slots[0].active & 1]
            model = np.zeros(kernel.geometry.words, np.uint64)
            assert len(kernel.geometry.levels) == 4
            for _ in range(1 + round_ // 8):
                sectors = int(2 ** chosen.uniform(0, 22))
                sector = chosen.randrange(size // 512 - sectors)
                if chosen.random() < 0.5:  # on the borders of words of all levels
                    unit = 8 * 64 ** chosen.randrange(3)
                    sector, sectors = sector // unit * unit, -(-sectors // unit) * unit
                sectors = min(sectors, size // 512 - sector)
                ioctl_range(device, BLKDISCARD, sector * 512, sectors * 512)
                bitmap.mark(kernel.geometry, model, sector // 8, (sector + sectors - 1) // 8 + 1)
            with words(kernel.fd, 0, kernel.geometry.words) as view:
                assert np.array_equal(view, model)


def test_disks_that_take_turns_and_change_places_are_exact(tmp_path: Path) -> None:
    """A CPU remembers two disks' slots. More than two, written in turn; slots that change owners
    meanwhile, so that what is remembered is another's or nobody's.
    """
    chosen, size, count = random.Random(11), 4 * MIB, 5
    with contextlib.ExitStack() as stack:
        tracker = stack.enter_context(tracker_at(tmp_path / "run"))
        paths = [
            stack.enter_context(loop_device(tmp_path / f"image{number}", size))
            for number in range(count)
        ]
        writers = [Direct(path, 4096) for path in paths]
        tracked: dict[int, TrackedDisk] = {}
        for _ in range(40):
            for number in chosen.sample(range(count), 2):
                if number in tracked:
                    tracker.untrack(tracked.pop(number))
                else:
                    tracked[number] = tracker.track(paths[number])
            expected = {number: set[int]() for number in range(count)}
            for _ in range(30):
                number, granule = chosen.randrange(count), chosen.randrange(size // 4096)
                writers[number].write(granule * 4096, b"x" * 4096)
                expected[number].add(granule)
            for number, disk in tracked.items():
                found = drained(tracker, disk).nonzero()[0].tolist()
                assert found == sorted(expected[number])
        for writer in writers:
            writer.close()


@pytest.mark.parametrize(
    ("kind", "first", "hook"),
    [
        ("loop", "rq_complete_0", layout.HOOK_REQUEST),
        ("zram", "bio_queue_0", layout.HOOK_QUEUE),
        ("zram", "bio_complete_1", layout.HOOK_BIO),
    ],
)
def test_an_event_that_the_first_program_did_not_see_is_its_understudys(
    tmp_path: Path, kind: str, first: str, hook: int
) -> None:
    """The first one's link is taken away: each event is handled by the second, and counted."""
    made = zram_device(4 * MIB) if kind == "zram" else loop_device(tmp_path / "image", 4 * MIB)
    with made as device, tracker_at(tmp_path / "run") as tracker:
        disk = tracker.track(device)
        direct, state = Direct(device, 4096), tracker._table.state
        rescued = int(state.rescued[hook])
        direct.write(4096, b"y" * 4096)
        assert state.rescued[hook] == rescued, "the first saw it"
        (pin_directory(tmp_path / "run") / f"link_{first}").unlink()
        os.close(tracker._attached.links.pop(first))
        tracker.drain([disk], lambda *_: None)
        for granule in (3, 700):
            direct.write(granule * 4096, b"z" * 4096)
        seen = Seen(disk)
        tracker.drain([disk], seen)
        assert seen.granules.nonzero()[0].tolist() == [3, 700]
        assert state.rescued[hook] >= rescued + 2
        direct.close()


def leave_records(tracker: EbpfTracker, record: int) -> None:
    """As if such a record were in every place of every CPU; 0: none."""
    places, size = tracker._table._mappings[2], ctypes.sizeof(layout.Place)
    done = layout.Place.done
    for at in range(done.offset, len(places) // size * size, size):
        places[at : at + done.size] = record.to_bytes(8, "little") * layout.RECORDS


def test_an_understudy_that_is_not_sure_only_marks(tmp_path: Path) -> None:
    """Another event's record is in the way: the first has handled this one, and cannot say so."""
    with zram_device(4 * MIB) as device, tracker_at(tmp_path / "run") as tracker:
        disk = tracker.track(device)
        rescued = list(tracker._table.state.rescued)
        leave_records(tracker, 1)
        direct = Direct(device, 4096)
        for granule in (3, 700, 701):
            direct.write(granule * 4096, b"m" * 4096)
        direct.close()
        seen = Seen(disk)
        assert tracker.drain([disk], seen)[device].misses == 0
        assert seen.granules.nonzero()[0].tolist() == [3, 700, 701]
        assert list(tracker._table.state.rescued) == rescued
        table = tracker._attached.maps["in_flight"]
        assert not tracker._library.next_key(table, None, ctypes.c_uint64())


def test_an_understudy_takes_the_records_away(tmp_path: Path) -> None:
    """One that stays could stand for a later event of the same address."""
    with (
        loop_device(tmp_path / "image", 4 * MIB) as device,
        zram_device(4 * MIB) as zram,
        tracker_at(tmp_path / "run") as tracker,
    ):
        places = tracker._table._mappings[2]

        def records() -> set[tuple[int, int]]:
            for path in (device, zram):
                direct = Direct(path, 4096)
                for granule in range(50):
                    direct.write(granule * 4096, b"r" * 4096)
                direct.close()
            cpus = len(places) // ctypes.sizeof(layout.Cpu)
            now = (layout.Cpu * cpus).from_buffer_copy(places)
            places_now = [place for cpu in now for place in cpu.places]
            assert any(any(place.seen) for place in places_now)
            left = ((at, record) for at, place in enumerate(places_now) for record in place.done)
            return {each for each in left if each[1]}

        tracker.track(device)
        tracker.track(zram)
        leave_records(
            tracker, 0
        )  # gone are those from between a first's attaching and its second's
        assert not records() & records()  # one may be between its two this moment
