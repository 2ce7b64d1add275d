"""Cutting and gathering runs, and what a comparison says: pure, against the obvious way."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicad.comparison import differing, differing_granules
from replicad.dirtymap import Batch, DirtyMap, Found, Header
from replicad.engine.passes import DiskSweep
from replicad.planner import NotSettledError, Sweep, by_pieces, divide, extent_for, take_everything

GRANULES = st.sets(st.integers(0, 700), min_size=1, max_size=300)


def found(granules: set[int], size: int = 11) -> Found:
    words = np.zeros(size, dtype=np.uint64)
    for granule in granules:
        words[granule // 64] |= np.uint64(1 << granule % 64)
    at = np.flatnonzero(words)
    return Found(at, words[at])


def covered(batch: Batch) -> list[int]:
    return [g for first, count in batch.segments for g in range(first, first + count)]


@given(GRANULES, st.integers(1, 9), st.sampled_from([4, 16, 256]), st.sampled_from([1, 3, 256]))
def test_batches_are_the_first_granules_within_limits(
    granules: set[int], at_most: int, full: int, segments: int
) -> None:
    batches = divide(
        found(granules), at_most, disk=3, kind="data", granules=full, segments=segments
    )
    taken = [granule for batch in batches for granule in covered(batch)]
    assert taken == sorted(granules)[: len(taken)]
    assert len(batches) == at_most or len(taken) == len(granules)
    for batch in batches:
        assert batch.granules == len(covered(batch)) <= full
        assert len(batch.segments) <= segments
        assert all(first // full == (first + n - 1) // full for first, n in batch.segments)
        words = np.zeros(11, dtype=np.uint64)
        words[batch.place] = batch.mask
        bits = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))
        assert bits.tolist() == covered(batch)


@given(
    st.integers(0, 6),
    st.integers(1, 11),
    st.integers(1, 9),
    st.sampled_from([64, 128, 256]),
    st.sampled_from(range(-3, 1)),
)
def test_a_run_without_gaps_is_divided_as_its_bits_would_be(
    first: int, words: int, at_most: int, full: int, lacking: int
) -> None:
    """Whole words take a way of their own: what comes out is what limits that do not fit into words
    would have given. Also of a run that only looks like one, for its last bits are missing."""
    granules = set(range(first * 64, (first + words) * 64 + lacking))
    bits = found(granules, first + words)
    batches = divide(bits, at_most, disk=3, kind="data", granules=full, segments=256)
    expected = by_pieces(bits, at_most, disk=3, kind="data", granules=full, segments=256)
    assert [batch.segments for batch in batches] == [batch.segments for batch in expected]
    for ours, theirs in zip(batches, expected, strict=True):
        assert ours.granules == theirs.granules
        assert ours.place == theirs.place
        assert ours.mask.tolist() == theirs.mask.tolist()


@given(st.sets(st.integers(0, 11)), st.sampled_from([4096, 65536]))
def test_bits_become_granules(blocks: set[int], granule: int) -> None:
    block = 4096 if granule == 4096 else 16384
    segments = ((0, 2), (3, 1)) if granule == 65536 else ((0, 32), (48, 16))
    batch = Batch(0, "compare", segments, 48, slice(0, 1), np.ones(1, dtype=np.uint64))
    ranges = [(first * granule, count * granule) for first, count in segments]
    offsets = [o for start, length in ranges for o in range(start, start + length, block)]
    bits = np.zeros(64, dtype=np.uint8)
    bits[list(blocks)] = 1
    differ = [offsets[i] for i in sorted(blocks) if i < len(offsets)]
    got = differing(ranges, bits[: len(offsets)], block)
    assert [o for start, length in got for o in range(start, start + length, block)] == differ
    runs = differing_granules(batch, got, granule)
    granules = [g for first, count in runs for g in range(first, first + count)]
    assert granules == sorted({offset // granule for offset in differ})


def test_a_final_set_needs_quiet(tmp_path: Path) -> None:
    """What is in flight may be dirty again and could not be taken; of a suspect nobody knows."""
    header = Header(job="j", disk="d", size=1 << 20, granule=4096)
    held = DirtyMap.create(str(tmp_path / "map"), header)
    held.mark_range(3, 2, 0.0)
    (flying,) = Sweep(held, 0, "data").take_many(9)
    held.mark_range(3, 1, 0.0)
    with pytest.raises(NotSettledError, match="2 granules are in flight"):
        take_everything(held, 0)
    held.acked(flying)
    held.suspect_range(7, 1)
    with pytest.raises(NotSettledError, match="1 suspect"):
        take_everything(held, 0)
    (compared,) = Sweep(held, 0, "compare").take_many(9)
    held.compared(compared, (), 0.0)
    assert [covered(batch) for batch in take_everything(held, 0)] == [[3]]
    held.close()


@pytest.mark.parametrize(
    ("rate", "size"),
    [
        (None, 1 << 20),
        (0.0, 64 << 10),
        (125_000.0, 64 << 10),
        (524_288.0, 128 << 10),
        (1_000_000.0, 128 << 10),
        (3.9e6, 512 << 10),
        (4.2e6, 1 << 20),
        (1e12, 1 << 20),
    ],
)
def test_an_extent_takes_a_quarter_of_a_second_at_most(rate: float | None, size: int) -> None:
    assert extent_for(rate) == size


def test_a_sweep_takes_extents_of_the_size_that_the_line_wants(tmp_path: Path) -> None:
    """Looked up with each handful, so it changes within a pass."""
    header = Header(job="j", disk="/dev/x", size=64 << 20, granule=4096, boot="b", token="t")
    held = DirtyMap.create(str(tmp_path / "map"), header)
    held.mark_range(0, held.granules, 0.0)
    disk = SimpleNamespace(live_map=held, number=0, granule=4096, size=header.size)
    wanted = [64 << 10]
    sweep = DiskSweep(cast(Any, disk), lambda: wanted[0])
    assert {work.size for work in sweep.take()} == {64 << 10}
    wanted[0] = 1 << 20
    assert max(work.size for work in sweep.take()) == 1 << 20
    held.close()
