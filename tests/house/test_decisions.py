"""A decision is short, has a number of its own, and says what else was possible."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.house.tree import ROOT, tracked

LINES_AT_MOST = 40
NAME = re.compile(r"^(?P<number>\d{4})-[a-z0-9-]+\.md$")


def wrong(decisions: dict[str, str]) -> list[str]:
    """What is wrong with these decisions, by file name."""
    found: list[str] = []
    seen: dict[str, str] = {}
    for name, text in sorted(decisions.items()):
        match = NAME.match(name)
        if match is None:
            found.append(f"{name}: not NNNN-words.md")
            continue
        number = match["number"]
        if number in seen:
            found.append(f"{name}: the number of {seen[number]}")
        seen[number] = name
        if not re.match(r"# (?:\d{4}[ :.-]+)?\S", text):
            found.append(f"{name}: has no title")
        elif (given := re.match(r"# (\d{4})", text)) and given[1] != number:
            found.append(f"{name}: the title says {given[1]}")
        if len(text.splitlines()) > LINES_AT_MOST:
            found.append(f"{name}: more than {LINES_AT_MOST} lines")
    return found


def test_the_decisions_are_in_order() -> None:
    paths = tracked("docs/decisions/*.md")
    assert paths
    assert not wrong({path.name: (ROOT / path).read_text() for path in paths})


@pytest.mark.parametrize(
    "decisions",
    [
        {"0001-a.md": "# A\n", "0001-b.md": "# B\n"},
        {"1-a.md": "# A\n"},
        {"0001-a.md": "A\n"},
        {"0001-a.md": "# 0002 A\n"},
        {"0001-a.md": "# A\n" + "x\n" * LINES_AT_MOST},
    ],
    ids=["one number twice", "no number", "no title", "other number", "long"],
)
def test_a_wrong_decision_is_found(decisions: dict[str, str]) -> None:
    assert len(wrong(decisions)) == 1


def test_every_link_to_a_decision_leads_to_one() -> None:
    numbers = {path.name[:4] for path in tracked("docs/decisions/*.md")}
    lost = [
        f"{path}: decisions/{number}"
        for path in tracked("*.md", "*.py", "*.toml", "*.c", "*.service")
        for number in re.findall(r"decisions/(\d{4})", (ROOT / path).read_text())
        if number not in numbers and Path(path).name != Path(__file__).name
    ]
    assert not lost
