"""The sample is fair, bounded and honest about what it saw."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Fault
from protocol.views import EstimateDisk
from replicad.estimate import EXTENT, GRANULE, SECONDS, estimate, positions, summary

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30


@given(st.integers(0, 1 << 44), st.integers(1, 3000), st.integers())
def test_each_stratum_is_read_once_and_inside_the_disk(size: int, samples: int, seed: int) -> None:
    found = positions(size, random.Random(seed), samples)
    extents = size // EXTENT
    assert len(found) == len(set(found)) <= max(samples, 1)
    assert all(offset % GRANULE == 0 for offset in found)
    if extents:
        assert len(found) == min(samples, extents)
        assert all(offset + EXTENT <= size for offset in found)
        strata = min(samples, extents)
        assert sorted((offset // EXTENT * strata + strata - 1) // extents for offset in found)


def test_a_small_disk_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(EXTENT) + b"ab" * (EXTENT // 2) + bytes(2 * EXTENT))
    (disk,) = estimate([(str(path), 4 * EXTENT)]).disks
    assert disk.used_bytes == 2 * EXTENT
    assert disk.compression_ratio == pytest.approx(2.0, rel=0.05)
    assert disk.read_bytes_per_second > 0


def test_time_ends_the_sampling(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, GIB)
    ticks = iter(range(1_000_000))
    shares: list[float] = []
    # every look at the clock is a second
    estimate(
        [(str(path), GIB)],
        clock=lambda: float(next(ticks)),
        progress=lambda _, share: shares.append(share),
    )
    assert len(shares) <= SECONDS
    assert shares[-1] == 1.0


def test_a_disk_that_is_not_there_is_named() -> None:
    with pytest.raises(Fault, match="/nowhere") as caught:
        estimate([("/nowhere", GIB)])
    assert caught.value.code == "RPL-5001"


def test_a_copy_is_as_fast_as_the_slower_of_line_and_disk() -> None:
    disk = EstimateDisk(
        path="/dev/vda",
        size=10 * GIB,
        used_bytes=5 * GIB,
        compression_ratio=2.0,
        read_bytes_per_second=1e9,
    )
    view = summary([disk], ["80Mbit", "80Gbit"])
    assert view.seconds_at["80Mbit"] == pytest.approx(2.5 * GIB / 10e6)
    assert view.seconds_at["80Gbit"] == pytest.approx(10 * GIB / 1e9)
    assert "5 GiB of 10 GiB" in view.sentence


def test_an_empty_disk_takes_no_line() -> None:
    assert summary([]).compression_ratio == 1.0
    assert set(summary([]).seconds_at.values()) == {0.0}
