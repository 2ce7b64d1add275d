"""A step kills when it is asked to, and only then; the list of steps and the code agree."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.local import crash
from protocol.local.crash import VARIABLE, Deadly
from protocol.local.crashpoints import POINTS
from tests.house.tree import ROOT, tracked


def passed(source: str) -> list[str]:
    """The names of the steps that a module passes, each as often as it stands there."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "crash.here":
            (name,) = node.args
            assert isinstance(name, ast.Constant), "a step has a literal name"
            found.append(str(name.value))
    return found


def test_the_list_and_the_code_agree() -> None:
    places = tracked("protocol/*.py", "replicad/*.py", "receiver/*.py")
    found = sorted(name for path in places for name in passed((ROOT / path).read_text()))
    assert found == sorted(point.name for point in POINTS)
    assert len(set(found)) == len(found), "a step that stands in two places says nothing"


def test_each_side_passes_its_own_steps() -> None:
    sides = {point.name: point.side for point in POINTS}
    for package, foreign in (("replicad", "receiver"), ("receiver", "source")):
        for path in tracked(f"{package}/*.py"):
            assert foreign not in [sides[name] for name in passed((ROOT / path).read_text())]


def test_there_are_more_than_forty() -> None:
    assert len(POINTS) > 40
    assert all(point.lost for point in POINTS)


def deaths(wish: str, *names: str) -> list[str]:
    """Who died, of these steps in a row; death is survived here."""
    died: list[str] = []
    step = Deadly(wish, died.append)
    for name in names:
        step(name)
    return died


@pytest.mark.parametrize(
    ("wish", "names", "died"),
    [
        ("a", ("b", "a"), ["a"]),
        ("a:1", ("a", "a"), ["a"]),
        ("a:3", ("a", "b", "a"), []),
        ("a:3", ("a", "b", "a", "b", "a"), ["a"]),
        ("aa", ("a", "aaa"), []),
    ],
)
def test_it_dies_at_the_step_and_the_time_that_were_named(
    wish: str, names: tuple[str, ...], died: list[str]
) -> None:
    assert deaths(wish, *names) == died


def test_a_file_can_choose_while_it_runs(tmp_path: Path) -> None:
    file = tmp_path / "wish"
    died: list[str] = []
    step = Deadly(f"@{file}", died.append)
    step("a")
    file.write_text("a:2\n")
    step("a")
    assert not died
    step("a")
    assert died == ["a"]
    file.write_text("")
    step("a")
    file.write_text("a:2")
    step("a")
    assert died == ["a"], "counted from the beginning when it is wished anew"


def test_unarmed_it_is_a_function_without_a_body() -> None:
    assert VARIABLE not in os.environ
    assert crash.here.__name__ == "_nothing"
    assert not crash.here.__code__.co_names


def test_armed_the_process_dies_there_of_sigkill() -> None:
    script = (
        "from protocol.local import crash\n"
        "try:\n"
        "    crash.here('a'); print('one', flush=True); crash.here('a'); print('two', flush=True)\n"
        "finally:\n"
        "    print('finally', flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, VARIABLE: "a:2"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == "one\n"
    assert done.stderr == "died at a\n"
