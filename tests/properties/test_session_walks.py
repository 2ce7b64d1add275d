"""Random walks of the whole way: right as it is, and wrong where the world around it is.

The mutants here are of what the model simulates, the kernel's programs and the receiver's disk;
those of our own source are in tests/mutations, which runs these walks too.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import settings

from tests.properties.medium import Medium
from tests.properties.test_session_model import Replication
from tests.properties.walking import walk
from tests.properties.wholeway import BOTH, WholeWay

pytestmark = pytest.mark.timeout(600)

STEPS = 40
WALKS = max(40, settings().max_examples // 10)
ARGUMENTS: dict[str, tuple[object, ...]] = {
    "fresh": (True, False),
    "seed": tuple(range(1000)),
    "connected": (0, 1, 2, 2),
    "first": (0, 1, 2, 3, 15, 16, 17, 62, 63, 64, 65, 69),
    "count": (1, 1, 2, 3, 8, 40),
    "shift": (0, 1),
    "zeros": (False, True),
    "which": tuple(range(12)),
    "size": (1, 60, 2048, 5000, 1 << 20, 1 << 20),
    "hook": (0, 1, 2),
    "line": tuple(range(6)),
    "heard": (True, True, False),
    "power": (True, False),
    "run_lost": (False, False, True),
    "pins_lost": (False, False, True),
    "kill_after": (0, 1, 2, 3),
    "run_kept": (True, False),
    "writes": (0, 1, 2, 3),
    "busy": (True, True, False),
}
RARE = {"miss", "lose_pins", "reboot", "swap", "fail_sync", "kill_source", "kill_in_drain"}


def search(world: type[WholeWay], walks: int) -> None:
    """Walks until a promise is seen broken (AssertionError), or not."""
    machine = type("Searched", (Replication,), {"world_class": world})
    for seed in range(walks):
        walk(machine(), random.Random(seed), STEPS, ARGUMENTS, RARE)


class MarksWhenQueuedAsWell(WholeWay):
    """As a bio-based disk is marked."""

    mark_at = BOTH


@pytest.mark.parametrize("world", [WholeWay, MarksWhenQueuedAsWell], ids=lambda it: it.__name__)
def test_walks_find_nothing(world: type[WholeWay]) -> None:
    search(world, WALKS // 2)


class MarksOnlyWhenQueued(WholeWay):
    """A granule that is drained, read and acknowledged before the write lands stays clean."""

    mark_at = frozenset({"queue"})


class MarksOnlyWhenItKnowsTheRange(WholeWay):
    """On a bio-based disk completion does not carry the range; without the queue nothing does."""

    mark_at = frozenset()


class _LyingMedium(Medium):
    def sync(self) -> None:
        if self.fail_sync:
            self.fail_sync = False


class SyncDoesNothing(WholeWay):
    """The receiver's disk says that it has stored, and has not."""

    medium_class = _LyingMedium


MUTANTS = [MarksOnlyWhenQueued, MarksOnlyWhenItKnowsTheRange, SyncDoesNothing]


@pytest.mark.parametrize("world", MUTANTS, ids=lambda world: world.__name__)
def test_a_wrong_world_is_found(world: type[WholeWay]) -> None:
    with pytest.raises(AssertionError, match="promise"):
        search(world, 1000)
