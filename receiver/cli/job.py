"""``receiver job``: what an administrator asks for, in the words of the control socket.

Nothing is decided here. A command parses what was typed, sends one request and shows the
answer; which states allow what is the daemon's table (``receiver/jobs/states.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from protocol.local.arguments import COMPRESSION, DURATION, FREE_SPACE, RATE
from protocol.local.door import as_json, timeout, wait
from receiver.cli.values import START, TARGET, Create, changes

if TYPE_CHECKING:
    from protocol.local.door import Door


@click.group()
def job() -> None:
    """Copies of sources: create, watch, steer, checkpoint, cut over."""


@job.command(cls=Create)
@click.option("--source", required=True, metavar="NAME", help="The enrolled source to copy.")
@click.option("--name", default="", help="What people call the job.")
@click.option(
    "--disk",
    "disks",
    multiple=True,
    metavar="PATH",
    help="A disk of the source; repeat for more. Default: all that it offers.",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    type=TARGET,
    metavar="raw|device:PATH",
    help="Where a copy goes: one for each --disk, in their order. Default: raw for all.",
)
@click.option(
    "--start",
    type=START,
    metavar="now|at TIME|manual",
    default="now",
    show_default=True,
    help="TIME is RFC 3339 with a zone.",
)
@click.option(
    "--every",
    type=DURATION,
    help="Sync and checkpoint on this schedule (4h). Default: keep the copy close all the time.",
)
@click.option("--keep", type=int, default=3, show_default=True, help="Preserved checkpoints.")
@click.option(
    "--bandwidth", type=RATE, default="unlimited", show_default=True, help="On the wire: 200Mbit."
)
@click.option(
    "--compress",
    type=COMPRESSION,
    metavar="auto|none|1..19",
    default="auto",
    show_default=True,
    help="auto: as hard as it makes the copy faster; or a level of zstd.",
)
@click.option(
    "--free-space",
    type=FREE_SPACE,
    default="auto",
    show_default=True,
    help="Free space and swap: skip leaves them out; auto does where it spares a GiB or more.",
)
@click.option(
    "--freeze-budget",
    type=DURATION,
    default="2s",
    show_default=True,
    help="A checkpoint may freeze the source so long.",
)
@click.option(
    "--valid", type=DURATION, default="30d", show_default=True, help="The job expires after this."
)
@as_json
@click.pass_obj
def create(
    door: Door,
    /,
    *,
    as_json: bool,
    disks: tuple[str, ...],
    targets: tuple[dict[str, str], ...],
    valid: float,
    **wanted: Any,
) -> None:
    """Copy a source's disks and keep the copies close."""
    if targets and len(targets) != max(1, len(disks)):
        raise click.UsageError(f"{len(targets)} targets do not fit {len(disks)} disks")
    if not disks and any(target["kind"] == "device" for target in targets):
        raise click.UsageError("a target device needs its --disk: name every disk")
    each = targets or ({"kind": "raw"},) * len(disks)
    params = {**wanted, "disks": disks, "targets": each, "valid_seconds": valid}
    door.show("job.create", "job", as_json=as_json, **params)


@job.command("list")
@as_json
@click.pass_obj
def list_(door: Door, /, *, as_json: bool) -> None:
    """All jobs, one a line."""
    door.show("job.list", "jobs", as_json=as_json)


def _plain(action: str, text: str) -> None:
    """A command that takes a job and shows it as it is afterwards."""

    @job.command(action, help=text)
    @click.argument("job_id", metavar="ID")
    @as_json
    @click.pass_obj
    def command(door: Door, /, *, job_id: str, as_json: bool) -> None:
        door.show(f"job.{action}", "job", as_json=as_json, job=job_id)


_plain("show", "All of one job. ID is its id, the start of it, or its name.")
_plain("start", "Start a job that was created with --start manual or at, or that expired.")
_plain("pause", "Stop sending; what changes is remembered.")
_plain("resume", "Go on after a pause, or release a checkpoint that is held.")
_plain("retry", "Go on after an error.")
_plain("cancel", "End the job; the intermediate disks stay until 'job delete'.")


@job.command()
@click.argument("job_id", metavar="ID")
@as_json
@click.pass_obj
def delete(door: Door, /, *, job_id: str, as_json: bool) -> None:
    """Forget a job that has ended, and remove its intermediate disks."""
    answer = door.ask("job.delete", job=job_id)
    door.say(answer, f"deleted {answer['deleted']}", as_json=as_json)


@job.command("set")
@click.argument("job_id", metavar="ID")
@click.argument("pairs", metavar="KEY=VALUE...", nargs=-1, required=True)
@as_json
@click.pass_obj
def set_(door: Door, /, *, job_id: str, pairs: tuple[str, ...], as_json: bool) -> None:
    """Change a job while it runs.

    Keys: bandwidth, compress, every, free_space, freeze_budget, keep, name, valid. 'every=none'
    ends the schedule, 'valid=none' lets the job never expire.
    """
    door.show("job.set", "job", as_json=as_json, job=job_id, changes=changes(pairs))


@job.command()
@click.argument("job_id", metavar="ID")
@wait
@click.option("--hold", is_flag=True, help="Leave the copies exactly there until 'job resume'.")
@timeout
@as_json
@click.pass_obj
def checkpoint(door: Door, /, *, job_id: str, **how: Any) -> None:
    """Freeze the source for a moment and make the copies identical."""
    door.order("job.checkpoint", job=job_id, **how)


@job.command()
@click.argument("job_id", metavar="ID")
@wait
@timeout
@as_json
@click.pass_obj
def cutover(door: Door, /, *, job_id: str, **how: Any) -> None:
    """Take the last checkpoint and end the job."""
    door.order("job.cutover", job=job_id, **how)


@job.command()
@click.argument("job_id", metavar="ID")
@wait
@click.option("--repair", is_flag=True, help="Send what differs, and compare it again.")
@timeout
@as_json
@click.pass_obj
def verify(door: Door, /, *, job_id: str, **how: Any) -> int:
    """Compare the copies with the source while both live.

    What is written meanwhile is left out. With --wait the exit code is 1 when something differs
    and was not repaired.
    """
    return door.verify("job.verify", job=job_id, **how)
