"""A question as data, its contestants in turns, and what follows for its goals.

A figure of one machine at one moment says little. The ratio of two that were taken in turns says
more: so every contestant runs once a round, the order turns from round to round, and what counts
is the ratio of the medians. Its spread is that of the ratios of single rounds.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, TypeVar

Figures = Mapping[str, float]
"""What one run of a contestant gave: values by the name of the metric."""

Contestant = Callable[[], Figures]
"""One run. Raises AssertionError when what it made is not what it should be."""

Number = TypeVar("Number", int, float)

Series = dict[str, dict[str, list[float]]]
"""Values by contestant and metric, one a round."""


@dataclass(frozen=True, slots=True)
class Options:
    """How hard to try.

    Attributes:
        quick: small sizes, few rounds, no warm-up: it shows that everything runs, not how fast.
        rounds: how often each contestant runs; None: as the question says.
        size: bytes of a disk; None: as the question says. Tests make it tiny.
    """

    quick: bool = False
    rounds: int | None = None
    size: int | None = None

    def bytes(self, full: int, quick: int) -> int:
        """The size of a disk in this run."""
        return self.size or (quick if self.quick else full)

    def pick(self, full: Number, quick: Number) -> Number:
        """A figure that is not bytes: another one in a quick run and in a tiny one."""
        return quick if self.quick or self.size else full


@dataclass(frozen=True, slots=True)
class Metric:
    """How a value is shown: multiplied by ``scale``, with so many ``digits``."""

    unit: str
    scale: float = 1.0
    digits: int = 2

    def text(self, value: float) -> str:
        """With its unit."""
        return f"{value * self.scale:.{self.digits}f} {self.unit}".rstrip()


RATE = Metric("MB/s", 1e-6, 0)
SECONDS = Metric("s", 1.0, 3)
MILLISECONDS = Metric("ms", 1e3, 1)
MEBIBYTES = Metric("MiB", 1 / (1 << 20), 1)
RATIO = Metric("", 1.0, 3)

Statistic = Literal["median", "p95", "max", "min"]


def quantity(values: list[float], statistic: Statistic) -> float:
    """A statistic of a list of values. p95 is the nearest rank: a value that was there."""
    if statistic == "median":
        return statistics.median(values)
    if statistic == "p95":
        return sorted(values)[-(len(values) * 5 // 100) - 1]
    return max(values) if statistic == "max" else min(values)


@dataclass(frozen=True, slots=True)
class Goal:
    """What is wanted: a ratio to the best of some peers, or without peers a value itself.

    Attributes:
        words: as a person would say it.
        ours: the contestant that it is about.
        peers: those it is held against; the one with the best median counts.
        bound: of the ratio, or in the base unit of the metric; None: it is only reported.
    """

    words: str
    metric: str
    relation: Literal[">=", "<="]
    bound: float | None
    ours: str = "replicad"
    peers: tuple[str, ...] = ()
    statistic: Statistic = "median"

    def judge(self, series: Series) -> Verdict:
        """What was reached. The series must hold every contestant named here."""
        ours = series[self.ours][self.metric]
        value = quantity(ours, self.statistic)
        if not self.peers:
            return Verdict(self, value, min(ours), max(ours), None)
        medians = {p: quantity(series[p][self.metric], self.statistic) for p in self.peers}
        best = (max if self.relation == ">=" else min)(medians, key=lambda peer: medians[peer])
        rounds = zip(ours, series[best][self.metric], strict=True)
        ratios = [_ratio(one, other) for one, other in rounds]
        return Verdict(self, _ratio(value, medians[best]), min(ratios), max(ratios), best)


def _ratio(one: float, other: float) -> float:
    return one / other if other else float("inf")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal and what was reached; ``low`` and ``high`` of single rounds."""

    goal: Goal
    value: float
    low: float
    high: float
    peer: str | None

    @property
    def met(self) -> bool:
        """Whether the goal is reached; without a bound there is nothing to miss."""
        if self.goal.bound is None:
            return True
        if self.goal.relation == ">=":
            return self.value >= self.goal.bound
        return self.value <= self.goal.bound


@dataclass(frozen=True, slots=True)
class Scale:
    """Contestants as points of a line: what is on the axes, and where each of them stands."""

    metric: str
    axis: str
    at: Mapping[str, float]
    logarithmic: bool = True


@dataclass(slots=True)
class Scene:
    """What a question has set up. ``notes`` are said below the table; a run may add to them.

    Attributes:
        size: bytes of the disk or disks, where that is one number.
        before_round: done once before each round, for all contestants alike.
    """

    contestants: dict[str, Contestant]
    size: int = 0
    before_round: Callable[[], None] | None = None
    notes: list[str] = field(default_factory=list)
    scale: Scale | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """One question. ``scene`` sets up and takes away again, whatever happens in between.

    Attributes:
        rounds: how often each contestant runs, in a full run and in a quick one.
        root: whether it makes block devices, mounts or BPF programs.
        warm_up: whether a first round is run that does not count.
    """

    name: str
    title: str
    metrics: Mapping[str, Metric]
    goals: tuple[Goal, ...]
    scene: Callable[[Options], AbstractContextManager[Scene]]
    rounds: tuple[int, int] = (5, 2)
    root: bool = False
    warm_up: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """What was measured."""

    question: Question
    series: Series
    verdicts: list[Verdict]
    notes: list[str]
    scale: Scale | None
    size: int


def tell(line: str) -> None:
    """Progress, for who waits."""
    print(line, file=sys.stderr, flush=True)


def ask(question: Question, options: Options) -> Answer:
    """Run every contestant in turns, so that a slow minute hits all of them.

    Raises:
        AssertionError: a copy differs from its original, or a contestant did not work.
    """
    count = options.rounds or question.rounds[1 if options.quick else 0]
    series: Series = {}
    with question.scene(options) as scene:
        warm = 1 if question.warm_up and not options.quick else 0
        for number in range(-warm, count):
            if scene.before_round is not None:
                scene.before_round()
            for name in _order(list(scene.contestants), number):
                figures = scene.contestants[name]()
                tell(_line(question, name, number, count, figures))
                if number >= 0:
                    of_this = series.setdefault(name, {})
                    for metric, value in figures.items():
                        of_this.setdefault(metric, []).append(value)
        ordered = {name: series[name] for name in scene.contestants}
    verdicts = [goal.judge(ordered) for goal in question.goals]
    return Answer(question, ordered, verdicts, scene.notes, scene.scale, scene.size)


def _order(names: list[str], number: int) -> list[str]:
    """Nobody is always the first, nor always behind the same one."""
    start = number % len(names)
    turned = names[start:] + names[:start]
    return turned if number % 2 == 0 else turned[::-1]


def _line(question: Question, name: str, number: int, count: int, figures: Figures) -> str:
    turn = f"round {number + 1} of {count}" if number >= 0 else "warm-up"
    said = ", ".join(
        metric.text(figures[key]) for key, metric in question.metrics.items() if key in figures
    )
    return f"  {question.name}: {turn}: {name}: {said}"
