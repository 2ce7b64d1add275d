"""The command line of ``replicad`` against the real control socket with recorded answers."""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from protocol.admin.command import run
from protocol.errors import NOT_ENROLLED
from replicad.cli import program
from tests.support import recorded as answers
from tests.support.daemon import REPLICAD, Recorded, Updates, answering

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(b"\x55" * MIB + bytes(3 * MIB))
    return path


@pytest.fixture
def config(tmp_path: Path, disk: Path) -> Path:
    path = tmp_path / "replicad.toml"
    path.write_text(
        f'[source]\nname = "web01"\ndisks = ["{disk}"]\n'
        f'[hooks]\ndirectory = "{tmp_path}/hooks"\n'
        f'[state]\ndirectory = "{tmp_path}/state"\n'
        f'[runtime]\ndirectory = "{tmp_path}/run"\n'
    )
    return path


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Recorded]:
    with answering(tmp_path / "run" / "control.sock", REPLICAD) as recorded:
        recorded.answers |= {
            "status": answers.STATUS,
            "status.watch": Updates((answers.STATUS, answers.STATUS)),
            "pause": answers.JOB,
            "resume": answers.JOB,
            "limit": answers.JOB,
            "checkpoint": answers.RESULT,
            "cutover": {"request": "r1"},
        }
        yield recorded


class Command:
    def __init__(self, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.config = config
        self.capsys = capsys
        self.out = self.err = ""

    def __call__(self, *words: str) -> int:
        code = run(program, ["--config", str(self.config), *words])
        self.out, self.err = self.capsys.readouterr()
        return code

    def json(self, *words: str) -> Any:
        assert self(*words, "--json") == 0
        return json.loads(self.out)


@pytest.fixture
def command(config: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(config, capsys)


@pytest.mark.parametrize("words", ["status", "pause", "resume", "limit 200Mbit", "cutover"])
def test_json_is_the_answer_itself(command: Command, daemon: Recorded, words: str) -> None:
    name = words.split(maxsplit=1)[0]
    assert command.json(*words.split()) == daemon.answers[name]
    assert [called for called, _ in daemon.calls] == [name]
    assert command(*words.split()) == 0
    assert command.out.strip()


@pytest.mark.parametrize(
    "name",
    ["run", "enroll", "status", "check", "estimate", "inventory", "pause", "resume", "limit",
     "checkpoint", "cutover"],
)  # fmt: skip
def test_every_command_has_help(command: Command, name: str) -> None:
    assert command(name, "--help") == 0
    assert "Usage:" in command.out


def test_a_limit_is_sent_as_bytes_per_second(command: Command, daemon: Recorded) -> None:
    command.json("limit", "200Mbit")
    command.json("limit", "unlimited")
    assert daemon.calls == [("limit", {"bandwidth": 25_000_000}), ("limit", {"bandwidth": 0})]
    assert command("limit", "fast") == 2
    assert "is not a rate" in command.err


def test_a_checkpoint_is_waited_for(command: Command, daemon: Recorded) -> None:
    assert command.json("checkpoint", "--wait", "--hold") == answers.RESULT
    assert daemon.calls == [("checkpoint", {"wait": True, "hold": True})]


def test_watching_without_a_terminal_prints_every_update(
    command: Command, daemon: Recorded
) -> None:
    assert command("status", "--watch", "--json") == 0
    assert [json.loads(line) for line in command.out.splitlines()] == [answers.STATUS] * 2


def test_status_shows_speed_remaining_and_both_kinds_of_bytes(
    command: Command, daemon: Recorded
) -> None:
    assert command("status") == 0
    for part in (
        "web01",
        "vault.example:8080, connected",
        "ebpf",
        "250 MB/s",
        "26s",
        "2 GiB of",
        "zstd 3",
        "60% of the time",
    ):
        assert part in command.out


def test_a_source_without_a_job_says_so(command: Command, daemon: Recorded) -> None:
    daemon.answers["status"] = {**answers.STATUS, "enrolled": False, "job": None}
    assert command("status") == 0
    assert "not enrolled" in command.out


def test_faults_of_the_daemon_reach_the_user(command: Command, daemon: Recorded) -> None:
    daemon.answers["pause"] = NOT_ENROLLED.fault()
    assert command("pause") == 1
    assert command.err.startswith("RPL-2008: ")


def test_no_daemon_is_4(command: Command) -> None:
    assert command("status") == 4
    assert command("status", "--json") == 4
    assert json.loads(command.out)["error"]["code"] == "RPL-1101"


def test_inventory_needs_no_daemon(command: Command, disk: Path) -> None:
    (found,) = command.json("inventory")["disks"]
    assert (found["path"], found["size"], found["kind"]) == (str(disk), 4 * MIB, "file")
    assert command("inventory") == 0
    assert str(disk) in command.out


def test_estimate_needs_no_daemon(command: Command, disk: Path) -> None:
    view = command.json("estimate")
    assert (view["total_bytes"], view["used_bytes"]) == (4 * MIB, MIB)
    assert command("estimate", "--disk", str(disk)) == 0
    assert "1 MiB" in command.out
    assert command("estimate", "--disk", "/dev/other") == 3


def test_check_names_problems_and_fails(command: Command, disk: Path) -> None:
    disk.unlink()
    assert command("check", "--json") == 1
    items = json.loads(command.out)
    assert [item for item in items if item["level"] == "problem" and str(disk) in item["sentence"]]


@pytest.mark.parametrize("address", ["host:port", "[::1", "a b"])
def test_a_wrong_address_is_refused_before_anything_is_sent(command: Command, address: str) -> None:
    assert command("enroll", "CODE", "--receiver", address) == 2
    assert "is not an address" in command.err


def test_an_activation_code_is_needed_on_standard_input(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert command("enroll", "-", "--receiver", "localhost") == 2
    assert "standard input is empty" in command.err


def test_the_configuration_can_be_checked_alone(command: Command, config: Path) -> None:
    assert command("--check") == 0
    config.write_text('[source]\ndisks = "all"\n')
    assert command("--check") == 2
    assert "line 2: source.disks" in command.err


def test_status_starts_fast(config: Path, daemon: Recorded) -> None:
    """Beside an interpreter with three modules of the library: machines differ by a factor of
    three, and so does one machine from hour to hour."""
    words = [sys.executable, "-m", "replicad.cli", "--config", str(config), "status", "--json"]
    bare = [sys.executable, "-c", "import argparse, json, socket"]

    def once(command: list[str]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Processor time, in turns, and the best of five: the machine may be busy with other things.
    ours, theirs = zip(*((once(words), once(bare)) for _ in range(5)), strict=True)
    assert min(ours) < 8 * min(theirs)


def test_what_status_does_not_need_is_not_imported() -> None:
    script = "import sys, replicad.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    heavy = {b"rich", b"msgspec", b"asyncio", b"numpy", b"cryptography", b"structlog", b"uvloop"}
    assert not heavy & set(done.stdout.split())
