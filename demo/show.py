"""What the demo prints: steps, a progress that follows the job, and the table at the end.

On a terminal the progress is one line that moves; elsewhere (a log, a test) a plain line a second.
"""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from protocol.local.drawing import seconds
from protocol.units import format_rate, format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from demo.compare import Comparison

LINE_SECONDS = 1.0
PIPE_COLUMNS = 120


@dataclass(frozen=True, slots=True)
class Taken:
    """One checkpoint of the demo: bytes since the one before it, and what the comparison said."""

    epoch: int
    consistency: str
    frozen_seconds: float
    logical_bytes: int
    wire_bytes: int
    comparison: Comparison | None


class Screen:
    """Where the demo prints."""

    def __init__(self, console: Console | None = None) -> None:
        width = None if sys.stdout.isatty() else PIPE_COLUMNS
        self.console = console or Console(highlight=False, width=width)
        self._begun = time.monotonic()

    def step(self, sentence: str) -> None:
        """One line about what happens now, with the seconds since the start."""
        elapsed = time.monotonic() - self._begun
        self.console.print(f"{elapsed:5.1f} s  {sentence}", markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def following(self) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Gives a function that shows a ``job show`` as progress."""
        if not self.console.is_terminal:
            last = -LINE_SECONDS

            def line(job: dict[str, Any]) -> None:
                nonlocal last
                if time.monotonic() - last >= LINE_SECONDS:
                    last = time.monotonic()
                    self.step(f"  {_figures(job)}")

            yield line
            return
        columns = (TextColumn("         "), BarColumn(30), TextColumn("{task.description}"))
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task("")

            def move(job: dict[str, Any]) -> None:
                done, total = _sum(job, "transferred_bytes"), _sum(job, "total_bytes")
                progress.update(
                    task, completed=done, total=max(1, total), description=_figures(job)
                )

            yield move

    def table(self, rows: list[Taken]) -> None:
        """The checkpoints, one a line."""
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2))
        for name in ("epoch", "consistency", "frozen", "changed", "on the wire", "comparison"):
            table.add_column(name, justify="left" if name == "comparison" else "right")
        for row in rows:
            table.add_row(
                str(row.epoch),
                row.consistency,
                f"{row.frozen_seconds * 1000:.0f} ms",
                format_size(row.logical_bytes),
                format_size(row.wire_bytes),
                str(row.comparison or "not compared (no witness)"),
            )
        self.console.print(table)


def _figures(job: dict[str, Any]) -> str:
    passes = ", ".join(sorted({disk["pass"] for disk in job["disks"]}))
    dirty = _sum(job, "dirty_bytes") + _sum(job, "in_flight_bytes")
    return (
        f"{job['state']}: pass {passes}, {format_size(_sum(job, 'transferred_bytes'))} of "
        f"{format_size(_sum(job, 'total_bytes'))} at {format_rate(job['speed_bytes_per_second'])}, "
        f"{seconds(job['remaining_seconds'])} left, dirty {format_size(dirty)}"
    )


def _sum(job: dict[str, Any], key: str) -> int:
    return sum(disk[key] for disk in job["disks"])
