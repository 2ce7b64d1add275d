"""What only jobs take on the command line: a start, a target, ``key=value`` changes."""

from __future__ import annotations

from typing import Any, Final

import click

from protocol.local.arguments import COMPRESSION, DURATION, FREE_SPACE, RATE

KEYS: Final[dict[str, click.ParamType[Any]]] = {
    "accept": click.STRING,
    "bandwidth": RATE,
    "compress": COMPRESSION,
    "every": DURATION,
    "free_space": FREE_SPACE,
    "freeze_budget": DURATION,
    "keep": click.INT,
    "name": click.STRING,
    "valid": DURATION,
}
"""What ``job set`` changes and how its value is read; the daemon has the same list."""

CLEARED: Final = frozenset({"every", "valid"})
"""Keys that take ``none``."""


def changes(pairs: tuple[str, ...]) -> dict[str, Any]:
    """The changes that ``key=value`` words ask for.

    Raises:
        click.UsageError: no ``=``, an unknown key, a key twice, or a value that does not fit.
    """
    wanted: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = key.replace("-", "_")
        if not equals:
            raise click.UsageError(f"{pair!r} is not KEY=VALUE")
        if key not in KEYS:
            raise click.UsageError(f"there is no key {key!r}; there are {', '.join(KEYS)}")
        if key in wanted:
            raise click.UsageError(f"{key} is given twice")
        if key in CLEARED and text == "none":
            wanted[key] = None
            continue
        try:
            wanted[key] = KEYS[key].convert(text, None, None)
        except click.BadParameter as error:
            raise click.UsageError(f"{key}: {error.message}") from error
    return wanted


class Create(click.Command):
    """Takes ``--start at TIME`` as two words, for which click has no kind of option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Make one word of ``at TIME``, then parse as usual."""
        joined: list[str] = []
        for word in args:
            at = joined[-1:] == ["--start=at"] or joined[-2:] == ["--start", "at"]
            if at and not word.startswith("-"):
                joined[-1] += f" {word}"
            else:
                joined.append(word)
        return super().parse_args(ctx, joined)


class Start(click.ParamType[Any]):
    """``now``, ``manual`` or ``at TIME``, as the control socket has it."""

    name = "now|at TIME|manual"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, str | None]:
        """``{"kind": ..., "at": RFC 3339 or None}``."""
        if isinstance(value, dict):
            return value
        kind, _, when = str(value).partition(" ")
        if kind in {"now", "manual"} and not when:
            return {"kind": kind, "at": None}
        if kind != "at" or not when:
            self.fail(f"{value!r} is not a start; write now, manual or at TIME", param, ctx)
        from protocol.units import format_instant, parse_instant  # noqa: PLC0415 - rarely needed

        try:
            return {"kind": "at", "at": format_instant(parse_instant(when))}
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Target(click.ParamType[Any]):
    """``raw`` or ``device:PATH``, as the control socket has it."""

    name = "raw|device:PATH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, str]:
        """``{"kind": "raw"}`` or ``{"kind": "device", "path": PATH}``."""
        if isinstance(value, dict):
            return value
        kind, _, path = str(value).partition(":")
        if value == "raw":
            return {"kind": "raw"}
        if kind != "device" or not path.startswith("/"):
            self.fail(f"{value!r} is not a target; write raw or device:/PATH", param, ctx)
        return {"kind": "device", "path": path}


START = Start()
TARGET = Target()
