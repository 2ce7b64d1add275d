"""How every command of ours ends: what it prints, where, and with which exit code.

An error that has a code is one line on standard error and its remedy below it; with
``--json`` it is an object on standard output, so that a script parses one stream. Exit codes
are those of :class:`protocol.errors.Exit`.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

import click
import msgspec

from protocol.errors import USAGE, Exit, Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    Value = TypeVar("Value")

# 128 + SIGINT, as shells report it.
INTERRUPTED: Final = 130


def run(program: click.Command, arguments: Sequence[str] | None = None) -> int:
    """Run a click program and return its exit code: ``sys.exit(run(program))``."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    try:
        result = program.main(given, standalone_mode=False)
        sys.stdout.flush()
    except Fault as fault:
        return report(fault, as_json=as_json)
    except click.ClickException as error:
        return _misused(error, as_json=as_json)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough (`| head`). Python flushes standard output once more at
        # its end, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    return result if isinstance(result, int) else Exit.DONE


def _misused(error: click.ClickException, *, as_json: bool) -> int:
    """What click refused: its own words with the usage, or our USAGE fault as JSON."""
    if as_json:
        return report(USAGE.fault(problem=error.format_message()), as_json=True)
    error.show()
    return Exit.USAGE


def report(fault: Fault, *, as_json: bool) -> int:
    """Show a fault to the user; its exit code."""
    if as_json:
        error = {**fault.as_dict(), "exit": int(fault.exit_code)}
        click.echo(msgspec.json.encode({"error": error}).decode())
    else:
        click.echo(f"{fault.code}: {fault.sentence}", err=True)
        click.echo(f"  \N{RIGHTWARDS ARROW} {fault.remedy}", err=True)
    return fault.exit_code


def emit(value: Value, *, as_json: bool, human: Callable[[Value], object]) -> None:
    """Print ``value`` as one line of JSON, or let ``human`` show it to a person."""
    if as_json:
        click.echo(msgspec.json.encode(value).decode())
    else:
        human(value)
