"""How many senders work at once: on machines that are calculated, and as the kernel tells it."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import replicad.concurrency
from replicad.concurrency import (
    AGAIN_SECONDS,
    CALM,
    FEWER_MOST,
    LOOKS,
    MORE_MOST,
    Concurrency,
    Spent,
)
from replicad.processors import Processors, processor_times

PERIOD = 0.1


def run(now: Concurrency, machine: Callable[[int], Spent], seconds: float) -> list[int]:
    """How many were at work in each period; ``machine`` says what each of so many has then. It is
    looked as often as it is asked for. Of what passes until the first look after a change nothing
    is known, for not all were at work in all of it."""
    history: list[int] = []
    ran = waited = looked_at = due = 0.0
    known = 0
    for number in range(int(seconds / PERIOD)):
        history.append(now.at_work)
        share = machine(now.at_work)
        ran, waited = ran + share.ran * PERIOD, waited + share.waited * PERIOD
        if (at := number * PERIOD) + PERIOD / 2 < due:
            continue
        if known == now.at_work:
            now.looked([Spent(ran, waited)] * now.at_work, at - looked_at, at)
        known, due = history[-1], at + now.pause(at)
        ran = waited = 0.0
        looked_at = at
    return history


def shared(processors: int, others: Callable[[int], int]) -> Callable[[int], Spent]:
    """Senders that do nothing but compute, beside ``others`` (of so many) that do the same."""

    def each(senders: int) -> Spent:
        share = min(1.0, processors / (senders + others(senders)))
        return Spent(share, 1 - share)

    return each


def test_whoever_only_takes_turns_with_himself_needs_one_fewer() -> None:
    """Both ends on two processors: for each sender a worker of the receiver is busy."""
    now = Concurrency(2)
    history = run(now, shared(2, lambda senders: senders), 60)
    assert now.at_work == 1
    assert now.because == "2 waited 50% of the time for a processor"
    assert history[: LOOKS + 2] == [2] * (LOOKS + 1) + [1]
    began = [number * PERIOD for number, pair in enumerate(pairwise(history)) if pair == (1, 2)]
    assert 60 / MORE_MOST <= len(began) <= 60 / MORE_MOST + 3
    assert all(after - before >= AGAIN_SECONDS for before, after in pairwise(began))
    assert history[LOOKS + 1 :].count(1) > 0.9 * len(history[LOOKS + 1 :])


def test_a_machine_of_its_own_is_used() -> None:
    now = Concurrency(4)
    assert set(run(now, shared(4, lambda _: 0), 30)) == {4}
    assert now.because == ""


@pytest.mark.parametrize("processors", [1, 2, 4])
def test_a_crowd_becomes_as_many_as_there_are_processors(processors: int) -> None:
    now = Concurrency(8)
    history = run(now, shared(processors, lambda _: 0), 30)
    assert sorted(history)[len(history) // 2] in {processors, processors + 1}


def test_what_others_take_is_not_won_by_stopping() -> None:
    """Six busy threads of the server on two processors: who stops a sender only loses its share."""
    now = Concurrency(2)
    history = run(now, shared(2, lambda _: 6), 120)
    assert now.at_work == 2
    assert 120 / FEWER_MOST < history.count(1) / (LOOKS + 1) <= 8


class Busy:
    """A server with ``least`` to ``most`` busy threads, as many for so many periods.

    Attributes:
        had, could: processor time that the senders had, and that all of them would have had.
    """

    def __init__(self, processors: int, least: int, most: int, periods: int, senders: int) -> None:
        self._chance = random.Random(f"{processors} {least} {most} {periods}")
        self._processors = processors
        self._range = least, most
        self._periods = periods
        self._all = senders
        self._now = 0
        self._others = 0
        self.had = self.could = 0.0

    def __call__(self, senders: int) -> Spent:
        if self._now % self._periods == 0:
            self._others = self._chance.randint(*self._range)
        self._now += 1
        share = min(1.0, self._processors / (senders + self._others))
        self.had += senders * share
        self.could += self._all * min(1.0, self._processors / (self._all + self._others))
        return Spent(share, 1 - share)


@pytest.mark.parametrize(
    ("processors", "senders", "others"), [(2, 2, (2, 8)), (4, 4, (4, 16)), (4, 4, (4, 8))]
)
@pytest.mark.parametrize("periods", [1, 2, 5, 10, 50])
def test_beside_work_that_comes_and_goes_a_copy_keeps_its_share(
    processors: int, senders: int, others: tuple[int, int], periods: int
) -> None:
    """A lull may look as if stopping had helped; that must not last."""
    machine = Busy(processors, *others, periods, senders)
    run(Concurrency(senders), machine, 600)
    assert machine.had > 0.85 * machine.could


def test_a_moment_of_other_work_costs_little() -> None:
    """Every twenty seconds, on processors that are free otherwise."""
    now, clock = Concurrency(4), itertools.count()

    def machine(_: int) -> Spent:
        return Spent(0.5, 0.5) if next(clock) % 200 < 2 else Spent(1.0, 0.0)

    history = run(now, machine, 600)
    assert sum(history) > 0.95 * 4 * len(history)


def test_who_waits_for_something_else_gets_help_soon() -> None:
    now = Concurrency(4)
    run(now, shared(1, lambda _: 0), 3)
    assert now.at_work == 1
    assert run(now, lambda _: Spent(0.2, 0.02), 1.0)[-1] == 4
    assert now.because == ""


def test_where_nothing_happens_it_is_looked_seldom_and_soon_again_when_something_does() -> None:
    now = Concurrency(2)
    run(now, shared(2, lambda _: 0), 5)
    assert now.pause(5.0) == pytest.approx(CALM * PERIOD)
    now.looked([Spent(0.25, 0.25)] * 2, 0.5, 5.5)
    assert (now.at_work, now.pause(5.5)) == (2, PERIOD)
    now.looked([Spent(0.05, 0.05)] * 2, PERIOD, 5.6)
    assert now.at_work == 1


def test_a_new_pass_is_looked_at_closely() -> None:
    now = Concurrency(2)
    run(now, shared(2, lambda _: 0), 5)
    now.interrupted()
    assert now.pause(5.0) == PERIOD


def test_nobody_looks_while_nothing_may_be_tried() -> None:
    """Six busy threads of others, and then none but our own: it is seen when it is time to see."""
    now = Concurrency(2)
    run(now, shared(2, lambda _: 6), 20)
    rest = now.pause(20.0)
    assert now.at_work == 2
    assert rest > 2.0
    assert now.pause(21.0) == pytest.approx(rest - 1.0)
    # What came before the rest, and the average of it, say nothing about what is.
    own = Spent(0.05, 0.05)
    now.looked([Spent(rest / 2, rest / 2)] * 2, rest, 20.0 + rest)
    assert (now.at_work, now.pause(20.0 + rest)) == (2, PERIOD)
    for look in range(1, LOOKS + 1):
        assert now.at_work == 2
        now.looked([own] * 2, PERIOD, 20.0 + rest + look * PERIOD)
    assert now.at_work == 1


def test_whether_one_more_helps_is_not_asked_all_the_time() -> None:
    """Two wait for each other, one waits for something else: neither is better for long."""
    now = Concurrency(2)
    history = run(now, lambda senders: Spent(0.25, 0.46) if senders == 2 else Spent(0.4, 0.05), 120)
    assert sum(before != after for before, after in pairwise(history)) < 20


def test_processors_that_become_free_are_found() -> None:
    now = Concurrency(2)
    run(now, shared(2, lambda senders: senders), 1)
    assert now.at_work == 1
    history = run(now, shared(2, lambda _: 0), AGAIN_SECONDS + 2)
    assert history[-1] == 2


def test_a_trial_that_cannot_be_judged_is_taken_back() -> None:
    now = Concurrency(2)
    run(now, shared(2, lambda senders: senders), (LOOKS + 2) * PERIOD)
    assert now.at_work == 1
    now.interrupted()
    assert now.at_work == 2
    run(now, shared(2, lambda senders: senders), 1.5)
    assert now.at_work == 1
    now.interrupted()
    assert now.at_work == 1, "that one had been judged"


def test_it_says_what_was_measured() -> None:
    now = Concurrency(4)
    run(now, shared(2, lambda _: 0), 10)
    assert now.at_work == 2
    assert now.because == "3 waited 33% of the time for a processor"


shares = st.floats(0, 1)


@given(st.integers(1, 8), st.lists(st.tuples(shares, shares, st.integers(0, 9), shares)))
def test_there_is_always_one_and_never_one_too_many(
    most: int, periods: list[tuple[float, float, int, float]]
) -> None:
    now, at = Concurrency(most), 0.0
    for ran, waited, missing, step in periods:
        at += step
        now.looked([Spent(ran, waited)] * max(0, now.at_work - missing // 8), step, at)
        assert 1 <= now.at_work <= most
        assert (now.because == "") is (now.at_work == most)


# --- asking the kernel ----------------------------------------------------------------------------


def test_the_kernel_says_how_long_a_thread_has_run() -> None:
    end = threading.Event()

    def spin() -> None:
        while not end.is_set():
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        assert thread.native_id is not None
        before = processor_times(thread.native_id)
        time.sleep(0.3)
        after = processor_times(thread.native_id)
    finally:
        end.set()
        thread.join()
    assert before is not None
    assert after is not None
    assert 0.01 < after.ran - before.ran < 1.0
    assert after.waited >= before.waited
    assert processor_times(2**22 + 1) is None


class Told:
    """A feed that keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def let_work(self, senders: int) -> None:
        self.told.append(senders)


