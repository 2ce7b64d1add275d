"""Every question can be asked: at a tiny size, so that no benchmark rots."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import QUESTIONS, load, main
from bench.contest import Options, ask
from bench.images import MIB
from bench.leftovers import MEMORY
from tests.house.tree import ROOT
from tests.support.pair import until

pytestmark = pytest.mark.timeout(300)

SIZES = {"freeze": 192 * MIB, "foreground": 192 * MIB, "many_jobs": 32 * MIB}
TINY = 24 * MIB
LONG = {"free_space", "memory", "many_jobs", "idle_sources", "freeze", "long_line", "foreground"}
"""Not in every run: ``./run bench --quick`` asks them as well."""


def each() -> list[object]:
    """The questions with the marks that they need."""
    found: list[object] = []
    for name in QUESTIONS:
        marks = [pytest.mark.root] if load(name).root else []
        marks += [pytest.mark.campaign] if name in LONG else []
        found.append(pytest.param(name, marks=marks))
    return found


@pytest.mark.parametrize("name", each())
def test_a_question_can_be_asked(name: str) -> None:
    question = load(name)
    assert question.name == name
    answer = ask(question, Options(quick=True, rounds=1, size=SIZES.get(name, TINY)))
    assert len(answer.verdicts) == len(question.goals)
    measured = {metric for figures in answer.series.values() for metric in figures}
    assert measured == set(question.metrics)
    if answer.scale is not None:
        assert set(answer.scale.at) == set(answer.series)


def test_the_list_names_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(QUESTIONS)


@pytest.mark.parametrize("words", [["nonsense"], ["--rounds", "0"]])
def test_a_wrong_word_is_a_usage_error(words: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            found |= {child, *descendants(child)}
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(number: signal.Signals) -> None:
    before = set(MEMORY.glob("replicad-bench-*"))
    run = subprocess.Popen(
        [sys.executable, "-m", "bench", "full_pass", "--quick"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        until(lambda: len(descendants(run.pid)) >= 3, 60, "daemons and an sshd")
        started = descendants(run.pid)
        os.kill(run.pid, number)
        assert run.wait(30) == 130
        assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
        assert set(MEMORY.glob("replicad-bench-*")) - before == set()
    finally:
        run.kill()
        assert run.stderr is not None
        run.stderr.close()
