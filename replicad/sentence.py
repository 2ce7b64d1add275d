"""What the job is doing, in one sentence that an administrator can act on.

Made from the report and nothing else, so it cannot say what the figures do not:
"compare pass: rebooted at 03:12 UTC, 40 GiB to read, 205 MiB differ so far, 6m left".
"""

from __future__ import annotations

from collections.abc import Sequence

from protocol.units import format_duration, format_size
from protocol.wire.jobs import Convergence, DiskReport, PassKind
from replicad.forecast import megabits

# The pass that matters most when disks are in different ones.
_RANK: dict[PassKind, int] = {"compare": 3, "full": 2, "delta": 1, "idle": 0}

LAG_SECONDS = 10.0
"""A copy that is less behind than this is called close."""


def describe(
    disks: Sequence[DiskReport],
    remaining: float | None,
    lag: float,
    convergence: Convergence | None = None,
) -> str:
    """The sentence for a job that is syncing.

    Args:
        disks: as reported.
        remaining: seconds until the pass ends, None when nobody can say.
        lag: seconds since the oldest change that the receiver does not hold.
        convergence: whether the line keeps up with what is written.
    """
    if not disks:
        return ""
    said = [_doing(disks, remaining, lag)]
    if convergence is not None and convergence.state == "not converging":
        needed = convergence.needed_bytes_per_second or 0.0
        said.append(f"not converging, more than {megabits(needed)} are needed")
    if bad := [disk for disk in disks if disk.unreadable_bytes]:
        size = format_size(sum(disk.unreadable_bytes for disk in bad))
        said.append(f"{size} of {', '.join(disk.path for disk in bad)} cannot be read")
    return "; ".join(said)


def _doing(disks: Sequence[DiskReport], remaining: float | None, lag: float) -> str:
    kind = max((disk.pass_ for disk in disks), key=_RANK.__getitem__)
    inside = [disk for disk in disks if disk.pass_ == kind]
    left = sum(max(0, disk.total_bytes - disk.transferred_bytes) for disk in inside)
    end = f", {format_duration(round(remaining))} left" if remaining and remaining >= 1 else ""
    if kind == "compare":
        reason = next((disk.trust for disk in inside if disk.trust), "").removeprefix("comparing: ")
        differs = sum(disk.differing_bytes for disk in inside)
        return (
            f"compare pass: {reason}, {format_size(left)} to read, "
            f"{format_size(differs)} differ so far{end}"
        )
    if kind == "full":
        return f"full pass: {format_size(left)} to go{end}"
    dirty = sum(disk.dirty_bytes for disk in disks)
    if kind == "delta":
        return f"delta pass: {format_size(left)} to go{end}"
    if not dirty:
        return "the copy is complete"
    if lag < LAG_SECONDS:
        return f"the copy is close: {format_size(dirty)} behind"
    return f"the copy is {format_size(dirty)} and {format_duration(round(lag))} behind"
