"""A command's way to its daemon, on a terminal: what is drawn while one waits."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from protocol.errors import Fault
from protocol.local.door import Door, drawn, secret_argument
from protocol.local.sections import Runtime
from tests.support import recorded as answers
from tests.support.daemon import RECEIVER, REPLICAD, Updates, answering

if TYPE_CHECKING:
    from pathlib import Path


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=200, color_system=None)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def door(tmp_path: Path) -> Door:
    runtime = Runtime(directory=tmp_path / "run")
    return Door("receiver", lambda: runtime, terminal())


def test_the_job_is_drawn_while_a_checkpoint_is_waited_for(door: Door) -> None:
    with answering(door.socket, RECEIVER) as daemon:
        daemon.answers["job.checkpoint"] = Updates((answers.JOB,), answers.RESULT)
        door.order("job.checkpoint", as_json=False, wait=True, timeout=None, job="web")
    text = shown(door.console)
    assert "the first copy" in text
    assert "checkpoint 3: filesystem, frozen 83 ms" in text.rstrip().splitlines()[-1]


def test_status_is_drawn_in_place_until_the_stream_ends(tmp_path: Path) -> None:
    runtime = Runtime(directory=tmp_path / "run")
    door = Door("replicad", lambda: runtime, terminal())
    with answering(door.socket, REPLICAD) as daemon:
        daemon.answers["status.watch"] = Updates((answers.STATUS, answers.STATUS))
        door.watch("status.watch", "status", as_json=False)
    assert "vault.example:8080" in shown(door.console)


def test_progress_is_drawn_for_each_name(door: Door) -> None:
    with door.progress(as_json=False) as progress:
        progress("/dev/[red]vda", 0.5)
        progress("/dev/[red]vda", 1.0)
    assert "/dev/[red]vda" in shown(door.console)


def test_progress_does_not_disturb_json(door: Door) -> None:
    with door.progress(as_json=True) as progress:
        progress("/dev/vda", 0.5)
    assert shown(door.console) == ""


def test_an_answer_of_another_shape_is_the_daemons_fault() -> None:
    with pytest.raises(Fault, match="JobView") as caught:
        drawn({"id": 7}, "job")
    assert caught.value.code == "RPL-3002"


def test_a_secret_comes_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("CODE-1 \nmore\n"))
    assert secret_argument("-") == "CODE-1"
    assert secret_argument("CODE-2") == "CODE-2"
