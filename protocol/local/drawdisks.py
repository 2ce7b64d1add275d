"""What of a job's disks is drawn: where each stands, what cannot be read, how it was taken up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from protocol.local.drawing import NONE, bar, instant, plain, table_of
from protocol.units import format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from protocol.views import DiskView
    from protocol.wire.jobs import Recovery


def disks(views: Sequence[DiskView]) -> RenderableType:
    """The disks of a job, with the progress of the pass that each is in."""
    columns = ("disk", "size", "pass", "progress", "dirty", "tracker", "intermediate")
    table = table_of(*columns, right=("size", "dirty"))
    for view in views:
        moving = view.pass_ in ("full", "compare", "delta")
        table.add_row(
            plain(view.path if view.device == view.path else f"{view.path} (now {view.device})"),
            format_size(view.size)
            + (f", {format_size(unused)} unused" if (unused := view.left_out_bytes) else ""),
            plain(view.pass_),
            bar(view.transferred_bytes, view.total_bytes) if moving else Text(NONE),
            format_size(view.dirty_bytes + view.in_flight_bytes),
            plain(f"{view.tracker} ({view.trust})" if view.trust else view.tracker),
            plain(view.intermediate),
        )
    bad = [_unreadable(view) for view in views if view.unreadable_bytes]
    lines = [recovery(view.path, view.recovery) for view in views if view.recovery]
    return Group(table, *bad, Text(), *lines) if lines else Group(table, *bad)


def _unreadable(view: DiskView) -> RenderableType:
    """Where a disk cannot be read: what an administrator looks for in dmesg."""
    places = [f"{each.offset}-{each.offset + each.length}" for each in view.unreadable]
    more = "" if sum(e.length for e in view.unreadable) == view.unreadable_bytes else ", ..."
    return plain(
        f"{view.path}: {format_size(view.unreadable_bytes)} cannot be read, at bytes "
        f"{', '.join(places)}{more}; tried again by itself, no checkpoint until then",
        "bold red",
    )


def recovery(path: str, value: Recovery) -> RenderableType:
    """How a disk's copy was taken up the last time, and what that has cost."""
    cost = f"{format_size(value.bytes_read)} read, {format_size(value.bytes_sent)} sent"
    end = f", ended {instant(value.ended)}" if value.ended else ", goes on"
    style = "" if value.ended or value.grade == "intact" else "yellow"
    return plain(
        f"{path}: {value.grade} since {instant(value.since)}, {value.reason}; {cost}{end}", style
    )
