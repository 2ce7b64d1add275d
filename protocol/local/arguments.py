"""What people type after a command: rates, durations, instants, as click's parameter types.

A wrong value is click's own usage error (exit code 2) whose text is the sentence of
:mod:`protocol.units`, which names what is accepted. The parsers are imported when a value is
parsed: most commands have none, and ``status`` should start at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable


class _Unit(click.ParamType[Any]):
    """A text that one of the parsers of :mod:`protocol.units` reads."""

    parser: ClassVar[str]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The parsed quantity; a usage error when it is none."""
        if not isinstance(value, str):
            return value
        from protocol import units  # noqa: PLC0415 - only when there is something to parse

        parse: Callable[[str], Any] = getattr(units, self.parser)
        try:
            return parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Rate(_Unit):
    """Bytes per second: ``200Mbit``, ``25MB/s``, ``unlimited`` (0)."""

    name = "rate"
    parser = "parse_rate"


class Duration(_Unit):
    """Seconds: ``2s``, ``150ms``, ``4h``, ``7d``."""

    name = "duration"
    parser = "parse_duration"


class Compression(click.ParamType[Any]):
    """``auto``, ``none`` or a zstd level from 1 to 19, kept as text."""

    name = "auto|none|1..19"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text itself; a usage error when it is none of these."""
        text = str(value)
        level = int(text) if text.isdecimal() and text.isascii() and len(text) < 3 else 0
        if text not in {"auto", "none"} and not 1 <= level <= 19:
            self.fail(f"{text!r} is not a compression; write auto, none or 1 to 19", param, ctx)
        return text


RATE = Rate()
DURATION = Duration()
COMPRESSION = Compression()
FREE_SPACE = click.Choice(["auto", "copy", "skip"])
