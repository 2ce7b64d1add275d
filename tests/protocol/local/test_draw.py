"""What people see: every view can be drawn, and what is missing is a dash, not a zero."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from protocol.local import drawing
from protocol.local.door import SHAPES, drawn
from tests.support import recorded as answers

EXAMPLES: dict[str, Any] = {
    "activation": answers.ACTIVATION,
    "activations": [answers.ACTIVATION_ROW],
    "checkpoint": answers.RESULT,
    "checks": [{"level": "problem", "subject": "btf", "sentence": "gone", "remedy": "do that"}],
    "estimate": {
        "disks": [
            {
                "path": "/dev/vda",
                "size": 10 << 30,
                "used_bytes": 5 << 30,
                "compression_ratio": 2.0,
                "read_bytes_per_second": 1e9,
            }
        ],
        "total_bytes": 10 << 30,
        "used_bytes": 5 << 30,
        "compression_ratio": 2.0,
        "seconds_at": {"1Gbit": 21.5},
        "sentence": "half of it",
    },
    "intermediates": [answers.INTERMEDIATE],
    "inventory": answers.SOURCE["disks"],
    "job": answers.JOB,
    "jobs": [answers.JOB],
    "source": answers.SOURCE,
    "sources": [answers.SOURCE],
    "verified": answers.VERIFIED,
    "status": answers.STATUS,
}


def printed(what: RenderableType, width: int = 200) -> str:
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(what)
    return console.export_text()


def test_there_is_an_example_of_every_drawing() -> None:
    assert EXAMPLES.keys() == SHAPES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_view_is_drawn_on_a_wide_and_on_a_narrow_terminal(name: str) -> None:
    wide = printed(drawn(EXAMPLES[name], name))
    assert wide.strip()
    assert "None" not in wide
    assert max(map(len, printed(drawn(EXAMPLES[name], name), 40).splitlines())) <= 40


@pytest.mark.parametrize("name", [name for name in SHAPES if SHAPES[name].startswith("list")])
def test_an_empty_list_is_drawn_too(name: str) -> None:
    assert name == "checks" or printed(drawn([], name)).strip()


def test_a_job_shows_what_administrators_ask() -> None:
    text = printed(drawn(answers.JOB, "job"))
    for part in ("web (7f3a9c)", "syncing", "250 MB/s", "26s", "2 GiB of disk, 1 GiB on wire",
                 "25%", "full", "ebpf", "/var/lib/receiver/disks/7f/0.raw", "frozen 83 ms",
                 "25 MB/s", "continuous"):  # fmt: skip
        assert part in text


def test_an_error_is_shown_with_its_remedy() -> None:
    error = {"code": "RPL-4107", "message": "no space left", "remedy": "free some"}
    text = printed(drawn({**answers.JOB, "state": "error", "error": error}, "job"))
    assert "RPL-4107: no space left" in text
    assert "free some" in text
    listed = printed(drawn([{**answers.JOB, "error": error}], "jobs"))
    assert "no space left" in listed


def test_what_is_not_known_is_a_dash() -> None:
    assert drawing.seconds(None) == "-"
    text = printed(drawn([{**answers.JOB, "remaining_seconds": None, "sentence": ""}], "jobs"))
    assert text.splitlines()[1].split()[-2:] == ["-", "-"]


@pytest.mark.parametrize(
    ("value", "drawn_as"),
    [
        ("2026-11-22T04:05:06.120034Z", "2026-11-22T04:05:06Z"),
        ("2026-11-22T04:05:06Z", "2026-11-22T04:05:06Z"),
        ("2026-11-22T04:05:06.5+01:00", "2026-11-22T04:05:06+01:00"),
        (None, "-"),
    ],
)
def test_instants_are_drawn_to_the_second(value: str | None, drawn_as: str) -> None:
    assert drawing.instant(value).plain == drawn_as


def test_status_says_why_there_is_no_connection() -> None:
    lost = {**answers.STATUS, "connected": False, "sentence": "no route"}
    assert "not connected: no route" in printed(drawn(lost, "status"))


def test_status_says_how_many_senders_work_only_when_not_all_do() -> None:
    assert "3 at work: 4 waited 31% of the time for a processor" in printed(
        drawn(answers.STATUS, "status")
    )
    job = {**answers.STATUS["job"], "senders": {"at_work": 4, "because": ""}}
    assert "at work" not in printed(drawn({**answers.STATUS, "job": job}, "status"))


def test_status_says_what_seals_while_there_is_a_session() -> None:
    assert "sealed with aegis-256x2" in printed(drawn(answers.STATUS, "status"))
    assert "congestion control cubic" in printed(drawn(answers.STATUS, "status"))
    job = {**answers.STATUS["job"], "cipher": "", "congestion": ""}
    without = printed(drawn({**answers.STATUS, "job": job}, "status"))
    assert "sealed" not in without
    assert "congestion" not in without


@given(st.integers(0, 1 << 60), st.integers(0, 1 << 60))
def test_a_bar_is_full_only_at_the_end(done: int, total: int) -> None:
    text = drawing.bar(done, total).plain
    assert len(text) == drawing.BAR + 5
    assert text.endswith("100%") == (done >= total)


@given(st.text())
def test_no_text_of_a_peer_reaches_the_terminal_as_a_command(text: str) -> None:
    assert drawing.plain(text).plain.isprintable()
    assert not drawing.plain(text).spans
