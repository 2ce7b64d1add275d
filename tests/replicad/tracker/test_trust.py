"""Every difference between stored and current state is a gap; equality alone is trust."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replicad.tracker.trust import Suspect, TrackingState, Trusted, judge

STATE = TrackingState("boot", "token", 3, 1 << 30, 7)


def test_the_same_is_trusted() -> None:
    assert judge(STATE, STATE) == Trusted()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"boot_id": "other"}, "restarted"),
        ({"size": 5}, "size"),
        ({"diskseq": 8}, "another"),
        ({"diskseq": None}, "another"),
        ({"token": "x"}, "anew"),
        ({"misses": 4}, "missed 1 write"),
        ({"misses": 9}, "missed 6 writes"),
        ({"misses": 2}, "backwards"),
    ],
)
def test_any_difference_is_suspect(change: dict[str, object], word: str) -> None:
    verdict = judge(STATE, replace(STATE, **change))  # type: ignore[arg-type]
    assert isinstance(verdict, Suspect)
    assert word in verdict.reason


def test_nothing_stored_is_suspect() -> None:
    assert isinstance(judge(None, STATE), Suspect)


def test_the_heaviest_reason_is_said() -> None:
    verdict = judge(STATE, TrackingState("other", "x", 9, 5, 8))
    assert isinstance(verdict, Suspect)
    assert "restarted" in verdict.reason
