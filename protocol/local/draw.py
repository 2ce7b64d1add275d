"""Draws what the commands answer, for people: tables, progress, one disk a line.

Both command lines show jobs and disks, so both draw them here. Each function takes a view and
returns something that rich can print; nothing here prints, asks or waits, so tests draw on a
recording console. A value that is not there is drawn as a dash, never as a zero.

What a peer sent (names, paths, sentences) is drawn as :class:`~rich.text.Text`, never as rich's
markup: a source must not be able to write colours or links on the administrator's terminal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from protocol.local.drawdisks import disks
from protocol.local.drawing import (
    NONE,
    duration,
    facts,
    instant,
    milliseconds,
    plain,
    seconds,
    table_of,
)
from protocol.units import format_limit, format_rate, format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from protocol.views import (
        ActivationRow,
        ActivationView,
        CheckItem,
        CheckpointResult,
        CheckpointView,
        CompressionView,
        EstimateView,
        IntermediateView,
        JobStatus,
        JobView,
        SourceStatus,
        SourceView,
        VerifiedView,
    )
    from protocol.wire.jobs import Convergence, DiskInfo, ErrorInfo

RANGES = 12
"""Differing ranges of a verification that are drawn; --json has more."""

STATE_STYLES = {
    "error": "bold red",
    "expired": "red",
    "paused": "yellow",
    "finished": "green",
    "syncing": "cyan",
    "checkpointing": "cyan",
}
LEVEL_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "problem": "bold red"}


# --- jobs ------------------------------------------------------------------------------------


def jobs(views: Sequence[JobView]) -> RenderableType:
    """``job list``: one line a job."""
    if not views:
        return Text("no jobs")
    right = ("epoch", "speed", "remaining")
    columns = ("id", "name", "source", "state", "epoch", "speed", "remaining", "doing")
    table = table_of(*columns, right=right)
    for view in views:
        table.add_row(
            plain(view.id),
            plain(view.name),
            plain(view.source),
            state(view),
            str(view.epoch),
            format_rate(view.speed_bytes_per_second),
            seconds(view.remaining_seconds),
            plain(view.error.message if view.error else view.sentence),
        )
    return table


def state(view: JobView | JobStatus) -> Text:
    """The state in its colour; on the receiver also why it ended and whether it is held."""
    text = plain(view.state, STATE_STYLES.get(view.state, ""))
    for word in (getattr(view, "outcome", ""), "held" if getattr(view, "held", False) else ""):
        if word:
            text.append(f" ({word})")
    return text


def job(view: JobView) -> RenderableType:
    """``job show``: all of one job."""
    rows: list[tuple[str, RenderableType]] = [
        ("job", plain(f"{view.name} ({view.id})")),
        ("source", plain(view.source + ("" if view.connected else ", not connected"))),
        *_progress(view),
        ("limit", Text(f"{format_limit(view.bandwidth)}, compression {view.compress}")),
        ("freeze", Text(f"at most {duration(view.freeze_budget)}")),
        *([("syncs", _syncs(view))] if view.sync_seconds is not None else []),
        ("schedule", Text(_schedule(view))),
        ("created", instant(view.created)),
        ("valid until", instant(view.valid_until)),
    ]
    return Group(
        facts(rows),
        *_error(view.error),
        Text(),
        disks(view.disks),
        *_checkpoint(view.checkpoint),
        *([Text(), verified(view.verified)] if view.verified else []),
    )


def _progress(view: JobView | JobStatus) -> list[tuple[str, RenderableType]]:
    """What the receiver's and the source's view of a running job have in common."""
    travelled = f"{format_size(view.logical_bytes)} of disk, {format_size(view.wire_bytes)} on wire"
    return [
        ("state", state(view)),
        ("doing", plain(view.sentence)),
        ("speed", Text(format_rate(view.speed_bytes_per_second))),
        ("remaining", Text(seconds(view.remaining_seconds))),
        ("sent", Text(travelled)),
        ("behind", Text(seconds(view.lag_seconds))),
        ("convergence", _convergence(view.convergence)),
        ("epoch", Text(str(view.epoch))),
    ]


def _compression(said: CompressionView) -> str:
    level = "none" if said.level is None else f"zstd {said.level}"
    mode = "auto, now " if said.mode == "auto" else ""
    return f"{mode}{level}: {said.because}"


def _convergence(said: Convergence) -> Text:
    """The sentence, in alarm when the writes outrun the line."""
    return plain(said.sentence, "bold yellow" if said.state == "not converging" else "")


def _syncs(view: JobView) -> Text:
    """How the receiver brings to stable storage what comes."""
    group, sync = milliseconds(view.group_seconds or 0.0), milliseconds(view.sync_seconds or 0.0)
    return Text(f"take {sync}, groups form for {group}")


def _schedule(view: JobView) -> str:
    if view.every is None:
        return "continuous"
    return f"every {duration(view.every)}, keeps {view.keep}, next {instant(view.next_sync)}"


def _error(error: ErrorInfo | None) -> list[RenderableType]:
    if error is None:
        return []
    return [Text(), plain(f"{error.code}: {error.message}", "bold red"), plain(error.remedy)]


def _checkpoint(view: CheckpointView | None) -> list[RenderableType]:
    if view is None:
        return []
    sentence = f"checkpoint {view.epoch} ({view.consistency}) of {instant(view.taken)}, frozen "
    kept = f": {view.preserved}" if view.preserved else ""
    return [Text(), plain(f"{sentence}{milliseconds(view.frozen_seconds)}{kept}")]


def checkpoint(view: CheckpointResult) -> RenderableType:
    """``job checkpoint --wait`` and ``job cutover --wait``."""
    held = "; the intermediate disks are held until 'job resume'" if view.held else ""
    # held and not preserved, the daemon's sentence would say the same again
    kept = f"; {view.preserved}" if view.preserved and (view.snapshot or not held) else ""
    return plain(
        f"checkpoint {view.epoch}: {view.consistency}, frozen {milliseconds(view.frozen_seconds)}"
        f"{kept}{held}"
    )


def verified(view: VerifiedView) -> RenderableType:
    """``job verify --wait``, and the last one of a job."""
    compared = f"verified {instant(view.when)}: {format_size(view.bytes_compared)} compared in "
    head = f"{compared}{seconds(view.seconds)}, "
    if not view.differing_bytes:
        return plain(f"{head}nothing differs", "green")
    repaired = "repaired" if view.repaired else "not repaired"
    style = "yellow" if view.repaired else "bold red"
    lines = [plain(f"{head}{format_size(view.differing_bytes)} differed, {repaired}", style)]
    shown = view.ranges[:RANGES]
    lines += [
        plain(f"  {each.path} at {each.offset}, {format_size(each.length)}") for each in shown
    ]
    more = len(view.ranges) - len(shown) + view.more_ranges
    if more:
        lines.append(plain(f"  and {more} more ranges"))
    return Group(*lines)


# --- the receiver's other things -------------------------------------------------------------


def activation(view: ActivationView) -> RenderableType:
    """``activation create``: the code alone on its line, to be copied."""
    return Group(
        plain(view.code), Text(f"valid until {instant(view.expires)}, {view.uses} use(s)", "dim")
    )


def activations(rows: Sequence[ActivationRow]) -> RenderableType:
    """``activation list``: what stands for a code is not the code."""
    if not rows:
        return Text("no activation codes")
    table = table_of("label", "used", "of", "created", "expires", right=("used", "of"))
    for row in rows:
        table.add_row(
            plain(row.label),
            str(row.used),
            str(row.uses),
            instant(row.created),
            instant(row.expires),
        )
    return table


def sources(views: Sequence[SourceView]) -> RenderableType:
    """``source list``."""
    if not views:
        return Text("no sources; 'receiver activation create' makes a code to enrol one")
    table = table_of("name", "connected", "address", "last seen", "disks", "job", right=("disks",))
    for view in views:
        table.add_row(
            plain(view.name),
            Text("yes", "green") if view.connected else Text("no", "yellow"),
            plain(view.address),
            instant(view.last_seen),
            str(len(view.disks)),
            plain(view.job),
        )
    return table


def source(view: SourceView) -> RenderableType:
    """``source show``: with the disks that it offers."""
    rows = [
        ("source", plain(view.name)),
        ("connected", Text("yes" if view.connected else "no")),
        ("address", plain(view.address)),
        ("enrolled", instant(view.enrolled)),
        ("last seen", instant(view.last_seen)),
        ("software", plain(view.software)),
        ("certificate", plain(view.certificate)),
        ("job", plain(view.job)),
    ]
    return Group(facts(rows), Text(), inventory(view.disks))


def inventory(infos: Sequence[DiskInfo]) -> RenderableType:
    """The disks of a source, and what is mounted from them."""
    if not infos:
        return Text("no disks")
    table = table_of("disk", "size", "kind", "model", "mounted", right=("size",))
    for info in infos:
        mounts = ", ".join(f"{mounted.mount} ({mounted.kind})" for mounted in info.mounted)
        table.add_row(
            plain(info.path),
            format_size(info.size),
            plain(info.kind),
            plain(info.model),
            plain(mounts),
        )
    return table


def intermediates(views: Sequence[IntermediateView]) -> RenderableType:
    """``disk list`` of the receiver."""
    if not views:
        return Text("no intermediate disks")
    columns = ("job", "source", "disk", "intermediate", "kind", "size", "allocated", "epoch", "use")
    table = table_of(*columns, right=("size", "allocated", "epoch"))
    for view in views:
        table.add_row(
            plain(view.job),
            plain(view.source),
            plain(view.path),
            plain(view.intermediate),
            plain(view.kind),
            format_size(view.size),
            format_size(view.allocated_bytes),
            str(view.epoch),
            "in use" if view.in_use else "free",
        )
    return table


# --- the source's things ---------------------------------------------------------------------


def status(view: SourceStatus) -> RenderableType:
    """``replicad status``."""
    if not view.enrolled:
        receiver = "not enrolled: 'replicad enroll CODE --receiver HOST'"
    else:
        receiver = f"{view.receiver or NONE}, {'' if view.connected else 'not '}connected"
        if view.sentence and not view.connected:
            receiver += f": {view.sentence}"
    tracker = view.tracker.name + (f", {view.tracker.misses} missed" if view.tracker.misses else "")
    if view.tracker.sentence:
        tracker += f": {view.tracker.sentence}"
    rows: list[tuple[str, RenderableType]] = [
        ("source", plain(view.name)),
        ("receiver", plain(receiver)),
        ("tracker", plain(tracker)),
    ]
    if view.job is None:
        return Group(facts([*rows, ("job", plain("none"))]))
    rows.append(("job", plain(f"{view.job.name} ({view.job.id})")))
    rows += _progress(view.job)
    rows.append(("limit", Text(format_limit(view.job.bandwidth))))
    sending = f"{view.job.connections}, extents of {format_size(view.job.extent_bytes)}"
    if view.job.cipher:
        sending += f", sealed with {view.job.cipher}"
    if view.job.congestion:
        sending += f", congestion control {view.job.congestion}"
    rows.append(("connections", Text(sending)))
    if (senders := view.job.senders).because:
        rows.append(("senders", plain(f"{senders.at_work} at work: {senders.because}")))
    rows.append(("compression", plain(_compression(view.job.compression))))
    rows += [
        ("reading", plain(f"{each.path} for {each.share:.0%} of the time: {each.because}"))
        for each in view.job.reading
        if each.share < 1.0
    ]
    return Group(facts(rows), *_error(view.job.error), Text(), disks(view.job.disks))


def checks(items: Sequence[CheckItem]) -> RenderableType:
    """``replicad check``: a line each, the remedy under what needs one."""
    table = Table.grid(padding=(0, 2))
    for item in items:
        sentence = plain(item.sentence)
        if item.remedy:
            sentence.append_text(Text("\n") + plain(item.remedy, "dim"))
        level = plain(item.level, LEVEL_STYLES.get(item.level, ""))
        table.add_row(level, plain(item.subject), sentence)
    return table


def estimate(view: EstimateView) -> RenderableType:
    """``replicad estimate``: what is on the disks and how long a first copy would take."""
    table = table_of("disk", "size", "used", "compresses", "reads at", right=("size", "used"))
    for disk in view.disks:
        table.add_row(
            plain(disk.path),
            format_size(disk.size),
            format_size(disk.used_bytes),
            f"{disk.compression_ratio:.2f} : 1",
            format_rate(disk.read_bytes_per_second),
        )
    times = table_of("at", "first copy takes", right=("first copy takes",))
    for rate, takes in view.seconds_at.items():
        times.add_row(plain(rate), seconds(takes))
    return Group(table, Text(), times, Text(), plain(view.sentence))
