"""The command line of ``receiver``: the daemon itself, and the client of its control socket.

``job`` holds what is asked about jobs, ``places`` about sources, codes and disks, ``values``
what jobs take as arguments. Imports of anything heavy are inside the commands that need them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from protocol.local.door import Door, checked
from receiver import __version__
from receiver.cli.job import job
from receiver.cli.places import activation, disk, source

if TYPE_CHECKING:
    from receiver.config import Config


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Default: /etc/receiver/receiver.toml.",
)
@click.option("--check", is_flag=True, help="Check the configuration and end.")
@click.version_option(__version__, prog_name="receiver")
@click.pass_context
def program(context: click.Context, *, path: Path | None, check: bool) -> None:
    """Keeps copies of the disks of running servers."""

    def load() -> Config:
        from receiver.config import load as read  # noqa: PLC0415 - not for --help

        return read(path)

    if check:
        checked(load)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        context.exit(2)
    context.obj = Door("receiver", lambda: load().runtime)
    context.meta["receiver.load"] = load


@program.command()
@click.pass_context
def run(context: click.Context) -> int:
    """Be the daemon, in the foreground."""
    from receiver.daemon import run as serve  # noqa: PLC0415 - the whole receiver

    return serve(context.meta["receiver.load"]())


for part in (activation, source, job, disk):
    program.add_command(part)


def main() -> None:
    """The entry point of ``receiver``."""
    from protocol.admin.command import run as end_with  # noqa: PLC0415 - not for imports

    sys.exit(end_with(program))
