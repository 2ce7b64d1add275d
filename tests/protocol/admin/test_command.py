"""How a command ends: the line, the remedy, the JSON, the exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import click
import pytest

from protocol.admin import command
from protocol.errors import TARGET_TOO_SMALL

REMEDY = "Enlarge it and 'receiver job retry', or use a larger device, or 'raw' for a file."


@click.group()
def program() -> None:
    pass


@program.command()
@click.option("--json", "as_json", is_flag=True)
def show(as_json: bool) -> None:
    command.emit(
        {"size": 3}, as_json=as_json, human=lambda value: click.echo(f"size {value['size']}")
    )


@program.command()
@click.option("--json", "as_json", is_flag=True)
def refuse(as_json: bool) -> None:
    raise TARGET_TOO_SMALL.fault(path="/dev/sdb", size=1, needed=2)


@program.command()
def interrupt() -> None:
    raise KeyboardInterrupt


@program.command()
@click.pass_context
def leave(context: click.Context) -> None:
    context.exit(5)


@program.command()
def answer_five() -> int:
    return 5


def test_a_value_for_people_and_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(program, ["show"]) == 0
    assert capsys.readouterr().out == "size 3\n"
    assert command.run(program, ["show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"size": 3}


def test_a_fault_is_a_line_and_a_remedy_on_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command.run(program, ["refuse"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "RPL-4101: target /dev/sdb has 1 bytes, but the disk has 2\n"
        "  → Enlarge it and 'receiver job retry', or use a larger device, or 'raw' for a file.\n"
    )


def test_a_fault_with_json_is_an_object_on_standard_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command.run(program, ["refuse", "--json"]) == 3
    captured = capsys.readouterr()
    assert captured.err == ""
    assert json.loads(captured.out) == {
        "error": {
            "code": "RPL-4101",
            "message": "target /dev/sdb has 1 bytes, but the disk has 2",
            "remedy": REMEDY,
            "exit": 3,
        }
    }


@pytest.mark.parametrize("arguments", [["none"], ["show", "--none"], ["show", "extra"], []])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(program, arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Usage:" in captured.err


def test_wrong_usage_with_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(program, ["show", "--json", "--none"]) == 2
    error: dict[str, Any] = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "RPL-1002"
    assert "--none" in error["message"]


@pytest.mark.parametrize(
    ("name", "code"), [("interrupt", 130), ("leave", 5), ("answer-five", 5), ("--help", 0)]
)
def test_other_ends(name: str, code: int) -> None:
    assert command.run(program, [name]) == code


def test_a_reader_that_left_before_the_first_word_is_no_traceback() -> None:
    code = (
        "import sys, click\n"
        "from protocol.admin import command\n"
        "@click.command()\n"
        "def late():\n"
        "    sys.stdin.read(); sys.stdout.write('buffered')\n"
        "sys.exit(command.run(late, []))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        child.stdin.close()
        assert child.stderr.read() == b""
        assert child.wait(10) == 1


def test_a_reader_that_has_seen_enough_is_no_traceback() -> None:
    code = (
        "import sys, click\n"
        "from protocol.admin import command\n"
        "@click.command()\n"
        "def many():\n"
        "    for number in range(100_000): click.echo(number)\n"
        "sys.exit(command.run(many, []))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(10) == 1
