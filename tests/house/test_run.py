"""`./run` is what a stranger meets first: any POSIX shell takes it, and it answers at once."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time

import pytest

from tests.house.tree import ROOT

HOOKS = "systemd/examples/hooks"
SCRIPTS = {"run": "sh", ".ci/run": "bash", f"{HOOKS}/postgresql": "sh"}
COMMANDS = {
    *("install", "demo", "test", "test-mutations", "test-vm", "check"),
    *("bench", "fuzz", "lock", "build", "clean"),
}


def start(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments,
        cwd=ROOT,
        env={**os.environ, **changes},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(("script", "shell"), SCRIPTS.items())
def test_the_shell_can_parse_it(script: str, shell: str) -> None:
    done = start(shell, "-n", script)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.access(ROOT / script, os.X_OK)


def test_shellcheck_finds_nothing() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = start("shellcheck", *SCRIPTS)
    assert done.returncode == 0, done.stdout


def test_help_names_every_command_and_nothing_else() -> None:
    done = start("./run", "help")
    assert done.returncode == 0
    assert set(re.findall(r"^  ([a-z-]+) ", done.stdout, re.MULTILINE)) == COMMANDS


def test_an_unknown_command_is_a_usage_error() -> None:
    done = start("./run", "frobnicate")
    assert done.returncode == 2
    assert "usage:" in done.stderr


def test_it_can_be_called_from_anywhere() -> None:
    done = subprocess.run(
        [ROOT / "run", "help"], cwd="/", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0


@pytest.fixture
def installed() -> None:
    if not (ROOT / ".venv" / "tree.key").exists():
        pytest.skip("these tests were not started by ./run")


@pytest.mark.usefixtures("installed")
def test_a_second_install_says_nothing_and_is_quick() -> None:
    start("./run", "install")
    best = float("inf")
    for _ in range(3):
        begun = time.monotonic()
        done = start("./run", "install")
        best = min(best, time.monotonic() - begun)
        assert (done.returncode, done.stdout) == (0, "")
        # what is missing and cannot be fetched is said every time; what is there is not
        assert "making" not in done.stderr
        assert "installing" not in done.stderr
    assert best < 0.3