@pytest.mark.parametrize("known", [True, False])
def test_the_feed_is_told_while_there_is_something_to_send(
    known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also that a kernel which does not say changes nothing."""
    monkeypatch.setattr(replicad.concurrency, "PERIOD_SECONDS", 0.001)
    feed, clock = Told(), [0.0]
    told = 1 if known else 2

    def times(_: int) -> Spent | None:
        clock[0] += PERIOD / 2  # of two threads
        return Spent(clock[0] / 2, clock[0] / 2) if known else None

    async def look() -> None:
        watch = Processors(cast(Any, feed), 2, lambda: [7, 8], times, lambda: clock[0])
        watch.begin()
        for _ in range(1000):
            await asyncio.sleep(0.002)
            if feed.told[-1:] == [told]:
                break
        watch.end()
        assert feed.told[-1] == told
        seen = len(feed.told)
        await asyncio.sleep(0.02)
        assert len(feed.told) == seen, "it looks although nothing is sent"

    asyncio.run(look())


def test_the_kernel_is_asked_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a processor: five times as seldom by and by."""
    monkeypatch.setattr(replicad.concurrency, "PERIOD_SECONDS", 0.01)
    asked: list[float] = []

    def times(thread: int) -> Spent:
        if thread == 7:
            asked.append(time.monotonic())
        return Spent(time.monotonic(), 0.0)

    async def look() -> None:
        watch = Processors(cast(Any, Told()), 2, lambda: [7, 8], times)
        watch.begin()
        await asyncio.sleep(1.0)
        watch.end()

    asyncio.run(look())
    assert 10 <= len(asked) <= 1.0 / 0.01 / CALM + CALM
    assert min(after - before for before, after in pairwise(asked[-5:])) > 0.04


def test_all_work_while_something_is_frozen() -> None:
    feed = Told()

    async def freeze() -> None:
        watch = Processors(cast(Any, feed), 3, lambda: [1, 2, 3])
        watch.concurrency.at_work = 1
        assert watch.at_work == 1
        watch.hurry(begin=True)
        watch.hurry(begin=True)
        watch.hurry(begin=False)
        assert feed.told == [3, 3, 3]
        assert (watch.at_work, watch.because) == (3, "")
        watch.hurry(begin=False)
        assert feed.told[-1] == 1

    asyncio.run(freeze())
