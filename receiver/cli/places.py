"""``receiver activation``, ``source`` and ``disk``: who may send, and where the copies are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from protocol.local.arguments import DURATION
from protocol.local.door import as_json

if TYPE_CHECKING:
    from protocol.local.door import Door


@click.group()
def activation() -> None:
    """Codes with which sources enrol."""


@activation.command("create")
@click.option(
    "--uses", type=click.IntRange(min=1), default=1, show_default=True, help="So many sources."
)
@click.option("--valid", type=DURATION, default="7d", show_default=True, help="For so long.")
@as_json
@click.pass_obj
def create_code(door: Door, /, *, uses: int, valid: float, as_json: bool) -> None:
    """Make a code and print it, this once: the receiver keeps only its digest."""
    params = {"uses": uses, "valid_seconds": valid}
    door.show("activation.create", "activation", as_json=as_json, **params)


@activation.command("list")
@as_json
@click.pass_obj
def list_codes(door: Door, /, *, as_json: bool) -> None:
    """The codes that can still be used, without the codes themselves."""
    door.show("activation.list", "activations", as_json=as_json)


@click.group()
def source() -> None:
    """The servers that have enrolled."""


@source.command("list")
@as_json
@click.pass_obj
def list_sources(door: Door, /, *, as_json: bool) -> None:
    """All sources, one a line."""
    door.show("source.list", "sources", as_json=as_json)


@source.command("show")
@click.argument("name")
@as_json
@click.pass_obj
def show_source(door: Door, /, *, name: str, as_json: bool) -> None:
    """One source and the disks that it offers."""
    door.show("source.show", "source", as_json=as_json, name=name)


@source.command("forget")
@click.argument("name")
@as_json
@click.pass_obj
def forget_source(door: Door, /, *, name: str, as_json: bool) -> None:
    """Refuse this source from now on, until it enrols again."""
    answer = door.ask("source.forget", name=name)
    door.say(answer, f"forgot {name}", as_json=as_json)


@click.group()
def disk() -> None:
    """The intermediate disks."""


@disk.command("list")
@click.argument("job", metavar="[ID]", required=False)
@as_json
@click.pass_obj
def list_disks(door: Door, /, *, job: str | None, as_json: bool) -> None:
    """The intermediate disks of all jobs, or of one."""
    door.show("disk.list", "intermediates", as_json=as_json, job=job)


@disk.command("path")
@click.argument("job", metavar="ID")
@click.argument("disk", metavar="DISK")
@as_json
@click.pass_obj
def path(door: Door, /, *, job: str, disk: str, as_json: bool) -> None:
    """Where the copy of DISK is on this host."""
    answer: dict[str, Any] = door.ask("disk.path", job=job, disk=disk)
    door.say(answer, answer["path"], as_json=as_json)
