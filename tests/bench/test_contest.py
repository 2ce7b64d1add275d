"""Turns, medians, ratios and verdicts: what a benchmark says follows from what was measured."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from bench.contest import RATE, Figures, Goal, Options, Question, Scene, ask, quantity

TWO = {"replicad": {"rate": [3.0, 4.0, 5.0]}, "peer": {"rate": [2.0, 2.0, 4.0]}}


def question(scene: Scene, *goals: Goal, rounds: tuple[int, int] = (5, 2)) -> Question:
    @contextlib.contextmanager
    def made(_: Options) -> Iterator[Scene]:
        yield scene

    return Question("q", "a question", {"rate": RATE}, goals, made, rounds=rounds)


def test_a_ratio_is_that_of_the_medians_and_its_spread_that_of_rounds() -> None:
    verdict = Goal("w", "rate", ">=", 2.0, peers=("peer",)).judge(TWO)
    assert (verdict.value, verdict.low, verdict.high) == (2.0, 1.25, 2.0)
    assert verdict.met
    assert verdict.peer == "peer"
    assert not Goal("w", "rate", ">=", 2.01, peers=("peer",)).judge(TWO).met


@pytest.mark.parametrize(("relation", "best"), [(">=", "fast"), ("<=", "slow")])
def test_of_several_peers_the_best_one_counts(relation: str, best: str) -> None:
    series = {**TWO, "slow": {"rate": [1.0] * 3}, "fast": {"rate": [9.0] * 3}}
    goal = Goal("w", "rate", relation, 1.0, peers=("slow", "peer", "fast"))  # type: ignore[arg-type]
    assert goal.judge(series).peer == best


def test_without_peers_the_value_itself_is_held_against_the_bound() -> None:
    verdict = Goal("w", "rate", "<=", 4.0, statistic="max").judge(TWO)
    assert (verdict.value, verdict.low, verdict.high, verdict.met) == (5.0, 3.0, 5.0, False)


def test_what_is_only_reported_is_never_missed() -> None:
    assert Goal("w", "rate", ">=", None).judge(TWO).met


def test_nothing_is_no_reason_to_fail() -> None:
    series = {"replicad": {"rate": [1.0]}, "peer": {"rate": [0.0]}}
    assert Goal("w", "rate", ">=", 1.0, peers=("peer",)).judge(series).value == float("inf")


def test_p95_is_a_value_that_was_there() -> None:
    assert quantity([float(n) for n in range(1, 21)], "p95") == 19.0
    assert quantity([1.0, 2.0], "p95") == 2.0


def test_every_contestant_runs_in_every_round_and_the_order_turns() -> None:
    ran: list[str] = []

    def contestant(name: str) -> Figures:
        ran.append(name)
        return {"rate": float(len(ran))}

    rounds: list[int] = []
    scene = Scene(
        {name: lambda name=name: contestant(name) for name in ("a", "b", "c")},  # type: ignore[misc]
        before_round=lambda: rounds.append(len(ran)),
    )
    answer = ask(question(scene), Options(rounds=3))
    assert rounds == [0, 3, 6, 9], "a warm-up and three rounds"
    assert all(sorted(ran[at : at + 3]) == ["a", "b", "c"] for at in rounds)
    assert len({tuple(ran[at : at + 3]) for at in rounds}) > 1
    assert all(len(figures["rate"]) == 3 for figures in answer.series.values())
    assert list(answer.series) == ["a", "b", "c"]


def test_a_quick_run_is_short() -> None:
    ran: list[int] = []

    def contestant() -> Figures:
        ran.append(1)
        return {"rate": 1.0}

    ask(question(Scene({"replicad": contestant})), Options(quick=True))
    assert len(ran) == 2


def test_a_wrong_copy_ends_it_and_the_scene_is_taken_away() -> None:
    gone: list[bool] = []

    def broken() -> Figures:
        raise AssertionError("the copy differs")

    @contextlib.contextmanager
    def made(_: Options) -> Iterator[Scene]:
        try:
            yield Scene({"replicad": broken})
        finally:
            gone.append(True)

    with pytest.raises(AssertionError, match="differs"):
        ask(Question("q", "t", {"rate": RATE}, (), made), Options())
    assert gone == [True]


def test_sizes_and_counts_of_a_run() -> None:
    assert Options().bytes(10, 2) == 10
    assert Options(quick=True).bytes(10, 2) == 2
    assert Options(quick=True, size=1).bytes(10, 2) == 1
    assert [Options().pick(9, 3), Options(size=1).pick(9, 3)] == [9, 3]
