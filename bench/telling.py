"""What was measured, as a table and as data; ``README.md`` explains both."""

from __future__ import annotations

import math
import os
import platform
import statistics
from typing import Any

from bench.contest import RATIO, Answer, Metric, Verdict

SCHEMA = 1
"""Version of the JSON: raised when a key changes its meaning or goes away."""


def machine() -> dict[str, Any]:
    """What it was measured on; the load says whether others were at work."""
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        "load": list(os.getloadavg()),
    }


def table(answer: Answer) -> str:
    """A row a contestant with its medians and their spread, then the goals."""
    question = answer.question
    size = f" ({answer.size / (1 << 20):.0f} MiB)" if answer.size else ""
    lines = [f"{question.name}: {question.title}{size}"]
    shown = {
        k: m for k, m in question.metrics.items() if any(k in f for f in answer.series.values())
    }
    rows = [["", *(f"{key}, {metric.unit}".rstrip(", ") for key, metric in shown.items())]]
    for name, figures in answer.series.items():
        rows.append([name, *(_cell(figures.get(key), metric) for key, metric in shown.items())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append(("  " + "   ".join(cells)).rstrip())
    lines += [f"  {_goal(verdict, answer)}" for verdict in answer.verdicts]
    lines += [f"  note: {note}" for note in answer.notes]
    return "\n".join(lines)


def _cell(values: list[float] | None, metric: Metric) -> str:
    """Median and, in brackets, lowest and highest."""
    if values is None:
        return ""
    figures = (statistics.median(values), min(values), max(values))
    median, low, high = (f"{value * metric.scale:.{metric.digits}f}" for value in figures)
    return f"{median} ({low} to {high})"


def _goal(verdict: Verdict, answer: Answer) -> str:
    goal = verdict.goal
    metric = RATIO if goal.peers else answer.question.metrics[goal.metric]
    value, low, high = map(metric.text, (verdict.value, verdict.low, verdict.high))
    beside = f" against {verdict.peer}" if verdict.peer else f" ({goal.statistic})"
    word = "met   " if verdict.met else "MISSED"
    if goal.bound is None:
        word = "seen  "
    return f"{word} {goal.words}: {value} ({low} to {high}){beside}"


def as_dict(answer: Answer, seconds: float) -> dict[str, Any]:
    """A question's part of ``--json``."""
    question = answer.question
    return {
        "name": question.name,
        "title": question.title,
        "size_bytes": answer.size,
        "rounds": max(len(v) for figures in answer.series.values() for v in figures.values()),
        "seconds": seconds,
        "error": None,
        "units": {key: metric.unit for key, metric in question.metrics.items()},
        "values": answer.series,
        "medians": {
            name: {key: statistics.median(values) for key, values in figures.items()}
            for name, figures in answer.series.items()
        },
        "goals": [_goal_dict(verdict) for verdict in answer.verdicts],
        "scale": None
        if answer.scale is None
        else {
            "metric": answer.scale.metric,
            "axis": answer.scale.axis,
            "at": dict(answer.scale.at),
        },
        "notes": answer.notes,
    }


def _goal_dict(verdict: Verdict) -> dict[str, Any]:
    goal = verdict.goal
    return {
        "words": goal.words,
        "metric": goal.metric,
        "ours": goal.ours,
        "peer": verdict.peer,
        "statistic": goal.statistic,
        "relation": goal.relation,
        "bound": goal.bound,
        "value": _finite(verdict.value),
        "low": _finite(verdict.low),
        "high": _finite(verdict.high),
        "met": verdict.met,
    }


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None
