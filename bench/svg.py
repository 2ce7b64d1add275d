"""A plot of a scaling question as SVG: a line through the medians, a bar for each spread."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from html import escape

from bench.contest import Answer

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 90, 20, 40, 60
TICKS = 5


_HEAD = (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
    ' font-family="sans-serif" font-size="12">'
)


@dataclass(frozen=True, slots=True)
class _Axis:
    """From a value to a place on the picture."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool

    def __call__(self, value: float) -> float:
        low, high = self._measure(self.low), self._measure(self.high)
        part = (self._measure(value) - low) / ((high - low) or 1.0)
        return self.start + part * (self.end - self.start)

    def _measure(self, value: float) -> float:
        return math.log(value) if self.logarithmic else value


def _text(x: float, y: float, words: str, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {place} stroke="{colour}"{more}/>'


def plot(answer: Answer) -> str:
    """The picture of a question that has a scale.

    Raises:
        ValueError: it has none.
    """
    scale = answer.scale
    if scale is None:
        raise ValueError(f"{answer.question.name} has no scale to plot")
    metric = answer.question.metrics[scale.metric]
    points = [(x, answer.series[name][scale.metric], name) for name, x in scale.at.items()]
    bounds = [
        verdict.goal.bound
        for verdict in answer.verdicts
        if verdict.goal.metric == scale.metric
        and not verdict.goal.peers
        and verdict.goal.bound is not None
    ]
    top = max([max(values) for _, values, _ in points] + bounds) * 1.1 or 1.0
    places = [x for x, _, _ in points]
    across = _Axis(min(places), max(places), LEFT + 30, WIDTH - RIGHT - 30, scale.logarithmic)
    up = _Axis(0.0, top, HEIGHT - BOTTOM, TOP, logarithmic=False)
    parts = [
        _HEAD,
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(WIDTH / 2, 20, answer.question.title, more=' font-size="14"'),
        _text(WIDTH / 2, HEIGHT - 12, scale.axis),
    ]
    for tick in range(TICKS + 1):
        value = top * tick / TICKS
        parts.append(_line(LEFT, up(value), WIDTH - RIGHT, up(value), "#ddd"))
        parts.append(_text(LEFT - 8, up(value) + 4, metric.text(value), "end"))
    dashes = ' stroke-dasharray="6 4"'
    parts += [_line(LEFT, up(b), WIDTH - RIGHT, up(b), "#c00", dashes) for b in bounds]
    medians = [(across(x), up(statistics.median(values))) for x, values, _ in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in medians)
    parts.append(f'<polyline points="{path}" fill="none" stroke="#036" stroke-width="2"/>')
    for (x, values, name), (at, y) in zip(points, medians, strict=True):
        parts.append(_line(at, up(min(values)), at, up(max(values)), "#036"))
        parts.append(f'<circle cx="{at:.1f}" cy="{y:.1f}" r="3.5" fill="#036"/>')
        parts.append(_text(across(x), HEIGHT - BOTTOM + 18, name))
    return "\n".join([*parts, "</svg>", ""])
