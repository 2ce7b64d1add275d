"""Both daemons die at named steps, alone and together, and go on by themselves (promise 10).

Every third step in groups, a dozen pairs of both sides, and the steps of a job's beginning. All of
them, each alone, and as many pairs as one wants: ``./run bench kills`` (docs/testing.md).
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from protocol.local.crashpoints import POINTS
from tests.house.tree import ROOT
from tests.support.arena import arena
from tests.support.deaths import (
    ELSEWHERE,
    LIVES,
    REACHED,
    STEADY,
    Row,
    die_in_turn,
    die_twice,
    groups,
    pairs,
)
from tests.support.lives import Lives

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(900)]

EVERY = 3
"""Of the steps that a running job passes: there are more than ninety."""

TOGETHER = 4
"""Deaths between two comparisons."""

PAIRS = 12
SEED = 1


def test_every_step_has_a_way_to_it() -> None:
    known = {point.name for point in POINTS}
    assert set(REACHED) | LIVES <= known
    assert not set(REACHED) & LIVES
    assert {point.name for point in STEADY} | LIVES | set(ELSEWHERE) == known
    for name, place in ELSEWHERE.items():
        assert name in (ROOT / place).read_text(), f"{place} does not die at {name}"


def test_a_job_that_dies_again_and_again_is_whole(tmp_path: Path) -> None:
    rows: list[Row] = []
    with arena(tmp_path) as it:
        Lives(it, rows.append).begin()
        rows += [die_in_turn(it, *together) for together in groups(STEADY[::EVERY], TOGETHER)]
        rows += [die_twice(it, *both) for both in islice(pairs(SEED), PAIRS)]
    for row in rows:
        print(row)
    died = [name for row in rows for name in row.points]
    assert len(set(died)) >= 45
    assert sum(len(row.points) == 2 for row in rows) >= PAIRS
