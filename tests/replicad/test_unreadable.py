"""What cannot be read: ranges against sets of bytes, and when it is tried again."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import LocalFault
from replicad import unreadable
from replicad.dirtymap import Batch, DirtyMap, Header
from replicad.dirtymap.bitmap import segments_mask
from replicad.planner import Sweep
from replicad.reader import ATTEMPTS, DiskReader
from replicad.unreadable import FIRST_SECONDS, MOST_SECONDS, Unreadable, common, joined, without

GRANULE = 4096
RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=8)


def numbers(ranges: Sequence[tuple[int, int]]) -> set[int]:
    return {at for offset, length in ranges for at in range(offset, offset + length)}


@given(RANGES, RANGES)
def test_ranges_are_sets(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    mine, theirs = joined(some), joined(others)
    assert numbers(mine) == numbers(some)
    assert all(sum(one) < two[0] for one, two in itertools.pairwise(mine))
    assert numbers(without(mine, theirs)) == numbers(mine) - numbers(theirs)
    assert numbers(common(mine, theirs)) == numbers(mine) & numbers(theirs)


def told() -> tuple[Unreadable, list[tuple[str, tuple[int, int]]]]:
    heard: list[tuple[str, tuple[int, int]]] = []
    return Unreadable("/dev/x", lambda what, where, _: heard.append((what, where))), heard


def test_each_place_is_told_once_and_named() -> None:
    held, heard = told()
    for _ in range(3):
        held.add(8 * GRANULE, GRANULE, "Input/output error", 0.0)
        held.add(2 * GRANULE, GRANULE, "Input/output error", 0.0)
    held.add(3 * GRANULE, GRANULE, "Input/output error", 0.0)  # its neighbour is no new place
    assert heard == [("lost", (8 * GRANULE, GRANULE)), ("lost", (2 * GRANULE, GRANULE))]
    assert held.counted == 2
    assert held.bytes == 3 * GRANULE
    sentence = held.fault().sentence
    assert sentence == (
        "reading /dev/x at bytes 8192-16384 failed: Input/output error (and in 1 more place)"
    )


def test_pauses_grow_and_begin_anew_when_something_heals() -> None:
    held, heard = told()
    held.add(0, GRANULE, "r", 100.0)
    held.add(8 * GRANULE, GRANULE, "r", 101.0)
    assert not held.is_due(100.0 + FIRST_SECONDS - 0.1)
    now, pauses = 100.0 + FIRST_SECONDS, []
    for _ in range(8):
        assert held.is_due(now)
        held.tried(held.ranges, held.ranges, [], now)
        begun = now
        while not held.is_due(now):
            now += 0.5
        pauses.append(now - begun)
    assert pauses == sorted(pauses)
    assert pauses[-1] == MOST_SECONDS
    held.tried(held.ranges, [(0, GRANULE)], [], now)
    assert held.is_due(now), "where one place heals others may"
    assert held.ranges == ((0, GRANULE),)
    assert heard[-1] == ("found", (8 * GRANULE, GRANULE))
    held.tried(held.ranges, [], [], now)
    assert not held
    assert not held.is_due(1e9)


def test_what_was_not_tried_comes_first_the_next_time() -> None:
    held, _ = told()
    ranges = [(at * 4 * GRANULE, GRANULE) for at in range(4)]
    for offset, length in ranges:
        held.add(offset, length, "r", 0.0)
    held.tried(held.to_try(), ranges[:2], ranges[2:], 5.0)
    assert held.to_try() == [*ranges[2:], *ranges[:2]]


@pytest.mark.parametrize(("granule", "hit"), [(70, True), (71, True), (69, False), (72, False)])
def test_a_write_there_is_a_reason_to_try(granule: int, hit: bool) -> None:
    held, _ = told()
    held.add(70 * GRANULE, 2 * GRANULE, "r", 0.0)
    for now in (5.0, 20.0, 60.0):
        held.tried(held.ranges, held.ranges, [], now)
    words = np.zeros(3, np.uint64)
    words[granule // 64] = np.uint64(1 << granule % 64)
    held.written(0, words, GRANULE)
    assert held.is_due(60.0 + unreadable.WRITTEN_SECONDS) is hit
    held.hurry()
    assert held.is_due(60.0)


# --- the reader ---------------------------------------------------------------------------------


class Sick:
    """A preadv(2) that fails where it is told to; each failure takes ``seconds`` of its clock."""

    def __init__(self, *bad: int, seconds: float = 0.0) -> None:
        self.bad = set(bad)
        self.seconds = seconds
        self.now = 0.0
        self.tried: list[int] = []

    def __call__(self, fd: int, views: Sequence[memoryview], offset: int) -> int:
        length = sum(len(view) for view in views)
        if any(offset < (at + 1) * GRANULE and at * GRANULE < offset + length for at in self.bad):
            self.tried.append(offset // GRANULE)
            self.now += self.seconds
            raise OSError(errno.EIO, "Input/output error")
        return os.preadv(fd, views, offset)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(600 * GRANULE + 777))
    return path


def test_sifting_tells_what_can_be_read_and_remembers_the_rest(image: Path) -> None:
    sick = Sick(3, 300, 600)
    reader = DiskReader(str(image), preadv=sick)
    bad, untried = reader.sift([(0, 600 * GRANULE + 777)], 60.0)
    assert bad == [(3 * GRANULE, GRANULE), (300 * GRANULE, GRANULE), (600 * GRANULE, 777)]
    assert untried == []
    assert list(reader.unreadable.ranges) == bad
    assert sick.tried.count(3) == ATTEMPTS
    reader.close()


def test_a_disk_that_takes_long_for_each_error_is_not_sifted_to_the_end(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sick = Sick(*range(100), seconds=7.0)
    monkeypatch.setattr("replicad.reader.time", SimpleNamespace(monotonic=lambda: sick.now))
    reader = DiskReader(str(image), preadv=sick)
    bad, untried = reader.sift([(0, 600 * GRANULE)], 10.0)
    assert numbers(bad) | numbers(untried) <= set(range(600 * GRANULE))
    assert 0 < len(bad) <= 2
    assert numbers(untried) >= numbers([(3 * GRANULE, 97 * GRANULE)])
    assert not numbers(bad) & numbers(untried)
    reader.close()


def test_sifting_a_disk_that_is_gone_is_a_fault(image: Path) -> None:
    def preadv(*_: object) -> int:
        raise OSError(errno.ENXIO, "No such device or address")

    reader = DiskReader(str(image), preadv=preadv)
    with pytest.raises(LocalFault, match="RPL-5001"):
        reader.sift([(0, GRANULE)], 1.0)
    reader.close()


# --- the map ------------------------------------------------------------------------------------

SIZE = 200 * GRANULE


def a_map(path: Path) -> DirtyMap:
    header = Header(job="j", disk="/dev/x", size=SIZE, granule=GRANULE, boot="b", token="t")
    made = DirtyMap.create(str(path), header)
    made.update(seeded=True)
    return made


@pytest.mark.parametrize("kind", ["data", "compare"])
def test_what_is_set_apart_is_dirty_and_the_rest_stays_in_flight(tmp_path: Path, kind: str) -> None:
    held = a_map(tmp_path / "map")
    if kind == "data":
        held.mark_range(0, 32, 0.0)
        held.suspect_range(4, 1)
    else:
        held.suspect_range(0, 32)
    batch = Sweep(held, 0, kind).take()  # type: ignore[arg-type]
    assert batch is not None
    rest = held.set_apart(batch, ((3, 2), (31, 1)), 0.0)
    assert rest is not None
    assert rest.segments == ((0, 3), (5, 26))
    assert [held.state(at) for at in (3, 4, 31)] == [(True, False, False)] * 3
    assert held.state(5)[2]
    with pytest.raises(ValueError, match="not in flight"):
        held.acked(batch)
    assert held.dirty_within(0, 4) == 1
    assert held.dirty_within(0, 200) == 3
    if kind == "data":
        held.acked(rest)
    else:
        held.compared(rest, (), 0.0)
    assert (held.dirty_granules, held.suspect_granules, held.flying_granules) == (3, 0, 0)
    held.close()


def test_all_of_a_batch_is_set_apart(tmp_path: Path) -> None:
    held = a_map(tmp_path / "map")
    held.mark_range(10, 4, 0.0)
    batch = Sweep(held, 0, "data").take()
    assert batch is not None
    assert held.set_apart(batch, batch.segments, 0.0) is None
    assert (held.dirty_granules, held.flying_granules) == (4, 0)
    held.close()


@given(RANGES.filter(bool), RANGES)
def test_a_batch_without_some_of_it(
    some: list[tuple[int, int]], others: list[tuple[int, int]]
) -> None:
    segments = tuple(joined(some))
    apart = tuple(common(segments, joined(others)))
    count = sum(length for _, length in segments)
    batch = Batch(0, "data", segments, count, *segments_mask(segments))
    rest = batch.without(apart)
    left = numbers(segments) - numbers(apart)
    assert (numbers(rest.segments) if rest else set()) == left
    assert rest is None or rest.granules == len(left)
