"""The lock says exactly what is installed, proves it by hash, and says nothing about where from."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.house.tree import ROOT

LOCKS = ["requirements.lock", "requirements-runtime.lock"]
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)(?:\s*;[^\\]*)?\s*\\?$")
HASH = re.compile(r"^\s+--hash=sha256:[0-9a-f]{64}(?:\s*\\)?$")


class Pin(NamedTuple):
    version: Version
    hashes: int


def pins(text: str) -> dict[str, Pin]:
    """The pins of a lock; ValueError names a line that is neither pin, hash nor comment."""
    found: dict[str, Pin] = {}
    name = ""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if match := PIN.match(line):
            name = canonicalize_name(match["name"])
            if name in found:
                raise ValueError(f"line {number}: {name} is pinned twice")
            found[name] = Pin(Version(match["version"]), 0)
        elif HASH.match(line) and name:
            found[name] = found[name]._replace(hashes=found[name].hashes + 1)
        else:
            raise ValueError(f"line {number}: {line.strip()}")
    return found


def unmet(wanted: list[str], locked: dict[str, Pin]) -> list[str]:
    """The requirements that a lock does not meet, and the pins without a hash."""
    wrong = [f"{name} has no hash" for name, pin in locked.items() if pin.hashes == 0]
    for text in wanted:
        requirement = Requirement(text)
        pin = locked.get(canonicalize_name(requirement.name))
        if pin is None:
            wrong.append(f"{requirement.name} is not locked")
        elif not requirement.specifier.contains(pin.version, prereleases=True):
            wrong.append(f"{text} is locked at {pin.version}")
    return wrong


@pytest.fixture(scope="module")
def project() -> dict[str, list[str]]:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    runtime: list[str] = document["project"]["dependencies"]
    dev: list[str] = document["project"]["optional-dependencies"]["dev"]
    build: list[str] = document["build-system"]["requires"]
    return {"requirements-runtime.lock": runtime, "requirements.lock": runtime + dev + build}


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_meets_the_project(lock: str, project: dict[str, list[str]]) -> None:
    assert not unmet(project[lock], pins((ROOT / lock).read_text()))


def test_both_locks_pin_the_same_versions() -> None:
    everything = pins((ROOT / LOCKS[0]).read_text())
    runtime = pins((ROOT / LOCKS[1]).read_text())
    assert {name: everything.get(name) for name in runtime} == runtime


def test_every_requirement_has_a_floor(project: dict[str, list[str]]) -> None:
    assert not [text for text in project["requirements.lock"] if ">=" not in text]


def test_what_runs_here_is_what_is_locked() -> None:
    locked = pins((ROOT / LOCKS[0]).read_text())
    here = {
        str(canonicalize_name(found.metadata["Name"])): Version(found.version)
        for found in importlib.metadata.distributions()
    }
    assert not {
        name: f"{here.get(name)} instead of {pin.version} on Python {sys.version_info[:2]}"
        for name, pin in locked.items()
        if here.get(name) != pin.version
    }


GOOD = f"one==1.2 \\\n    --hash=sha256:{'a' * 64} \\\n    --hash=sha256:{'b' * 64}\n    # via x\n"


def test_a_good_lock_is_read() -> None:
    assert pins(GOOD) == {"one": Pin(Version("1.2"), 2)}
    assert not unmet(["one>=1.1"], pins(GOOD))


@pytest.mark.parametrize(
    "line",
    [
        "--find-links https://somewhere/simple",
        "-e .",
        "one @ file:///tmp/one.whl",
        "one>=1.2",
        GOOD,
    ],
)
def test_anything_but_a_pin_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="line"):
        pins(GOOD + line)


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [("one==1.2\n", "one"), (GOOD, "one>=1.3"), (GOOD, "two")],
)
def test_an_unmet_requirement_is_found(lock: str, wanted: str) -> None:
    assert len(unmet([wanted], pins(lock))) == 1
