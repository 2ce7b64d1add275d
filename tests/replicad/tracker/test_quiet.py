"""The wait, without a kernel: who counts is waited for, and RCU is the way out."""

from __future__ import annotations

import threading
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from replicad.tracker.quiet import Quiescence


def test_idle_cpus_are_not_waited_for() -> None:
    graces: list[int] = []
    Quiescence(np.zeros(4, np.uint64), lambda: graces.append(1)).wait()
    assert graces == []


def test_a_count_that_falls_is_waited_for() -> None:
    counts, graces = np.array([0, 1, 0], np.uint64), []
    quiet = Quiescence(counts, lambda: graces.append(1))
    quiet_thread = threading.Thread(target=quiet.wait)
    quiet_thread.start()
    counts[1] = 0
    quiet_thread.join()
    assert len(graces) <= 1


def test_a_count_that_stays_up_costs_a_grace_period(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicad.tracker.quiet.PATIENCE", 0)
    graces: list[int] = []
    Quiescence(np.ones(2, np.uint64), lambda: graces.append(1)).wait()
    assert graces == [1]


def test_without_a_barrier_only_a_grace_period_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    graces: list[int] = []
    quiet = Quiescence(np.zeros(2, np.uint64), lambda: graces.append(1))
    monkeypatch.setattr(quiet, "_number", None)
    quiet.wait()
    assert graces == [1]


def test_every_cpu_is_looked_at_after_the_barrier(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Counts:
        size = 2

        def __getitem__(self, key: object) -> NDArray[np.uint64]:
            order.append("look")
            return np.zeros(2, np.uint64)

    def barrier() -> bool:
        order.append("barrier")
        return True

    quiet = Quiescence(cast("NDArray[np.uint64]", Counts()), lambda: None)
    monkeypatch.setattr(quiet, "barrier", barrier)
    quiet.wait()
    assert order[0] == "barrier"
    assert "look" in order
