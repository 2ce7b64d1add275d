"""The table, the data and the picture of an answer."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from bench.contest import RATE, SECONDS, Answer, Goal, Question, Scale
from bench.svg import plot
from bench.telling import as_dict, machine, table

GOALS = (
    Goal("twice the peer", "rate", ">=", 2.0, peers=("peer",)),
    Goal("under a second", "seconds", "<=", 1.0, statistic="max"),
    Goal("seen by the way", "seconds", "<=", None),
)
SERIES = {
    "replicad": {"rate": [2e6, 3e6, 4e6], "seconds": [0.5, 1.0, 1.5]},
    "peer": {"rate": [2e6, 2e6, 2e6]},
}


@pytest.fixture
def answer() -> Answer:
    metrics = {"rate": RATE, "seconds": SECONDS, "never": SECONDS}
    question = Question("q", "a <question>", metrics, GOALS, lambda _: pytest.fail("not asked"))
    verdicts = [goal.judge(SERIES) for goal in GOALS]
    scale = Scale("rate", "size", {"peer": 1.0, "replicad": 100.0})
    return Answer(question, SERIES, verdicts, ["a note"], scale, 5 << 20)


def test_the_table_has_medians_spread_and_verdicts(answer: Answer) -> None:
    lines = table(answer).splitlines()
    assert lines[0] == "q: a <question> (5 MiB)"
    assert lines[1].split() == ["rate,", "MB/s", "seconds,", "s"]
    assert lines[2].split()[:5] == ["replicad", "3", "(2", "to", "4)"]
    words = [line.split()[0] for line in lines[4:]]
    assert words == ["MISSED", "MISSED", "seen", "note:"]


def test_the_data_can_be_read_again(answer: Answer) -> None:
    said = json.loads(json.dumps(as_dict(answer, 1.5)))
    assert said["medians"]["replicad"] == {"rate": 3e6, "seconds": 1.0}
    assert said["values"]["peer"]["rate"] == [2e6, 2e6, 2e6]
    assert (said["rounds"], said["size_bytes"], said["error"]) == (3, 5 << 20, None)
    first = said["goals"][0]
    assert (first["value"], first["peer"], first["met"]) == (1.5, "peer", False)
    assert said["goals"][2]["bound"] is None
    assert said["scale"]["at"] == {"peer": 1.0, "replicad": 100.0}


def test_an_infinite_ratio_is_no_number_in_json(answer: Answer) -> None:
    nothing = {**SERIES, "peer": {"rate": [0.0] * 3}}
    endless = replace(answer, verdicts=[GOALS[0].judge(nothing)])
    assert as_dict(endless, 1.0)["goals"][0]["value"] is None


def test_the_picture_is_an_svg_with_a_point_for_each_contestant(answer: Answer) -> None:
    root = ET.fromstring(plot(answer))
    assert root.tag.endswith("svg")
    assert len(root.findall("{*}circle")) == 2
    texts = [element.text for element in root.findall("{*}text")]
    assert {"a <question>", "size", "peer", "replicad"} <= set(texts)


def test_what_has_no_scale_has_no_picture(answer: Answer) -> None:
    with pytest.raises(ValueError, match="no scale"):
        plot(replace(answer, scale=None))


def test_the_machine_is_described() -> None:
    assert machine()["cpus"] >= 1
    assert machine()["memory_bytes"] > 1 << 20
