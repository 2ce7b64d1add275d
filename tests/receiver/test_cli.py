"""The command line of ``receiver`` against the real control socket with recorded answers."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from protocol.admin.command import run
from protocol.errors import JOB_STATE, UNKNOWN_JOB
from receiver.cli import program
from tests.support import recorded as answers
from tests.support.daemon import RECEIVER, Recorded, Updates, answering

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "receiver.toml"
    path.write_text(f'[runtime]\ndirectory = "{tmp_path}/run"\n')
    return path


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Recorded]:
    with answering(tmp_path / "run" / "control.sock", RECEIVER) as recorded:
        recorded.answers |= {name: answers.JOB for name in RECEIVER if name.startswith("job.")}
        recorded.answers |= {
            "activation.create": answers.ACTIVATION,
            "activation.list": [answers.ACTIVATION_ROW],
            "source.list": [answers.SOURCE],
            "source.show": answers.SOURCE,
            "source.forget": {"forgotten": "web01"},
            "job.list": [answers.JOB],
            "job.delete": {"deleted": "7f3a9c"},
            "job.checkpoint": Updates((answers.JOB, answers.JOB), answers.RESULT),
            "job.cutover": {"request": "r1"},
            "disk.list": [answers.INTERMEDIATE],
            "disk.path": {"path": "/var/lib/receiver/disks/7f/0.raw"},
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


COMMANDS = {
    "activation create": "activation.create",
    "activation list": "activation.list",
    "source list": "source.list",
    "source show web01": "source.show",
    "source forget web01": "source.forget",
    "job list": "job.list",
    "job show web": "job.show",
    "job start web": "job.start",
    "job pause web": "job.pause",
    "job resume web": "job.resume",
    "job retry web": "job.retry",
    "job cancel web": "job.cancel",
    "job delete web": "job.delete",
    "job set web keep=2": "job.set",
    "job cutover web": "job.cutover",
    "disk list": "disk.list",
    "disk path web /dev/vda": "disk.path",
}


@pytest.mark.parametrize("words", COMMANDS)
def test_json_is_the_answer_itself(command: Command, daemon: Recorded, words: str) -> None:
    assert command.json(*words.split()) == daemon.answers[COMMANDS[words]]
    assert [name for name, _ in daemon.calls] == [COMMANDS[words]]
    assert command.err == ""


@pytest.mark.parametrize("words", COMMANDS)
def test_without_json_something_is_drawn_for_people(
    command: Command, daemon: Recorded, words: str
) -> None:
    assert command(*words.split()) == 0
    assert command.out.strip()
    with pytest.raises(ValueError):
        json.loads(command.out)


@pytest.mark.parametrize("words", [*(" ".join(w.split()[:2]) for w in COMMANDS), "run", "job",
                                   "job create", "job checkpoint"])  # fmt: skip
def test_every_command_has_help(command: Command, words: str) -> None:
    assert command(*words.split(), "--help") == 0
    assert "Usage:" in command.out


def test_commands_of_later_stages_are_not_there(command: Command) -> None:
    for words in ("image list", "drill x", "tunnel list"):
        assert command(*words.split()) == 2
    command("job", "create", "--help")
    for option in ("--drill", "--tunnel", "--template"):
        assert option not in command.out


def test_a_new_job_has_the_defaults(command: Command, daemon: Recorded) -> None:
    assert command.json("job", "create", "--source", "web01")["id"] == "7f3a9c"
    assert daemon.calls == [
        (
            "job.create",
            {
                "source": "web01",
                "name": "",
                "disks": [],
                "targets": [],
                "start": {"kind": "now", "at": None},
                "every": None,
                "keep": 3,
                "bandwidth": 0,
                "compress": "auto",
                "free_space": "auto",
                "freeze_budget": 2.0,
                "valid_seconds": 30 * 86400.0,
            },
        )
    ]


def test_a_new_job_takes_every_option(command: Command, daemon: Recorded) -> None:
    words = (
        "job create --source web01 --name web --disk /dev/vda --target raw --disk /dev/vdb "
        "--target device:/dev/sdc --start at 2026-12-01T03:00:00+01:00 --every 4h --keep 5 "
        "--bandwidth 200Mbit --compress 3 --free-space skip --freeze-budget 500ms --valid 7d"
    )
    command.json(*words.split())
    (_, params) = daemon.calls[0]
    assert params["disks"] == ["/dev/vda", "/dev/vdb"]
    assert params["targets"] == [{"kind": "raw"}, {"kind": "device", "path": "/dev/sdc"}]
    assert params["start"] == {"kind": "at", "at": "2026-12-01T02:00:00Z"}
    assert (params["every"], params["keep"], params["compress"]) == (14400.0, 5, "3")
    assert (params["bandwidth"], params["freeze_budget"]) == (25_000_000, 0.5)
    assert params["free_space"] == "skip"
    assert params["valid_seconds"] == 604800.0


@pytest.mark.parametrize(
    "words",
    [["--start", "at", "2026-12-01T03:00:00Z"], ["--start", "at 2026-12-01T03:00:00Z"],
     ["--start=at", "2026-12-01T03:00:00Z"], ["--start=at 2026-12-01T03:00:00Z"]],
)  # fmt: skip
def test_a_start_time_is_one_word_or_two(
    command: Command, daemon: Recorded, words: list[str]
) -> None:
    command.json("job", "create", "--source", "web01", *words)
    assert daemon.calls[0][1]["start"] == {"kind": "at", "at": "2026-12-01T03:00:00Z"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("job create", "--source"),
        ("job create --source a --bandwidth 5furlongs", "is not a rate"),
        ("job create --source a --freeze-budget soon", "is not a duration"),
        ("job create --source a --compress 20", "write auto, none or 1 to 19"),
        ("job create --source a --start later", "write now, manual or at TIME"),
        ("job create --source a --start at", "write now, manual or at TIME"),
        ("job create --source a --start at noon", "is not an instant"),
        ("job create --source a --target disk", "write raw or device:/PATH"),
        ("job create --source a --target device:/dev/sdc", "needs its --disk"),
        ("job create --source a --disk /a --disk /b --target raw", "do not fit"),
        ("job create --source a --color red", "No such option"),
        ("job set web speed=3", "there is no key 'speed'"),
        ("job set web keep", "is not KEY=VALUE"),
        ("job set web keep=many", "keep:"),
        ("job set web keep=1 keep=2", "given twice"),
        ("job set web", "Missing argument"),
        ("job checkpoint web --timeout 3", "--timeout is for --wait"),
        ("job checkpoint web --wait --timeout 0", "--timeout"),
        ("activation create --uses 0", "--uses"),
        ("jobs", "No such command"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_accepted(
    command: Command, daemon: Recorded, words: str, said: str
) -> None:
    assert command(*words.split()) == 2
    assert said in command.err
    assert daemon.calls == []
    assert command(*words.split(), "--json") == 2
    error = json.loads(command.out)["error"]
    assert error["exit"] == 2
    assert said in error["message"]


def test_changes_are_sent_in_base_units(command: Command, daemon: Recorded) -> None:
    words = "bandwidth=80Mbit every=none valid=1d freeze-budget=1s compress=none name=x keep=9"
    command.json("job", "set", "web", *words.split())
    assert daemon.calls[0][1]["changes"] == {
        "bandwidth": 10_000_000,
        "every": None,
        "valid": 86400.0,
        "freeze_budget": 1.0,
        "compress": "none",
        "name": "x",
        "keep": 9,
    }


def test_a_checkpoint_that_is_waited_for_prints_its_result(
    command: Command, daemon: Recorded
) -> None:
    assert command.json("job", "checkpoint", "web", "--wait", "--hold") == answers.RESULT
    assert daemon.calls == [("job.checkpoint", {"job": "web", "wait": True, "hold": True})]
    assert command("job", "checkpoint", "web", "--wait") == 0
    assert "checkpoint 3: filesystem, frozen 83 ms" in command.out


def test_a_checkpoint_that_is_not_waited_for_prints_its_request(
    command: Command, daemon: Recorded
) -> None:
    daemon.answers["job.checkpoint"] = {"request": "r7"}
    assert command.json("job", "checkpoint", "web") == {"request": "r7"}
    assert daemon.calls == [("job.checkpoint", {"job": "web", "wait": False, "hold": False})]


def test_waiting_too_long_ends_with_5(command: Command, daemon: Recorded) -> None:
    daemon.answers["job.checkpoint"] = Updates((answers.JOB,), hangs=True)
    assert command("job", "checkpoint", "web", "--wait", "--timeout", "0.1") == 5
    assert "RPL-1104" in command.err


def test_a_refusal_has_its_own_exit_code_sentence_and_remedy(
    command: Command, daemon: Recorded
) -> None:
    daemon.answers["job.pause"] = JOB_STATE.fault(job="web", state="finished", action="paused")
    assert command("job", "pause", "web") == 3
    assert command.err.splitlines()[0] == "RPL-4005: job web is finished: it cannot be paused now"
    assert "receiver job show" in command.err.splitlines()[1]
    assert command.out == ""
    assert command("job", "pause", "web", "--json") == 3
    assert json.loads(command.out)["error"]["code"] == "RPL-4005"


def test_a_failed_checkpoint_fails_the_command(command: Command, daemon: Recorded) -> None:
    daemon.answers["job.checkpoint"] = UNKNOWN_JOB.fault(job="nope")
    assert command("job", "checkpoint", "nope", "--wait") == 3
    assert "there is no job nope" in command.err


def test_no_daemon_is_4(command: Command) -> None:
    assert command("job", "list") == 4
    assert "no receiver daemon answers" in command.err


def test_an_answer_of_another_version_is_an_error_not_a_trace(
    command: Command, daemon: Recorded
) -> None:
    daemon.answers["job.show"] = {"id": "7f"}
    assert command("job", "show", "7f") == 1
    assert "RPL-3002" in command.err


def test_a_long_list_is_printed_whole(command: Command, daemon: Recorded) -> None:
    daemon.answers["job.list"] = [{**answers.JOB, "id": f"id{number:05}"} for number in range(2000)]
    assert command("job", "list") == 0
    assert [line for line in command.out.splitlines() if line.startswith("id0")].__len__() == 2000
    assert len(command.json("job", "list")) == 2000


def test_the_configuration_can_be_checked_alone(command: Command, config: Path) -> None:
    assert command("--check") == 0
    config.write_text('[runtime]\ndirectory = "relative"\nspeed = 3\n')
    assert command("--check") == 2
    assert "line 2" in command.err
    assert "line 3" in command.err


def test_no_command_shows_the_help_and_is_wrong_usage(command: Command) -> None:
    assert command() == 2
    assert "Usage:" in command.out + command.err


def test_names_of_peers_cannot_write_on_the_terminal(command: Command, daemon: Recorded) -> None:
    evil = {**answers.SOURCE, "name": "\x1b]0;owned\x07[red]x[/red]"}
    daemon.answers["source.show"] = evil
    assert command("source", "show", "x") == 0
    assert "\x1b" not in command.out
    assert "[red]x[/red]" in command.out


def test_what_starts_often_imports_little() -> None:
    script = "import sys, receiver.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    heavy = {b"rich", b"msgspec", b"asyncio", b"numpy", b"cryptography", b"structlog", b"uvloop"}
    assert not heavy & set(done.stdout.split())
