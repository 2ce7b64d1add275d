"""What is drained is what was written, on the disks that servers have, on this kernel.

tests/integration/test_tracker_*.py hold the same for loop devices on the host's kernel; here the
disks are virtio, SCSI, NVMe, an NVMe multipath head, and LVM and MD above them. The bytes before
and after decide what was written, the writer itself what may be marked.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from replicad.tracker import EbpfTracker, TrackedDisk
from tests.replicad.tracker.devices import (
    BLKDISCARD,
    BLKZEROOUT,
    MIB,
    Direct,
    Seen,
    differing,
    drained,
    ioctl_range,
    touched,
    tracker_at,
)
from tests.support.pair import until
from tests.vm.guest.disks import (
    KINDS,
    LINEAR_ON_ONE,
    PARTS,
    PLAIN,
    REQUEST_BASED,
    array,
    by_serial,
    disk,
    run,
    settle,
    volume,
)

pytestmark = [pytest.mark.root, pytest.mark.timeout(800)]
GRANULE = 4096
COPIED = 8 * MIB
"""Of each disk, in the tests with a writer beside the drains."""


def content(path: str, size: int) -> NDArray[np.uint8]:
    """A disk as it is on the medium, past every cache."""
    with contextlib.closing(mmap.mmap(-1, size)) as buffer:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        try:
            with memoryview(buffer) as view:
                done = 0
                while done < size:
                    done += os.preadv(fd, [view[done : min(size, done + 8 * MIB)]], done)
        finally:
            os.close(fd)
        return np.frombuffer(buffer[:size], np.uint8)


class Bench:
    """One tracked disk filled with random bytes; what is written goes through ``path``."""

    def __init__(self, tracker: EbpfTracker, device: str, path: str | None = None) -> None:
        self.tracker = tracker
        self.device = device
        self.path = path or device
        self.random = random.Random(20)
        self.disk: TrackedDisk = tracker.track(os.path.realpath(device))
        self.size = self.disk.size
        self.direct = Direct(self.path, 4 * MIB)
        if path is None:
            for offset in range(0, self.size, 4 * MIB):
                part = min(4 * MIB, self.size - offset)
                self.direct.write(offset, self.random.randbytes(part))
        self.before = content(device, self.size)
        drained(tracker, self.disk)

    def assert_exact(self, ranges: list[tuple[int, int]], *, only: bool = True) -> None:
        """All that differs is marked, and (``only``) nothing outside of the ranges."""
        marked = drained(self.tracker, self.disk)
        after = content(self.device, self.size)
        lost = differing(self.before, after, self.disk.granule) & ~marked
        assert not lost.any(), f"written, not marked: {lost.nonzero()[0]}"
        if only:
            beyond = marked & ~touched(self.size, self.disk.granule, ranges)
            assert not beyond.any(), f"marked, not written: {beyond.nonzero()[0]}"
        self.before = after

    def assert_all_landed(self) -> None:
        """No write that has ended is still remembered: what is left over would pile up."""
        table = self.tracker._attached.maps["in_flight"]
        assert not self.tracker._library.next_key(table, None, ctypes.c_uint64())

    def range(self, most: int = MIB) -> tuple[int, int]:
        """Sectors, few more often than many."""
        length = 512 * int(2 ** self.random.uniform(0, np.log2(most // 512)))
        return self.random.randrange((self.size - length) // 512 + 1) * 512, length


@contextlib.contextmanager
def bench(kind: str, directory: Path) -> Iterator[Bench]:
    with disk(kind) as device, tracker_at(directory / "run") as tracker:
        made = Bench(tracker, device)
        try:
            yield made
        finally:
            made.direct.close()


@pytest.mark.parametrize("kind", KINDS)
def test_writes_of_every_kind_are_exact(kind: str, tmp_path: Path) -> None:
    with bench(kind, tmp_path) as it:
        _write_in_every_way(it)
        it.assert_all_landed()


def test_what_is_written_to_one_of_several_disks_is_its_own(tmp_path: Path) -> None:
    """One tracker for a disk of each sort. The kernel checks its programs once only, which without
    KVM takes as long as what is written here."""
    first, *others = (by_serial(part) for part in PARTS)
    with contextlib.ExitStack() as stack:
        devices = [by_serial(PLAIN[kind]) for kind in ("virtio", "scsi", "nvme")]
        devices.append(stack.enter_context(volume("linear", [first])))
        devices.append(stack.enter_context(array("raid1", others)))
        tracker = stack.enter_context(tracker_at(tmp_path / "run"))
        benches = [Bench(tracker, device) for device in devices]
        for it in benches:
            stack.callback(it.direct.close)
        for it in benches:
            _write_in_every_way(it)
        for it in benches:
            it.assert_exact([])
        benches[0].assert_all_landed()


def _write_in_every_way(it: Bench) -> None:
    it.assert_exact([])
    _direct(it)
    _buffered(it)
    _mapped(it)
    for code in (BLKZEROOUT, BLKDISCARD):
        ranges = [it.range() for _ in range(6)]
        with contextlib.suppress(Unsupported):
            for offset, length in ranges:
                _ioctl(it.path, code, offset, length)
        it.assert_exact(ranges)
    with contextlib.suppress(Unsupported):
        _ioctl(it.path, BLKDISCARD, 0, it.size)
    it.assert_exact([(0, it.size)])


class Unsupported(Exception):
    """The disk has no discard."""


def _ioctl(path: str, code: int, offset: int, length: int) -> None:
    try:
        ioctl_range(path, code, offset, length)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP and code == BLKDISCARD:
            raise Unsupported from error
        raise


def _direct(it: Bench) -> None:
    ranges = [it.range() for _ in range(12)]
    for offset, length in ranges:
        it.direct.write(offset, it.random.randbytes(length))
    it.assert_exact(ranges)


def _buffered(it: Bench) -> None:
    ranges = []
    fd = os.open(it.path, os.O_RDWR)
    for _ in range(20):
        length = it.random.randrange(1, 99_999)
        offset = it.random.randrange(it.size - length)
        os.pwrite(fd, it.random.randbytes(length), offset)
        # the page cache writes whole pages
        ranges.append((offset, length))
    os.fsync(fd)
    os.close(fd)
    it.assert_exact(ranges)


def _mapped(it: Bench) -> None:
    fd = os.open(it.path, os.O_RDWR)
    ranges = []
    with contextlib.closing(mmap.mmap(fd, 8 * MIB)) as memory:
        for _ in range(20):
            offset = it.random.randrange(8 * MIB - 5000)
            memory[offset : offset + 5000] = it.random.randbytes(5000)
            ranges.append((offset, 5000))
        memory.flush()
    os.fsync(fd)
    os.close(fd)
    # newer kernels write a whole large folio of which one page was changed
    it.assert_exact(ranges, only=False)


@pytest.mark.parametrize("kind", [*PLAIN, "raid1"])
def test_partitions_are_relative_to_their_disk(kind: str, tmp_path: Path) -> None:
    with disk(kind) as device, tracker_at(tmp_path / "run") as tracker:
        start = 2048 * 512 + 512 * 3
        run("sh", "-c", f"echo 'start={start // 512},size=30000' | sfdisk -q -f -X dos {device}")
        settle()
        separator = "p" if device[-1].isdigit() else ""
        partition = f"{device}{separator}1"
        try:
            it = Bench(tracker, device, partition)
            ranges = [(0, 512), (512 * 999, GRANULE * 3), (30000 * 512 - 512, 512)]
            for offset, length in ranges:
                it.direct.write(offset, it.random.randbytes(length))
            it.direct.close()
            it.assert_exact([(start + offset, length) for offset, length in ranges])
        finally:
            run("wipefs", "-q", "-a", device)
            run("blockdev", "--rereadpt", device)
            settle()


@pytest.mark.parametrize("below", ["virtio", "raid1"])
def test_the_disk_below_a_volume(below: str, tmp_path: Path) -> None:
    """The job's disk is what the volume group lies on; the writes come through the volume."""
    with disk(below) as device, tracker_at(tmp_path / "run") as tracker:
        with volume("linear", [device]) as upper:
            it = Bench(tracker, device, upper)
            size = LINEAR_ON_ONE
            ranges = []
            for _ in range(30):
                length = 512 * it.random.randrange(1, 2000)
                offset = it.random.randrange((size - length) // 512) * 512
                it.direct.write(offset, it.random.randbytes(length))
                ranges.append((MIB + offset, length))  # vgcreate puts 1 MiB of its own before
            it.direct.close()
            it.assert_exact(ranges)


class Writers:
    """Threads that write random granules until stopped and remember which."""

    def __init__(self, device: str, count: int = 2) -> None:
        self.written = np.zeros(COPIED // GRANULE, np.bool_)
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(device, seed)) for seed in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def _write(self, device: str, seed: int) -> None:
        chosen, direct = random.Random(seed), Direct(device, 64 * GRANULE)
        data = os.urandom(64 * GRANULE)
        while not self._stopped.is_set():
            length = chosen.choice((1, 1, 1, 2, 5, 64))
            first = chosen.randrange(len(self.written) - length + 1)
            direct.write(first * GRANULE, data[: length * GRANULE])
            self.written[first : first + length] = True
        direct.close()

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize("kind", KINDS)
def test_drains_beside_writers_lose_nothing(kind: str, tmp_path: Path) -> None:
    with disk(kind) as device, tracker_at(tmp_path / "run") as tracker:
        tracked = tracker.track(os.path.realpath(device))
        seen, drains = Seen(tracked), 0
        writers = Writers(device)
        try:
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                assert tracker.drain([tracked], seen)[tracked.path].misses == 0
                drains += 1
        finally:
            writers.stop()
        assert tracker.drain([tracked], seen)[tracked.path].misses == 0
        assert drains > 20
        written = np.zeros(seen.size, np.bool_)
        written[: len(writers.written)] = writers.written
        assert written.sum() > 100
        assert np.array_equal(seen.granules, written)
        assert not drained(tracker, tracked).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_made_by_drains_is_never_stale(kind: str, tmp_path: Path) -> None:
    """A block that is drained and read while its write is in flight must be marked again."""
    with disk(kind) as device, tracker_at(tmp_path / "run") as tracker:
        tracked = tracker.track(os.path.realpath(device))
        for _ in range(2):
            assert stale_after_copying(tracker, device, tracked) == 0
        assert tracker.misses(tracked) == 0


def stale_after_copying(tracker: EbpfTracker, device: str, tracked: TrackedDisk) -> int:
    """Copies a disk by its drains while every 128 KiB of it is written once; returns how many of
    the copy are old."""
    unit = MIB // 8
    places = COPIED // unit
    direct, copy = Direct(device, unit), np.zeros((places, unit), np.uint8)
    reader, buffer = os.open(device, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, unit)

    def write() -> None:
        for place in range(places):
            direct.write(place * unit, os.urandom(unit))

    def read(place: int) -> NDArray[np.uint8]:
        assert os.preadv(reader, [buffer], place * unit) == unit
        return np.frombuffer(buffer, np.uint8)

    def copy_dirty() -> None:
        seen = Seen(tracked)
        tracker.drain([tracked], seen)
        granules = seen.granules[: COPIED // GRANULE].reshape(places, -1)
        for place in np.flatnonzero(granules.any(axis=1)):
            copy[place] = read(int(place))

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        copy_dirty()
    writer.join()
    copy_dirty()
    stale = sum(not np.array_equal(copy[place], read(place)) for place in range(places))
    direct.close()
    os.close(reader)
    return stale


@pytest.mark.parametrize("kind", ["linear", "raid1", "raid0", "raid5", "multipath"])
def test_completions_of_bio_based_disks_are_seen(kind: str, tmp_path: Path) -> None:
    """The half of the mark that the test before cannot tell from luck: a write is marked again when
    it has landed, also after a drain took its first mark."""
    assert kind not in REQUEST_BASED
    with disk(kind) as device, tracker_at(tmp_path / "run") as tracker:
        tracked = tracker.track(os.path.realpath(device))
        assert tracker._table.state.stacked == 1, "it was taken for a request-based disk"
        direct = Direct(device, 4 * MIB)
        again = 0
        for round_ in range(60):
            drained(tracker, tracked)
            writer = threading.Thread(
                target=direct.write, args=((round_ % 4) * 4 * MIB, os.urandom(4 * MIB))
            )
            writer.start()
            while not (first := drained(tracker, tracked)).any() and writer.is_alive():
                pass
            writer.join()
            second = drained(tracker, tracked)
            again += int((first & second).sum())
            whole = (first | second).nonzero()[0]
            begin = (round_ % 4) * 4 * MIB // GRANULE
            assert whole.tolist() == list(range(begin, begin + 4 * MIB // GRANULE))
            if again > 100:
                break
        direct.close()
        assert again, "no drain fell into a write: this proved nothing"
        assert tracker.misses(tracked) == 0


def test_an_array_that_is_being_rebuilt(tmp_path: Path) -> None:
    """Writes to a RAID1 while one half is taken out and put back: they are the array's own."""
    with disk("raid1") as device, tracker_at(tmp_path / "run") as tracker:
        it = Bench(tracker, device)
        half = "/dev/" + next(iter(Path(f"/sys/block/{Path(device).name}/slaves").iterdir())).name
        ranges = []
        for step in ("", "--fail", "--remove", "--add"):
            if step:
                run("mdadm", "--quiet", device, step, half)
            for _ in range(8):
                offset, length = it.range(MIB)
                it.direct.write(offset, it.random.randbytes(length))
                ranges.append((offset, length))
        it.assert_exact(ranges)
        it.direct.close()
        until(lambda: _action(device) == "idle", 120, "the rebuilt array")
        it.assert_exact([])


def _action(device: str) -> str:
    return Path(f"/sys/block/{Path(device).name}/md/sync_action").read_text().strip()
