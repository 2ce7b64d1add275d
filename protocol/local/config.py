"""Reads a TOML file into a frozen structure and reports everything that is wrong with it.

An administrator who mistyped three keys wants one answer with three lines, not three
restarts of a service. So a file is read in two steps: the parser gives values, and every
value is then judged on its own by the *reader* of its key, which collects problems instead of
stopping at the first. A section is a :class:`msgspec.Struct`; each of its fields is annotated
with a :class:`Reads`, or is a ``Literal`` of texts.

tomllib does not say on which line a key stands. :func:`key_lines` finds out with tomllib
itself: in a file that parses, a run of lines that parses alone is exactly one statement, so
no second TOML grammar is needed (see docs/decisions/0030-configuration-lines.md).
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from protocol.errors import CONFIGURATION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

_SYNTAX: Final = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)

Shape = TypeVar("Shape", bound=msgspec.Struct)

# A configuration file is a page or two. The bound keeps a wrong path (a disk image, a log)
# from being read into memory, and the search for lines short.
LARGEST_FILE: Final = 64 * 1024

# Problems beyond this many are counted, not listed: by then it is the wrong file.
MOST_PROBLEMS: Final = 50


@dataclass(frozen=True, slots=True)
class Reads:
    """Marks a field with the function that judges its TOML value.

    The function returns what the field holds, or raises :class:`ValueError` whose text is
    shown to the user after the name of the key.
    """

    reader: Callable[[object], object]


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong: the line (0 when there is none), the key and a sentence."""

    line: int
    key: str
    sentence: str

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.key}: {self.sentence}" if self.key else f"{where}{self.sentence}"


def read(path: Path | None, default: Path, shape: type[Shape]) -> Shape:
    """The configuration in ``path``, or in ``default`` when ``path`` is None.

    A missing default file means "all defaults"; a missing named file is an error.

    Raises:
        LocalFault: CONFIGURATION, with every problem of the file.
    """
    chosen = default if path is None else path
    try:
        with chosen.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except FileNotFoundError as error:
        if path is None:
            return shape()
        raise _fault(chosen, [Problem(0, "", "there is no such file")]) from error
    except OSError as error:
        raise _fault(chosen, [Problem(0, "", f"cannot be read ({error.strerror})")]) from error
    if len(content) > LARGEST_FILE:
        sentence = f"is larger than {LARGEST_FILE} bytes, so it is not a configuration"
        raise _fault(chosen, [Problem(0, "", sentence)])
    value, problems = parse(content, shape)
    if problems or value is None:
        raise _fault(chosen, problems)
    return value


def _fault(path: Path, problems: list[Problem]) -> Exception:
    listed = [str(problem) for problem in problems[:MOST_PROBLEMS]]
    if len(problems) > len(listed):
        listed.append(f"and {len(problems) - len(listed)} more")
    if len(listed) == 1:
        return CONFIGURATION.fault(path=path, problems=listed[0])
    lines = "".join(f"\n  {line}" for line in listed)
    return CONFIGURATION.fault(path=path, problems=f"{len(problems)} problems{lines}")


def parse(content: bytes, shape: type[Shape]) -> tuple[Shape | None, list[Problem]]:
    """The structure of a TOML document, or None and all that is wrong, in order of lines."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return None, [Problem(line, "", "is not UTF-8 text")]
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return None, [_syntax_problem(str(error), text)]
    except RecursionError:
        return None, [Problem(0, "", "is nested too deeply")]
    except ValueError:
        # Of Python's own int(): tomllib's faults are caught above.
        return None, [Problem(_long_number(text), "", "has a number of thousands of digits")]
    lines = key_lines(text)
    problems: list[Problem] = []
    sections = get_type_hints(shape)
    values: dict[str, Any] = {}
    for name, table in document.items():
        line = lines.get((name,), 0)
        if name not in sections:
            problems.append(Problem(line, name, _unknown("section", name, sections)))
        elif not isinstance(table, dict):
            problems.append(Problem(line, name, f"is a section; write [{name}] and its keys below"))
        else:
            values[name] = _section(name, table, sections[name], lines, problems)
    if problems:
        return None, sorted(problems)
    return shape(**values), []


def _section(
    name: str,
    table: Mapping[str, object],
    shape: type[msgspec.Struct],
    lines: Mapping[tuple[str, ...], int],
    problems: list[Problem],
) -> msgspec.Struct | None:
    """One section; None when it adds to ``problems``."""
    fields = get_type_hints(shape, include_extras=True)
    values: dict[str, object] = {}
    before = len(problems)
    for key, value in table.items():
        full, line = f"{name}.{key}", lines.get((name, key), 0)
        if key not in fields:
            problems.append(Problem(line, full, _unknown("key", key, fields)))
            continue
        try:
            values[key] = _reader(fields[key])(value)
        except ValueError as error:
            problems.append(Problem(line, full, str(error)))
    return shape(**values) if len(problems) == before else None


def _reader(annotation: Any) -> Callable[[object], object]:
    """The judge of a field: its :class:`Reads`, or membership when it is a ``Literal``."""
    for extra in getattr(annotation, "__metadata__", ()):
        if isinstance(extra, Reads):
            return extra.reader
    if get_origin(annotation) is Literal:
        return one_of(get_args(annotation))
    raise TypeError(f"{annotation!r} has no reader: annotate the field with Reads(...)")


def one_of(choices: tuple[str, ...]) -> Callable[[object], str]:
    """A reader that takes one of ``choices`` (the rest of the readers: protocol.local.values)."""

    def reader(value: object) -> str:
        if isinstance(value, str) and value in choices:
            return value
        allowed = ", ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"must be one of {allowed}{_did_you_mean(value, choices)}")

    return reader


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    hint = _did_you_mean(name, names)
    return f"no such {what}{hint}" if hint else f"no such {what}; there are {', '.join(names)}"


def _did_you_mean(value: object, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(value), list(known), n=1)
    return f'; did you mean "{close[0]}"?' if close else ""


def _syntax_problem(message: str, text: str) -> Problem:
    """tomllib's own sentence, with its line in our form: "... (at line 3, column 9)"."""
    match = _SYNTAX.fullmatch(message)
    if match is None:
        return Problem(0, "", message)
    if match[2] is None:
        # Not splitlines(): a vertical tab ends no line for TOML, nor for an editor.
        line = text.count("\n") + (not text.endswith("\n"))
        return Problem(max(1, line), "", f"{match[1]} (at the end)")
    return Problem(int(match[2]), "", f"{match[1]} (column {match[3]})")


def _long_number(text: str) -> int:
    """The line of the first run of more digits than Python converts (4,300)."""
    found = re.search(r"[0-9_]{4300}", text)
    return text.count("\n", 0, found.start()) + 1 if found else 0


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """The line, from 1, on which every key and section of a *valid* document first stands."""
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    statement, start = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        if not statement:
            start = number
        statement += line + "\n"
        try:
            parsed = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # a text or an array that goes on in the next line
        header = statement.lstrip().startswith("[")
        paths = list(_paths((), parsed))
        if header:
            table = max(paths, key=len)
        for path in paths:
            found.setdefault(path if header else table + path, start)
        statement = ""
    return found


def _paths(prefix: tuple[str, ...], value: object) -> Iterable[tuple[str, ...]]:
    """Every path of keys in a parsed statement; arrays of tables count as their tables."""
    if isinstance(value, list):
        for item in value:
            yield from _paths(prefix, item)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield (*prefix, key)
            yield from _paths((*prefix, key), inner)
