"""Thirty seeds of a bad line, one of each kind of trouble (promises 2, 3, 7 and 10).

Five hundred, with a table of recovery times: ``./run bench wire`` (docs/testing.md).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.plans import KINDS, plan
from tests.support.storm import storm

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(900)]

SEEDS = range(30)


def test_a_seed_is_always_the_same() -> None:
    assert all(plan(seed) == plan(seed) for seed in range(300))
    assert {plan(seed).kind for seed in SEEDS} == set(KINDS)


def test_the_line_goes_bad_and_good_again(tmp_path: Path) -> None:
    with storm(tmp_path) as it:
        for seed in SEEDS:
            try:
                print(it.round(seed))
            except AssertionError as error:
                raise AssertionError(f"./run bench wire --seed {seed}: {error}") from error
