"""Drains against writers, kills, other BPF programs: nothing written may be lost."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replicad.tracker import EbpfTracker, TrackedDisk, pin_directory, writes_under_way
from replicad.tracker.window import words
from tests.replicad.tracker.devices import (
    MIB,
    Direct,
    Seen,
    drained,
    loop_device,
    tracker_at,
    zram_device,
)
from tests.support.loops import mounted

pytestmark = pytest.mark.root
SIZE = 256 * MIB
GRANULES = SIZE // 4096


class Writers:
    """Threads that write random granules until stopped and remember which."""

    def __init__(self, device: str, count: int = 2) -> None:
        self.written = np.zeros(GRANULES, np.bool_)
        self.stopped = threading.Event()
        self.threads = [
            threading.Thread(target=self._write, args=(device, seed)) for seed in range(count)
        ]
        for thread in self.threads:
            thread.start()

    def _write(self, device: str, seed: int) -> None:
        chosen, direct, data = random.Random(seed), Direct(device, 64 * 4096), os.urandom(64 * 4096)
        while not self.stopped.is_set():
            length = chosen.choice((1, 1, 1, 2, 5, 64))
            first = chosen.randrange(GRANULES - length + 1)
            direct.write(first * 4096, data[: length * 4096])
            self.written[first : first + length] = True
        direct.close()

    def stop(self) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()


def test_drains_beside_writers_lose_nothing(tmp_path: Path) -> None:
    """In each generation all that was written is in its drains, and nothing else is."""
    with loop_device(tmp_path / "image", SIZE) as device, tracker_at(tmp_path / "run") as tracker:
        disk = tracker.track(device)
        for _ in range(4):
            seen, drains = Seen(disk), 0
            writers = Writers(device)
            try:
                end = time.monotonic() + 2
                while time.monotonic() < end:
                    assert tracker.drain([disk], seen)[disk.path].misses == 0
                    drains += 1
            finally:
                writers.stop()
            tracker.drain([disk], seen)
            assert drains > 50
            assert writers.written.any()
            assert np.array_equal(seen.granules, writers.written)
            assert not drained(tracker, disk).any()


def test_a_marker_that_began_before_the_flip_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What appears in the old bitmap while the drain waits is in the drain."""
    with loop_device(tmp_path / "image", SIZE) as device, tracker_at(tmp_path / "run") as tracker:
        disk = tracker.track(device)
        drained(tracker, disk)
        old = tracker._table.bitmaps(0)[tracker._table.slots[0].active]
        wait = tracker._table.quiescence.wait

        def late_marker() -> None:
            with words(old.fd, 0, 1) as view:
                view[0] |= np.uint64(1 << 7)
            with words(old.fd, old.geometry.summary.first, old.geometry.summary.first + 1) as view:
                view[0] |= np.uint64(1)
            wait()

        monkeypatch.setattr(tracker._table.quiescence, "wait", late_marker)
        assert drained(tracker, disk).nonzero()[0].tolist() == [7]


def test_a_marker_in_progress_blocks_the_drain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count of markers on a CPU is honoured; only an RCU grace period overrides it."""
    with loop_device(tmp_path / "image", SIZE) as device, tracker_at(tmp_path / "run") as tracker:
        disk = tracker.track(device)
        drained(tracker, disk)
        allowed = threading.Event()
        monkeypatch.setattr(tracker._table.quiescence, "_grace_period", lambda: allowed.wait(30))
        readers = tracker._table._readers
        readers[0] += np.uint64(1)  # no I/O of ours runs now; other disks leave this word alone
        drain = threading.Thread(target=tracker.drain, args=([disk], lambda *_: None))
        drain.start()
        drain.join(0.3)
        assert drain.is_alive(), "the drain did not wait for a running program"
        allowed.set()
        drain.join()
        readers[0] -= np.uint64(1)


def test_bits_are_in_the_kernel_until_the_sink_returned(tmp_path: Path) -> None:
    with loop_device(tmp_path / "image", SIZE) as device, tracker_at(tmp_path / "run") as tracker:
        disk = tracker.track(device)
        direct = Direct(device, 4096)
        direct.write(4096 * 5, os.urandom(4096))
        direct.write(SIZE - 4096, os.urandom(4096))
        expected = [5, GRANULES - 1]

        def refuses(_disk: TrackedDisk, first: int, _words: object) -> None:
            raise RuntimeError(first)

        for _ in range(3):
            with pytest.raises(RuntimeError):
                tracker.drain([disk], refuses)

        def looks(_disk: TrackedDisk, first: int, got: np.ndarray) -> None:
            held = 0
            for one in tracker._table.bitmaps(0):
                with words(one.fd, first, first + len(got)) as view:
                    held |= int(np.bitwise_or.reduce(view))
            assert held == int(np.bitwise_or.reduce(got))
            calls.append(first)

        calls: list[int] = []
        tracker.drain([disk], looks)
        assert calls
        assert not drained(tracker, disk).any()
        direct.write(4096 * 5, os.urandom(4096))
        with pytest.raises(RuntimeError):
            tracker.drain([disk], refuses)
        direct.write(SIZE - 4096, os.urandom(4096))
        assert drained(tracker, disk).nonzero()[0].tolist() == expected
        direct.close()


DRAINER = """
import sys, numpy as np
from pathlib import Path
from replicad.tracker import EbpfTracker, pin_directory
runtime, device, bitmap = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
durable = np.memmap(bitmap, np.uint64, "r+")
tracker = EbpfTracker.open(pin_directory(runtime), runtime)
disk = tracker.track(device)
print(disk.token, flush=True)
def merge(_disk, first, words):
    durable[first:first + len(words)] |= words
