"""What the kernel says is unused: its answers, in every shape that they may have."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicad.unused import (
    SHORTEST,
    SWAP_HEADER,
    Area,
    FreeSpace,
    answered,
    area_of,
    inner,
    on_disk,
    question,
    swap_areas,
    swap_devices,
)

KIB = 1024
DEVICE = 0x700
FREE, SPECIAL, LAST = 1, 0x10, 0x20
SWAPS = (
    "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
    "/dev/sda2                               partition\t508\t\t0\t\t-2\n"
    "/swapfile                               file\t\t1048572\t\t0\t\t-3\n"
    "/dev/odd\\040name                        partition\t1024\t\t0\t\t-4\n"
)


def record(
    physical: int, length: int, owner: int = FREE, flags: int = SPECIAL, device: int = DEVICE
) -> bytes:
    return struct.pack("=2I4Q24x", device, flags, physical, owner, 0, length)


def answer(*records: bytes, entries: int | None = None) -> bytes:
    count = len(records) if entries is None else entries
    return struct.pack("=4I48x", 0, 0, 99, count) + bytes(128) + b"".join(records)


def test_only_free_space_of_the_filesystem_is_taken() -> None:
    said = answer(
        record(0, 512 * KIB),
        record(512 * KIB, 64 * KIB, owner=2),  # unknown: in use by something
        record(576 * KIB, 64 * KIB, flags=0),  # the file with inode 1
        record(640 * KIB, 64 * KIB, device=DEVICE + 1),  # a log or real-time device
        record(704 * KIB, SHORTEST - 1),
        record(1024 * KIB, SHORTEST, flags=SPECIAL | LAST),
    )
    assert answered(said, DEVICE) == ([(0, 512 * KIB), (1024 * KIB, SHORTEST)], None)


def test_it_is_asked_on_after_the_last_record() -> None:
    last = record(SHORTEST, SHORTEST, owner=5)
    found, after = answered(answer(record(0, SHORTEST), last), DEVICE)
    assert (found, after) == ([(0, SHORTEST)], last)
    assert question(4, last)[64:128] == last
    assert len(question(4)) == 192 + 4 * 64


def test_a_reverse_map_is_not_asked_for_free_space() -> None:
    """What it says is free may be a block that is just changing its owner."""
    for named in (record(0, SHORTEST, owner=1 << 32 | 7), record(0, SHORTEST, owner=9, flags=0)):
        said = answer(record(SHORTEST, SHORTEST), named)
        assert answered(said, DEVICE)[0] == [(SHORTEST, SHORTEST)]
        with pytest.raises(OSError, match="reverse map"):
            answered(said, DEVICE, plain=True)
    elsewhere = answer(record(0, SHORTEST, owner=3, device=1), record(0, SHORTEST, owner=2))
    assert answered(elsewhere, DEVICE, plain=True)[0] == []


@given(st.binary(min_size=192, max_size=700), st.integers(0, 1 << 32))
def test_nonsense_ends(said: bytes, device: int) -> None:
    """Whatever a kernel answers, no record is read that is not there."""
    found, after = answered(said, device)
    assert len(found) <= (len(said) - 192) // 64
    assert after is None or len(after) == 64


def test_more_records_than_there_is_room_for_are_not_believed() -> None:
    assert answered(answer(record(0, SHORTEST), entries=1 << 31), DEVICE)[0] == [(0, SHORTEST)]


def test_only_granules_that_are_unused_as_a_whole() -> None:
    ranges = [(1, 8191), (8192, 4096), (20480, 4095), (28672, 1 << 40)]
    assert list(inner(ranges, 4096, 40000)) == [(1, 1), (2, 1), (7, 2)]


@given(
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 1 << 18)), max_size=5),
    st.sampled_from([4096, 8192, 65536]),
    st.integers(1, 1 << 20),
)
def test_inner_granules_lie_within(ranges: list[tuple[int, int]], granule: int, size: int) -> None:
    for first, count in inner(ranges, granule, size):
        begin, end = first * granule, (first + count) * granule
        assert any(at <= begin and end <= at + length for at, length in ranges)
        assert 0 <= begin < end <= size


def test_many_ranges_are_kept_and_forgotten() -> None:
    found = FreeSpace()
    for number in range(5):
        found.add(number * 10, number)
    found.forget(1, 4)
    assert list(found) == [(0, 0), (40, 4)]
    assert len(found) == 2


def test_a_fragmented_filesystem_does_not_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicad.unused.MOST_RANGES", 3)
    found = FreeSpace()
    for number in range(5):
        found.add(number, 1)
    assert list(found) == [(0, 1), (1, 1), (2, 1)]


def test_swap_devices_are_named() -> None:
    assert swap_devices(SWAPS) == [("/dev/sda2", 508 * KIB), ("/dev/odd name", 1024 * KIB)]
    assert swap_devices("") == []


def device(sysfs: Path, number: str, size: int, start: int | None = None) -> None:
    """A disk 8:0 with a partition, as sysfs has them."""
    disk = sysfs / "devices/sda"
    base = disk if start is None else disk / "sda2"
    base.mkdir(parents=True, exist_ok=True)
    (base / "dev").write_text(f"{number}\n")
    (base / "size").write_text(f"{size}\n")
    if start is not None:
        (base / "partition").write_text("2\n")
        (base / "start").write_text(f"{start}\n")
    (sysfs / "dev/block").mkdir(parents=True, exist_ok=True)
    (sysfs / "dev/block" / number).symlink_to(base)


def test_a_partition_lies_on_its_disk(tmp_path: Path) -> None:
    device(tmp_path, "8:0", 4096)
    device(tmp_path, "8:2", 1024, start=2048)
    assert area_of("8:0", tmp_path) == Area("8:0", 0, 4096 * 512)
    assert area_of("8:2", tmp_path) == Area("8:0", 2048 * 512, 1024 * 512)
    assert area_of("8:3", tmp_path) is None
    areas = [Area("8:0", 1, 2), Area("8:16", 3, 4)]
    assert on_disk(areas, "8:0") == [(1, 2)]


def test_a_swap_area_keeps_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device(tmp_path, "8:0", 4096)
    device(tmp_path, "8:2", 1024, start=2048)
    swaps = tmp_path / "swaps"
    swaps.write_text(SWAPS)
    real = __import__("os").stat

    class Node:
        st_rdev = 8 << 8 | 2

    def stat(path: object, **rest: object) -> object:
        return Node if path == "/dev/sda2" else real(path, **rest)

    monkeypatch.setattr("replicad.unused.os.stat", stat)
    kept = Area("8:0", 2048 * 512 + SWAP_HEADER, 1024 * 512 - SWAP_HEADER)
    assert swap_areas(swaps, tmp_path) == [kept]

    # A header that names fewer pages than the partition has: what lies behind them is not swap.
    swaps.write_text(SWAPS.replace("508", "252"))
    less = Area(kept.device, kept.offset, 256 * KIB - SWAP_HEADER)
    assert swap_areas(swaps, tmp_path) == [less]

    # Swapped off, and its partition moved, while it was looked for.
    with monkeypatch.context() as patched:
        said = [swap_devices(SWAPS), []]
        patched.setattr("replicad.unused._named", lambda _: said.pop(0))
        assert swap_areas(swaps, tmp_path) == []

    # A device that is smaller than the swap area: a name from somebody else's /dev.
    swaps.write_text(SWAPS.replace("508", "512"))
    assert swap_areas(swaps, tmp_path) == []

    assert swap_areas(tmp_path / "none", tmp_path) == []
