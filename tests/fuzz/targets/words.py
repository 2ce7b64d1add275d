"""What people write: quantities, addresses, changes of a job, configuration files."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import click
import msgspec
from hypothesis import strategies as st

from protocol.errors import LocalFault
from protocol.local.config import Problem, parse
from protocol.local.values import Address, parse_address, read_name, read_paths
from protocol.units import (
    LARGEST,
    LONGEST_DURATION,
    format_duration,
    format_instant,
    format_limit,
    format_rate,
    format_size,
    parse_duration,
    parse_instant,
    parse_rate,
    parse_size,
)
from receiver.cli.values import START, TARGET, changes
from receiver.config import Config as ReceiverConfig
from receiver.jobs.spec import JobSpec, edited
from replicad.config import Config as SourceConfig
from tests.fuzz.registry import target

QUANTITIES = [
    *("512", "64 KiB", "1.5GiB", "10G", "200Mbit", "25MB/s", "unlimited", "0", "150ms"),
    *("1h30m", "7d", "2026-03-01T02:30:00Z", "9999-12-31T23:59:59.999999999-23:59", "1e9"),
    *("0001-01-01T00:00:00+23:59", "९", "1" * 64, "0." + "0" * 60 + "1", "1PiB", "8191PiB"),
    *("0.0.0.0:8080", "[::1]:80", "[::1%eth0]:80", "host", "1.2.3.4.5", "::1", "[]:1", "/dev/vda"),
]


@target(seeds=lambda: [word.encode() for word in QUANTITIES], longest=200)
def quantity(data: bytes) -> None:
    """A size, a rate, a duration, an instant, an address, a name: the value or a ValueError whose
    text can stand in a user's error."""
    text = data.decode("utf-8", "surrogateescape")
    for read, most in ((parse_size, LARGEST), (parse_rate, LARGEST)):
        with _refused():
            assert 0 <= read(text) <= most
            format_size(read(text))
            format_rate(read(text))
            format_limit(read(text))
    with _refused():
        seconds = parse_duration(text)
        assert 0 <= seconds <= LONGEST_DURATION
        assert math.isclose(parse_duration(format_duration(seconds)), seconds, abs_tol=1e-6)
    with _refused():
        assert parse_instant(format_instant(parse_instant(text))) == parse_instant(text)
    for default in (None, 8080):
        with _refused():
            found = parse_address(text, default)
            assert isinstance(found, Address)
            assert 0 <= found.port < 1 << 16
            assert parse_address(str(found)) == found
    with _refused():
        assert read_name(text).isascii()
    with _refused():
        read_paths([text])


@contextlib.contextmanager
def _refused() -> Any:
    """A ValueError is a refusal; a part of it that we did not write would be a finding."""
    try:
        yield
    except ValueError as error:
        assert type(error) is ValueError, error
        assert "int()" not in str(error), error
        assert len(str(error)) < 2000, error


PAIRS = [
    *("bandwidth=200Mbit", "compress=19", "every=4h", "every=none", "freeze_budget=2s", "keep=3"),
    *("name=x", "valid=30d", "valid=none", "keep=", "=", "nothing", "freeze-budget=1e308"),
    *("compress=٣", "compress=²", "keep=9" + "9" * 5000, "name=\x1b[2J", "every=168h"),
]


@target(seeds=lambda: ["\n".join([pair, pair[::-1]]).encode() for pair in PAIRS])
def job_set(data: bytes) -> None:
    """``job set ID KEY=VALUE ...`` from the command line to the daemon's own check."""
    words = tuple(data.decode("utf-8", "surrogateescape").split("\n"))
    with contextlib.suppress(click.UsageError):
        wanted = changes(words)
        with contextlib.suppress(LocalFault):
            spec = edited(JobSpec(source="web01"), wanted)
            assert not spec.problems()
            msgspec.json.encode(spec)
    for kind in (START, TARGET):
        with contextlib.suppress(click.BadParameter):
            kind.convert(words[0], None, None)


SOURCE_TOML = b"""# what may be copied
[source]
name = "web01"
disks = ["/dev/vda", "/dev/vdb"]
[metrics]
listen = "127.0.0.1:9870"
[hooks]
directory = "/etc/replicad/hooks"
[tracker]
enabled = "off"
[log]
level = "debug"
format = '''json'''
"""
RECEIVER_TOML = b"""[listen]
control = "0.0.0.0:8080"
data = "[::]:8703"
metrics = ""
[storage]
directory = "/var/lib/receiver"
[runtime]
directory = "/run/receiver"
group = "adm"
[limits]
connections = 0xFF
handshakes = 1_0
memory = "256MiB"
"""
ODD_TOML = [
    b"[source]\nname = " + b"9" * 5000,
    b"[limits]\nconnections = 0x" + b"f" * 5000,
    b"[limits]\nmemory = inf\nhandshakes = nan",
    b"a = " + b"[" * 2000,
    b'[source]\nname = """\n' + b"\n" * 500 + b'"""',
    b"[[source]]\n[[source]]",
    b"source.name = 1979-05-27T07:32:00Z",
    b'[source]\nname = "\\ud800"',
    b"\xff",
]


def _documents() -> st.SearchStrategy[bytes]:
    name = st.sampled_from(["source", "listen", "limits", "metrics", "log", "name", "disks", "x"])
    value = st.sampled_from(
        ["1", '"x"', "[]", "{}", "inf", "-0x1", "1979-05-27", "true", "'''\n'''", '"256MiB"', "[1,"]
    )
    line = st.builds("{} = {}".format, name, value) | name.map("[{}]".format)
    return st.lists(line, max_size=8).map(lambda lines: "\n".join(lines).encode())


def _configuration(data: bytes, shape: type[msgspec.Struct]) -> None:
    value, problems = parse(data, shape)
    assert (value is None) == bool(problems)
    lines = data.count(b"\n") + 1
    for problem in problems:
        assert isinstance(problem, Problem)
        assert 0 <= problem.line <= lines, problem
        assert problem.sentence
        assert "int()" not in str(problem), problem


@target(seeds=lambda: [SOURCE_TOML, *ODD_TOML], shaped=_documents)
def source_configuration(data: bytes) -> None:
    """``replicad.toml``: a configuration, or every problem with its line."""
    _configuration(data, SourceConfig)


@target(seeds=lambda: [RECEIVER_TOML, *ODD_TOML], shaped=_documents)
def receiver_configuration(data: bytes) -> None:
    """``receiver.toml``, likewise."""
    _configuration(data, ReceiverConfig)