while True:
    assert tracker.drain([disk], merge)[disk.path].misses == 0
"""


def test_killed_drains_lose_nothing(tmp_path: Path) -> None:
    """kill -9 at random moments of a draining process, writers never stop, a successor adopts."""
    durable, runtime = tmp_path / "bitmap", tmp_path / "run"
    durable.write_bytes(bytes(GRANULES // 8 + 8))
    chosen = random.Random(3)
    with loop_device(tmp_path / "image", SIZE) as device, tracker_at(runtime) as tracker:
        token = tracker.track(device).token
        tracker.close()
        writers = Writers(device)
        tokens = set()
        try:
            for _ in range(25):
                command = [sys.executable, "-c", DRAINER, str(runtime), device, str(durable)]
                victim = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
                assert victim.stdout is not None
                tokens.add(victim.stdout.readline().strip())
                time.sleep(chosen.uniform(0, 0.03))
                victim.send_signal(signal.SIGKILL)
                victim.wait()
                victim.stdout.close()
        finally:
            writers.stop()
            heir = EbpfTracker.open(pin_directory(runtime), runtime)
            tracker.__dict__.update(heir.__dict__)  # the fixture destroys what is current
        assert tokens == {token}
        disk = tracker.track(device)
        seen = Seen(disk)
        kept = np.fromfile(durable, np.uint64)
        seen.words[: len(kept)] |= kept[: len(seen.words)]
        assert tracker.drain([disk], seen)[disk.path].misses == 0
        lost = writers.written & ~seen.granules
        assert not lost.any(), lost.nonzero()[0]


def test_killed_between_any_two_steps_of_a_drain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same, with the kill at each mapping of a bitmap in turn."""

    class Killed(BaseException):
        pass

    runtime = tmp_path / "run"
    with loop_device(tmp_path / "image", SIZE) as device, tracker_at(runtime) as tracker:
        disk = tracker.track(device)
        direct = Direct(device, 40 * MIB)
        written = [(0, 4096), (8 * MIB, 40 * MIB), (SIZE - 4096, 4096)]
        for step in range(12):
            drained(tracker, disk)
            for offset, length in written:
                direct.write(offset, os.urandom(length))
            seen, left = Seen(disk), step

            def counting(fd: int, first: int, end: int, _real: Any = words) -> object:
                nonlocal left
                if not left:
                    raise Killed
                left -= 1
                return _real(fd, first, end)

            monkeypatch.setattr("replicad.tracker.window.words", counting)
            with contextlib.suppress(Killed):
                tracker.drain([disk], seen)
            monkeypatch.undo()
            tracker.close()
            heir = EbpfTracker.open(pin_directory(runtime), runtime)
            tracker.__dict__.update(heir.__dict__)
            tracker.drain([disk], seen)
            expected = np.zeros(GRANULES, np.bool_)
            for offset, length in written:
                expected[offset // 4096 : (offset + length) // 4096] = True
            assert np.array_equal(seen.granules, expected)
        direct.close()


def test_beside_other_bpf_programs_nothing_is_missed(tmp_path: Path) -> None:
    """Classic tracepoint programs lose events here: the reason for tp_btf."""
    script = (
        "tracepoint:block:* { @b[probe] = count(); } "
        "tracepoint:sched:sched_switch, tracepoint:sched:sched_wakeup { @s[comm] = count(); }"
    )
    mounts = 'mount -t tracefs none /sys/kernel/tracing 2>/dev/null; exec bpftrace -e "$0"'
    with loop_device(tmp_path / "image", SIZE) as device, tracker_at(tmp_path / "run") as tracker:
        disk = tracker.track(device)
        beside = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", mounts, script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert beside.stdout is not None
        try:
            while "Attaching" not in (line := beside.stdout.readline()):
                assert line, "bpftrace did not start"
            time.sleep(2)
            seen, writers = Seen(disk), Writers(device)
            end = time.monotonic() + 5
            while time.monotonic() < end:
                assert tracker.drain([disk], seen)[disk.path].misses == 0
            writers.stop()
            assert tracker.drain([disk], seen)[disk.path].misses == 0
        finally:
            beside.send_signal(signal.SIGINT)
            report = beside.communicate()[0]
        assert "block_rq_complete" in report, (
            "the other program saw nothing, so this proved nothing"
        )
        assert np.array_equal(seen.granules, writers.written)


def stale_after_copying(tracker: EbpfTracker, device: str, disk: TrackedDisk) -> int:
    """Copies a disk by its drains while every MiB of it is written once; returns how many MiB of
    the copy are old.
    """
    places = 96
    direct, copy = Direct(device, MIB), np.zeros((places, MIB), np.uint8)
    reader, buffer = os.open(device, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, MIB)

    def write() -> None:
        for place in range(places):
            direct.write(place * MIB, os.urandom(MIB))

    def read(place: int) -> np.ndarray:
        assert os.preadv(reader, [buffer], place * MIB) == MIB
        return np.frombuffer(buffer, np.uint8)

    def copy_dirty() -> None:
        seen = Seen(disk)
        tracker.drain([disk], seen)
        for place in np.flatnonzero(seen.granules.reshape(SIZE // MIB, -1).any(axis=1)):
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


def test_a_write_in_flight_at_a_drain_is_marked_again(tmp_path: Path) -> None:
    """On a bio-based disk, whose completion does not say what was written.

    Without the mark at completion, a block that was drained and read while its write was in flight
    stays old in the copy. The second half shows that this test sees exactly that.
    """
    with zram_device(SIZE) as device, tracker_at(tmp_path / "run") as tracker:
        disk = tracker.track(device)
        for _ in range(4):
            assert stale_after_copying(tracker, device, disk) == 0
        assert tracker.drain([disk], lambda *_: None)[disk.path].misses == 0
        tracker._table.state.stacked = 0  # completions are ignored
        assert any(stale_after_copying(tracker, device, disk) for _ in range(100))


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside-a-bio-based-disk"])
def test_a_request_is_marked_when_it_has_landed(tmp_path: Path, beside: bool) -> None:
    """Its disk's backing filesystem is frozen, so a write is queued, and lands only after a drain.
    With a bio-based disk the programs are there that see it queued."""
    size = 16 * MIB
    with (
        contextlib.ExitStack() as others,
        loop_device(tmp_path / "outer", 64 * MIB) as outer,
        mounted(outer, tmp_path / "mount", "ext4"),
        loop_device(tmp_path / "mount" / "image", size) as device,
        tracker_at(tmp_path / "run") as tracker,
    ):
        if beside:
            tracker.track(others.enter_context(zram_device(size)))
        disk = tracker.track(device)
        direct = Direct(device, 4096)
        assert writes_under_way(disk.major, disk.minor) is False
        writer = threading.Thread(target=direct.write, args=(5 * 4096, b"y" * 4096))
        subprocess.run(["fsfreeze", "-f", tmp_path / "mount"], check=True)
        try:
            writer.start()
            deadline = time.monotonic() + 20
            while not writes_under_way(disk.major, disk.minor):
                assert time.monotonic() < deadline
            assert not drained(tracker, disk).any()
            assert writer.is_alive()
        finally:
            subprocess.run(["fsfreeze", "-u", tmp_path / "mount"], check=True)
        writer.join(20)
        direct.close()
        assert drained(tracker, disk).nonzero()[0].tolist() == [5]


def test_zram_writes_and_discards_are_exact(tmp_path: Path) -> None:
    with zram_device(SIZE) as device, tracker_at(tmp_path / "run") as tracker:
        disk = tracker.track(device)
        direct, chosen = Direct(device, 4 * MIB), random.Random(5)
        expected = np.zeros(GRANULES, np.bool_)
        for _ in range(200):
            length = chosen.randrange(1, 1024)
            first = chosen.randrange(GRANULES - length)
            direct.write(first * 4096, os.urandom(length * 4096))
            expected[first : first + length] = True
        direct.close()
        assert np.array_equal(drained(tracker, disk), expected)
        subprocess.run(["blkdiscard", "-f", "-o", "1048576", "-l", "33554432", device], check=True)
        expected[:] = False
        expected[256 : 256 + 8192] = True
        assert np.array_equal(drained(tracker, disk), expected)
