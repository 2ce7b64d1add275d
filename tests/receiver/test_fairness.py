"""Lanes that always have work get equal parts, and nobody is forgotten."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.fairness import FairQueue, Lane

costs = st.floats(0.1, 10.0)


def test_nothing_waits() -> None:
    queue: FairQueue[str] = FairQueue(1.0)
    assert len(queue) == 0
    with pytest.raises(IndexError):
        queue.pop()


def test_a_lanes_work_is_done_in_its_order() -> None:
    queue: FairQueue[int] = FairQueue(1.0)
    lane: Lane[int] = Lane()
    for number in range(5):
        queue.push(lane, number)
    assert [queue.pop() for _ in range(5)] == [0, 1, 2, 3, 4]


@given(st.lists(st.lists(costs, min_size=1, max_size=5), min_size=2, max_size=8), st.integers(1, 4))
def test_who_always_has_work_gets_an_equal_part(parts: list[list[float]], pieces: int) -> None:
    """Whatever a piece costs, and however many pieces of a lane wait at once."""
    queue: FairQueue[int] = FairQueue(1.0)
    lanes: list[Lane[int]] = [Lane() for _ in parts]
    for at, lane in enumerate(lanes):
        for _ in range(pieces):
            queue.push(lane, at)
    had = [0.0 for _ in lanes]
    for piece in range(400):
        at = queue.pop()
        cost = parts[at][piece % len(parts[at])]
        had[at] += cost
        queue.spent(lanes[at], cost)
        queue.push(lanes[at], at)
    # Goyal et al., theorem 1: apart by at most what one piece costs on each.
    assert max(had) - min(had) <= 2 * max(max(each) for each in parts) + 1e-6


@given(st.lists(costs, min_size=1, max_size=50))
def test_who_comes_late_neither_waits_nor_makes_good(before: list[float]) -> None:
    queue: FairQueue[str] = FairQueue(1.0)
    lanes: dict[str, Lane[str]] = {"old": Lane(), "new": Lane()}

    def serve(cost: float) -> str:
        work = queue.pop()
        queue.spent(lanes[work], cost)
        queue.push(lanes[work], work)
        return work

    queue.push(lanes["old"], "old")
    for cost in before:
        serve(cost)
    queue.push(lanes["new"], "new")
    order = [serve(1.0) for _ in range(20)]
    # What the old one had last it had since the start that is being served, and that alone counts.
    assert "new" in order[:2]
    assert abs(order.count("new") - order.count("old")) <= before[-1] + 2


def test_what_cost_less_than_was_expected_comes_earlier() -> None:
    """Also where its lane's next piece waits already."""
    queue: FairQueue[str] = FairQueue(10.0)
    light: Lane[str] = Lane()
    others: dict[str, Lane[str]] = {f"other {number}": Lane() for number in range(5)}
    queue.push(light, "first")
    queue.push(light, "second")
    for name, lane in others.items():
        queue.push(lane, name)
    assert queue.pop() == "first"
    queue.spent(light, 0.0)
    order = []
    while "second" not in order:
        order.append(queue.pop())
        if order[-1] in others:
            queue.spent(others[order[-1]], 3.0)
            queue.push(others[order[-1]], order[-1])
    assert len(order) <= len(others) + 1, "it waited as if it had cost what was expected"


def test_a_second_piece_does_not_start_beside_the_first_while_others_wait() -> None:
    """Nothing has been said yet of what the pieces cost: all are with a thread."""
    queue: FairQueue[str] = FairQueue(1.0)
    lanes: list[Lane[str]] = [Lane() for _ in range(3)]
    for at, lane in enumerate(lanes):
        queue.push(lane, f"{at} first")
        queue.push(lane, f"{at} second")
    order = [queue.pop() for _ in range(6)]
    assert order == ["0 first", "1 first", "2 first", "0 second", "1 second", "2 second"]


@given(st.data())
def test_nothing_is_lost_or_done_twice(data: st.DataObject) -> None:
    queue: FairQueue[int] = FairQueue(1.0)
    lanes: list[Lane[int]] = [Lane() for _ in range(4)]
    number = count()
    waiting: set[int] = set()
    whose: dict[int, Lane[int]] = {}
    under_way: list[Lane[int]] = []
    for _ in range(data.draw(st.integers(1, 60))):
        what = data.draw(st.sampled_from(("push", "pop", "spent", "withdraw")))
        if what == "push":
            work = next(number)
            whose[work] = data.draw(st.sampled_from(lanes))
            queue.push(whose[work], work)
            waiting.add(work)
        elif what == "pop" and waiting:
            work = queue.pop()
            waiting.remove(work)
            under_way.append(whose[work])
        elif what == "spent" and under_way:
            queue.spent(under_way.pop(), data.draw(st.floats(0, 100)))
        elif what == "withdraw" and waiting:
            work = data.draw(st.sampled_from(sorted(waiting)))
            assert queue.withdraw(whose[work], work)
            assert not queue.withdraw(whose[work], work)
            waiting.remove(work)
        assert len(queue) == len(waiting)
    while waiting:
        waiting.remove(queue.pop())
    assert len(queue) == 0
