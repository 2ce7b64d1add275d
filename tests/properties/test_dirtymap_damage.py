"""What others do to a dirty map's file: a bit that is cleared there must not become a lost write.

Random changes, checksums now and then, a kill between any two stores, and then one damaged byte:
the map is refused, or nothing that it lacks was ever in it.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicad.dirtymap import DirtyMap, Header, MapRefusedError
from replicad.dirtymap.bitmap import PAGE_BITS, Bitmap, range_mask
from replicad.dirtymap.header import HEADER_BYTES
from tests.properties.world import Killed, KillSwitch, watch_stores

GRANULES = 3 * PAGE_BITS - 100
HEADER = Header(job="j", disk="/dev/x", size=GRANULES * 4096, granule=4096)

RANGES = st.tuples(st.integers(0, GRANULES - 1), st.integers(1, 3000)).map(
    lambda it: (it[0], min(it[1], GRANULES - it[0]))
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["mark", "suspect", "clear"]), RANGES),
        st.just(("vouch", (0, 0))),
        st.just(("zero", (0, 0))),
    ),
    max_size=12,
)


def step(it: DirtyMap, what: str, first: int, count: int) -> None:
    dirty = it._dirty
    if what == "mark":
        it.mark_range(first, count, 0.0)
    elif what == "suspect":
        it.suspect_range(first, count)
    elif what == "clear":
        dirty.clear(*range_mask(first, count))
    elif what == "zero":
        dirty.zero()
    else:
        it.vouch()


def bits(it: DirtyMap) -> list[np.ndarray[Any, Any]]:
    return [bitmap.words.copy() for bitmap in it._file.bitmaps]


@given(STEPS, st.integers(0, 30), st.integers(0, 2**31))
def test_a_kill_never_leaves_a_wrong_checksum(
    steps: list[tuple[str, tuple[int, int]]], after: int, seed: int
) -> None:
    with TemporaryDirectory(dir="/dev/shm") as directory:
        path = f"{directory}/map"
        it = DirtyMap.create(path, HEADER)
        it.update(seeded=True)
        switch = KillSwitch()
        switch.chance.seed(seed)
        for bitmap in it._file.bitmaps:
            watch_stores(bitmap, switch)
        switch.left = after
        try:
            for what, (first, count) in steps:
                step(it, what, first, count)
        except Killed:
            pass
        before = bits(it)
        it._file._map.flush()
        again = DirtyMap.open(path, HEADER, 0.0)  # and not MapRefusedError
        assert all((a | b == a).all() for a, b in zip(bits(again)[:2], before[:2], strict=True))
        again.close()


@given(STEPS, st.data())
def test_a_damaged_byte_of_what_is_vouched_for_is_noticed(
    steps: list[tuple[str, tuple[int, int]]], data: st.DataObject
) -> None:
    with TemporaryDirectory(dir="/dev/shm") as directory:
        path = Path(directory) / "map"
        it = DirtyMap.create(str(path), HEADER)
        it.update(seeded=True)
        for what, (first, count) in steps:
            step(it, what, first, count)
        it.vouch()
        before = bits(it)
        it.close()
        content = bytearray(path.read_bytes())
        places = np.flatnonzero(np.frombuffer(bytes(content[HEADER_BYTES:]), np.uint8))
        if not places.size:
            return
        at = HEADER_BYTES + int(places[data.draw(st.integers(0, places.size - 1))])
        content[at] &= data.draw(st.integers(0, 254))
        path.write_bytes(content)
        try:
            again = DirtyMap.open(str(path), HEADER, 0.0)
        except MapRefusedError:
            return
        assert all((a | b == a).all() for a, b in zip(bits(again)[:2], before[:2], strict=True))
        again.close()


def test_what_is_changed_loses_its_checksum_first_and_empty_pages_need_none() -> None:
    bitmap = Bitmap(np.zeros(1024, np.uint64), 2 * PAGE_BITS)
    bitmap.vouch()
    assert not bitmap.sums.any()
    bitmap.fill(5, 10)
    bitmap.vouch()
    assert bitmap.sums[0]
    assert not bitmap.sums[1]
    bitmap.words[0] = 0
    assert bitmap.damaged()
    bitmap.words[0] = ((1 << 10) - 1) << 5
    assert not bitmap.damaged()
    bitmap.clear(*range_mask(5, 1))
    assert not bitmap.sums.any()


@pytest.mark.parametrize("closed", [True, False])
def test_a_bit_that_somebody_clears_is_not_a_lost_write(tmp_path: Path, closed: bool) -> None:
    path = tmp_path / "map"
    it = DirtyMap.create(str(path), HEADER)
    it.update(seeded=True)
    it.mark_range(70_000, 1, 0.0)
    if closed:
        it.close()
    else:
        it.vouch()  # as after every drain; then it is killed
    with path.open("r+b") as file:
        file.seek(HEADER_BYTES + 70_000 // 8)
        file.write(b"\0")
    with pytest.raises(MapRefusedError, match="damaged"):
        DirtyMap.open(str(path), HEADER, 0.0)
