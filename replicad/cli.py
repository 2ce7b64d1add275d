"""The command line of ``replicad``: the daemon itself, and the client of its control socket.

``enroll``, ``check``, ``estimate`` and ``inventory`` work without the daemon: they are what an
administrator does before there is one. Imports of anything heavy are inside the commands that
need them, so that ``replicad status`` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from protocol.local.arguments import RATE
from protocol.local.door import Door, as_json, checked, secret_argument, timeout, wait
from replicad import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from protocol.local.values import Address
    from protocol.wire.jobs import DiskInfo
    from replicad.config import Config

CONTROL_PORT = 8080
"""Where a receiver listens when ``--receiver`` names no port."""

LOADER = "replicad.load"
"""Where a command finds the function that reads the configuration."""


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Default: /etc/replicad/replicad.toml.",
)
@click.option("--check", is_flag=True, help="Check the configuration and end.")
@click.version_option(__version__, prog_name="replicad")
@click.pass_context
def program(context: click.Context, *, path: Path | None, check: bool) -> None:
    """Copies the disks of this server to a receiver while it works."""

    def load() -> Config:
        from replicad.config import load as read  # noqa: PLC0415 - not for --help

        return read(path)

    if check:
        checked(load)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        context.exit(2)
    context.obj = Door("replicad", lambda: load().runtime)
    context.meta[LOADER] = load


def _config() -> Config:
    return cast("Callable[[], Config]", click.get_current_context().meta[LOADER])()


@program.command()
def run() -> int:
    """Be the daemon, in the foreground."""
    from replicad.daemon import run as serve  # noqa: PLC0415 - the whole source

    return serve(_config())


# --- before there is a daemon ------------------------------------------------------------------


@program.command()
@click.argument("code")
@click.option("--receiver", "address", required=True, metavar="HOST[:PORT]")
@click.option("--replace", is_flag=True, help="Leave the receiver it is enrolled with.")
@as_json
def enroll(*, code: str, address: str, replace: bool, as_json: bool) -> None:
    """Register this server with a receiver.

    CODE is what 'receiver activation create' printed; '-' reads it from standard input, where
    other users of this machine cannot see it.
    """
    from protocol.local.values import parse_address  # noqa: PLC0415 - not for --help
    from replicad.enrol import enrol  # noqa: PLC0415 - cryptography

    try:
        receiver = parse_address(address, CONTROL_PORT)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    config = _config()
    enrol(config, secret_argument(code), receiver.host, receiver.port, replace)
    answer = {"name": config.source.name, "receiver": str(receiver)}
    _door().say(answer, f"{config.source.name} is enrolled with {receiver}", as_json=as_json)


@program.command()
@as_json
def check(*, as_json: bool) -> int:
    """Does this machine have what replication takes? Exit code 1 when there is a problem."""
    from replicad.check import everything  # noqa: PLC0415 - ctypes, sockets

    config = _config()
    items = everything(config, _receiver(config))
    _door().emit(items, "checks", as_json=as_json)
    return 1 if any(item.level == "problem" for item in items) else 0


def _receiver(config: Config) -> Address | None:
    """Where the receiver is that this source has enrolled with; None for nowhere yet."""
    from protocol.errors import NOT_ENROLLED, Fault  # noqa: PLC0415 - not for status
    from protocol.identity import load_identity  # noqa: PLC0415 - cryptography
    from protocol.local.values import parse_address  # noqa: PLC0415

    try:
        return parse_address(load_identity(config.state.directory).address)
    except Fault as fault:
        if fault.code != NOT_ENROLLED.code:
            raise
        return None


@program.command()
@click.option("--disk", "paths", multiple=True, metavar="PATH", help="Default: all disks.")
@as_json
def estimate(*, paths: Sequence[str], as_json: bool) -> None:
    """Sample the disks, a few seconds each: how much is on them, how long would a copy take?"""
    from replicad.estimate import estimate as sample  # noqa: PLC0415 - numpy, zstandard

    disks = [(info.path, info.size) for info in _inventory(paths)]
    door = _door()
    with door.progress(as_json=as_json) as progress:
        view = sample(disks, progress=progress)
    door.emit(view, "estimate", as_json=as_json)


@program.command()
@as_json
def inventory(*, as_json: bool) -> None:
    """The disks that may be copied, and what is on them."""
    from replicad.inventory import inventory_report  # noqa: PLC0415 - not for status

    report = inventory_report(_config().source.disks)
    _door().emit(report if as_json else report["disks"], "inventory", as_json=as_json)


def _inventory(paths: Sequence[str]) -> Sequence[DiskInfo]:
    """The configured disks, or those among them that ``paths`` names."""
    from protocol.errors import SOURCE_DISK_FORBIDDEN  # noqa: PLC0415 - not for status
    from replicad.inventory import disks_of  # noqa: PLC0415

    found = {info.path: info for info in disks_of(_config().source.disks)}
    for path in paths:
        if path not in found:
            raise SOURCE_DISK_FORBIDDEN.fault(path=path)
    return [found[path] for path in paths or found]


def _door() -> Door:
    return cast("Door", click.get_current_context().obj)


# --- asked of the daemon -----------------------------------------------------------------------


@program.command()
@click.option("--watch", is_flag=True, help="Go on showing it until Ctrl-C.")
@as_json
def status(*, watch: bool, as_json: bool) -> None:
    """What is being copied, how fast, how long still."""
    if watch:
        _door().watch("status.watch", "status", as_json=as_json)
    else:
        _door().show("status", "status", as_json=as_json)


@program.command()
@as_json
def pause(*, as_json: bool) -> None:
    """Stop sending; what changes is remembered."""
    _ask("pause", as_json=as_json)


@program.command()
@as_json
def resume(*, as_json: bool) -> None:
    """Go on after a pause, or release a checkpoint that is held."""
    _ask("resume", as_json=as_json)


@program.command()
@click.argument("bandwidth", metavar="RATE", type=RATE)
@as_json
def limit(*, bandwidth: int, as_json: bool) -> None:
    """Send at most RATE on the wire: 200Mbit, 25MB/s, unlimited."""
    _ask("limit", as_json=as_json, bandwidth=bandwidth)


def _ask(method: str, *, as_json: bool, **params: Any) -> None:
    """A change of the job: the receiver decides it and answers with the job."""
    _door().show(method, "job", as_json=as_json, **params)


@program.command()
@wait
@click.option("--hold", is_flag=True, help="Leave the copies exactly there until 'resume'.")
@timeout
@as_json
def checkpoint(**how: Any) -> None:
    """Freeze the filesystems for a moment and make the copies identical."""
    _door().order("checkpoint", **how)


@program.command()
@wait
@timeout
@as_json
def cutover(**how: Any) -> None:
    """Take the last checkpoint and end the job."""
    _door().order("cutover", **how)


@program.command()
@wait
@click.option("--repair", is_flag=True, help="Send what differs, and compare it again.")
@timeout
@as_json
def verify(**how: Any) -> int:
    """Compare the copies with the disks while both live; exit code 1 when something differs."""
    return _door().verify("verify", **how)


def main() -> None:
    """The entry point of ``replicad``."""
    from protocol.admin.command import run as end_with  # noqa: PLC0415 - not for imports

    sys.exit(end_with(program))


if __name__ == "__main__":
    main()
