"""How often was handed over: the map's record is never behind what the kernel counts."""

from __future__ import annotations

from typing import Any

import pytest

from replicad.tracker import TrackedDisk, disk, window
from tests.properties import kernel
from tests.properties.kernel import GRANULE, PATH, SIZE, Kernel, SimTracker


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture
def it(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    monkeypatch.setattr(disk, "inspect", kernel.inspect)
    monkeypatch.setattr(disk, "size_and_sequence", kernel.size_and_sequence)
    return Kernel(bytearray(SIZE), frozenset({"queue", "completion"}))


def written(it: Kernel) -> None:
    it.queue(3 * GRANULE, b"x")
    it.land(0, 1)


def test_it_counts_what_held_something_and_tells_before_it_counts(it: Kernel) -> None:
    tracker = SimTracker(it)
    tracked = tracker.track(PATH)
    said: list[tuple[int, int]] = []

    def handed(_: TrackedDisk, number: int) -> None:
        said.append((number, it.slot.handed))

    for number in (1, 2):
        written(it)
        tracker.drain([tracked], lambda *_: None, handed)
        tracker.drain([tracked], lambda *_: None, handed)
        assert tracker.handed(tracked) == number
    assert said == [(1, 0), (2, 1)]


@pytest.mark.parametrize("step", range(8))
def test_a_kill_leaves_the_record_equal_or_ahead(
    it: Kernel, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = SimTracker(it)
    tracked = tracker.track(PATH)
    record = seen = 0
    left = step

    def sink(_: TrackedDisk, __: int, words: Any) -> None:
        nonlocal seen
        seen += int(words.any())

    def handed(_: TrackedDisk, number: int) -> None:
        nonlocal record
        dies()
        record = number
        dies()

    def dies() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    def words(fd: int, first: int, end: int, _real: Any = window.words) -> Any:
        dies()
        return _real(fd, first, end)

    monkeypatch.setattr(window, "words", words)
    for _ in range(4):
        written(it)
        try:
            tracker.drain([tracked], sink, handed)
        except Killed:
            left = step
        # A map that is behind would be taken for a copy of before.
        assert it.slot.handed <= record <= it.slot.handed + 1
    monkeypatch.undo()
