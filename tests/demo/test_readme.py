"""What the README and the guides name is there: files, commands, configuration keys, codes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

import receiver.cli
import receiver.config
import replicad.cli
import replicad.config
from protocol.errors import BY_CODE, Exit

TREE = Path(__file__).parents[2]
GUIDES = [TREE / "README.md", TREE / "docs/operations.md", TREE / "docs/architecture.md"]
PROGRAMS = {"receiver": receiver.cli.program, "replicad": replicad.cli.program}
TOPS = (".", "replicad", "receiver", "demo", "protocol", "protocol/local")
CONFIGS: list[Any] = [receiver.config.Config, replicad.config.Config]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(guide: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", guide.read_text())
    assert [link for link in links if not (guide.parent / link).exists()] == []


def test_every_file_of_the_architecture_is_there() -> None:
    text = (TREE / "docs/architecture.md").read_text()
    named = {name for name in re.findall(r"`([\w/.]+(?:\.py|\.c|/))`", text) if name != "/run"}
    missing = [name for name in named if not any((TREE / top / name).exists() for top in TOPS)]
    assert missing == []
    assert len(named) > 30


def test_every_command_of_the_walk_through_would_be_understood() -> None:
    lines = re.findall(r"^# ((?:receiver|replicad) .*?)(?:   .*| &)?$", _readme(), re.MULTILINE)
    assert len(lines) > 10
    for line in lines:
        words = shlex.split(line)
        command: click.Command = PROGRAMS[words.pop(0)]
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        # parses options and arguments, calls nothing
        command.make_context(line, words)


def _readme() -> str:
    return (TREE / "README.md").read_text()


def test_the_exit_codes_are_those_of_the_program() -> None:
    said = re.search(r"Exit codes: (.*?)\.\n", _readme(), re.DOTALL)
    assert said is not None
    assert [int(number) for number in re.findall(r"\d+", said[1])] == sorted(Exit)


def test_every_key_and_code_of_operations_exists() -> None:
    text = (TREE / "docs/operations.md").read_text()
    keys = {
        f"{section.name}.{key.name}"
        for config in CONFIGS
        for section in msgspec.structs.fields(config)
        for key in msgspec.structs.fields(section.type)
    }
    sources = [
        f for top in ("protocol", "replicad", "receiver") for f in (TREE / top).rglob("*.py")
    ]
    events = {e for f in sources for e in re.findall(r'"([a-z]+\.[a-z_]+)"', f.read_text())} - keys
    named = set(re.findall(r"`([a-z]+\.[a-z]+)`", text)) - {"frozen.d"} - events
    assert named <= keys
    assert keys <= named, "a key that nobody is told of"
    assert set(re.findall(r"RPL-\d{4}", text)) <= set(BY_CODE)
