"""Alternating rounds of several contestants, and the ratio of their medians with its spread.

A figure of one machine at one moment says little; the ratio of two in the same run, taken in
turns, says more. The spread is that of the ratios of single rounds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Options:
    """How hard to try. ``rounds`` is how often each contestant runs."""

    quick: bool = False
    rounds: int = 5


@dataclass(frozen=True, slots=True)
class Contest:
    """A question and what was measured: values of each contestant, first one ours."""

    question: str
    values: dict[str, list[float]]

    @property
    def ratio(self) -> float:
        """Median of ours over median of the first peer."""
        ours, peer = list(self.values.values())[:2]
        return statistics.median(ours) / statistics.median(peer)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and highest ratio of a single round."""
        ours, peer = list(self.values.values())[:2]
        ratios = [a / b for a, b in zip(ours, peer, strict=True)]
        return min(ratios), max(ratios)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "ratio": self.ratio, "spread": self.spread}

    def __str__(self) -> str:
        lines = [self.question]
        lines += [
            f"  {name:12} {statistics.median(values) / 1e6:10.0f} MB/s"
            for name, values in self.values.items()
        ]
        low, high = self.spread
        lines.append(f"  ratio        {self.ratio:10.2f}      ({low:.2f} to {high:.2f})")
        return "\n".join(lines)


def alternate(
    question: str, contestants: Mapping[str, Callable[[], float]], options: Options
) -> Contest:
    """Run every contestant in turn, so that a slow minute hits all of them."""
    values: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(2 if options.quick else options.rounds):
        for name, contestant in contestants.items():
            values[name].append(contestant())
    return Contest(question, values)
