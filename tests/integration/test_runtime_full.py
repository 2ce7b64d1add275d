"""A full /run: the job says so, or nothing happens at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.errors import RUNTIME_FULL, Fault
from replicad.dirtymap import DirtyMap, Header
from tests.support.loops import MIB, run

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

HEADER = Header(job="j", disk="/dev/x", size=64 << 30, granule=4096, boot="b", token="t")
"""Each of its four bitmaps takes 2 MiB."""


@contextlib.contextmanager
def memory(where: Path, size: int) -> Iterator[Path]:
    """A tmpfs of ``size`` bytes."""
    where.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", where)
    try:
        yield where
    finally:
        run("umount", where)


def fill(where: Path) -> None:
    """Until there is no room for a page."""
    with (where / "others").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    system = os.statvfs(where)
    assert system.f_bavail == 0, "it is not full"


def test_without_room_for_a_map_the_fault_names_it(tmp_path: Path) -> None:
    with memory(tmp_path / "run", 6 * MIB) as where:
        with pytest.raises(Fault) as refused:
            DirtyMap.create(str(where / "m.map"), HEADER)
        assert refused.value.code == RUNTIME_FULL.code
        assert os.listdir(where) == [], "it is left half made"


def test_others_may_fill_it_afterwards(tmp_path: Path) -> None:
    """Without its room a store to the mapped file would kill the process: SIGBUS."""
    with memory(tmp_path / "run", 16 * MIB) as where:
        path = str(where / "m.map")
        held = DirtyMap.create(path, HEADER)
        held.update(seeded=True)
        fill(where)
        held.mark_range(0, held.granules, 0.0)
        held.suspect_range(0, held.granules)
        assert held.leave_out(0, held.granules) == held.granules
        held.mark_range(5, 7, 0.0)
        held.close()
        again = DirtyMap.open(path, HEADER, 0.0)
        assert again.dirty_granules == 7
        again.close()


def test_an_empty_map_is_found_empty_without_reading_it(tmp_path: Path) -> None:
    with memory(tmp_path / "run", 16 * MIB) as where:
        path = str(where / "m.map")
        held = DirtyMap.create(path, HEADER)
        held.mark_range(40_000, 1, 0.0)
        held.update(seeded=True)
        held.close()
        again = DirtyMap.open(path, HEADER, 0.0)
        assert again.dirty_granules == 1
        assert again.state(40_000) == (True, False, False)
        again.close()
