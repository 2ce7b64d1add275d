"""What the receiver shows of the source's own counters, and of freezes."""

from __future__ import annotations

import pytest
from prometheus_client.core import Metric

from protocol.local.freezes import BUCKETS, freeze_histogram
from receiver.report import Snapshot, metrics


def samples(family: Metric) -> dict[str, float]:
    """By name and ``le``."""
    return {f"{one.name} {one.labels.get('le', '')}".strip(): one.value for one in family.samples}


def test_the_histogram_is_cumulative_and_complete() -> None:
    found = samples(freeze_histogram("x_freeze_seconds", [0.01, 0.2, 0.21, 99.0]))
    counts = [found[f"x_freeze_seconds_bucket {edge}"] for edge in BUCKETS]
    assert counts == sorted(counts)
    assert found["x_freeze_seconds_bucket 0.01"] == 1
    assert found["x_freeze_seconds_bucket 0.2"] == 2
    assert found["x_freeze_seconds_bucket 30.0"] == 3
    assert found["x_freeze_seconds_bucket +Inf"] == found["x_freeze_seconds_count"] == 4
    assert found["x_freeze_seconds_sum"] == pytest.approx(99.42)


def test_every_family_is_there_before_there_is_a_job() -> None:
    names = {family.name for family in metrics(Snapshot(frozen=(0.1,)))}
    assert {
        "receiver_freeze_seconds",
        "receiver_tracker_misses",
        "receiver_reconnects",
        "receiver_errors",
        "receiver_pass",
    } <= names
