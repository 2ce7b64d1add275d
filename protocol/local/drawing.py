"""What every drawing is made of: text that is safe to show, times, a bar, tables.

What a peer sent is drawn as :class:`~rich.text.Text`, never as rich's markup: a source must not be
able to write colours or links on the administrator's terminal.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from protocol.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

NONE = "-"
BAR = 24
"""Width of a progress bar in characters."""


def plain(value: object, style: str = "") -> Text:
    """Text that shows control characters instead of obeying them; None is a dash."""
    text = NONE if value is None or value == "" else str(value)
    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text), style)


def seconds(value: float | None) -> str:
    """``83.4`` -> ``1m23s``; below ten seconds with a digit more; a dash for "cannot say"."""
    if value is None or not 0 <= value < inf:
        return NONE  # also what a peer says and cannot be
    return f"{value:.1f}s" if 0 < value < 10 else format_duration(round(value))


def duration(value: float) -> str:
    """A configured duration, exactly."""
    return format_duration(value) if 0 <= value < inf else NONE


def instant(value: str | None) -> Text:
    """An RFC 3339 instant to the second: people do not read microseconds."""
    whole, dot, fraction = (value or "").partition(".")
    return plain(whole + fraction.lstrip("0123456789") if dot else value)


def milliseconds(value: float) -> str:
    """How long a freeze was: ``0.0834`` -> ``83 ms``."""
    return f"{value * 1000:.0f} ms"


def table_of(*columns: str, right: Sequence[str] = ()) -> Table:
    """A table without lines; the columns named in ``right`` are numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def facts(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    """Two columns without a head: what, and its value."""
    made = Table.grid(padding=(0, 2))
    for name, value in rows:
        made.add_row(Text(name, "dim"), value)
    return made


def bar(done: int, total: int) -> Text:
    """``##########......  41%``, in characters that every terminal and log file has."""
    share = min(1.0, done / total) if total > 0 else 1.0
    filled = int(share * BAR)
    # never 100 % before the last byte: a full bar that does not end is a broken promise
    percent = 100 if total <= done else min(99, int(share * 100))
    return Text("#" * filled + "." * (BAR - filled) + f" {percent:3d}%")
