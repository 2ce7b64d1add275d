"""The dirty map's file: what survives, what is refused, what stays a hole."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from replicad.dirtymap import DirtyMap, Header, MapRefusedError, NotInFlightError
from replicad.dirtymap.header import SLOT_BYTES
from replicad.dirtymap.store import _filled_pages, file_size
from replicad.planner import NotSettledError, Sweep, take_everything

if TYPE_CHECKING:
    from collections.abc import Iterator

    from replicad.dirtymap import Kind

HEADER = Header(job="j", disk="/dev/x", size=(1 << 30) - 1000, granule=4096, boot="b", misses=0)


@pytest.fixture
def path() -> Iterator[str]:
    with TemporaryDirectory(dir="/dev/shm") as directory:
        yield f"{directory}/map"


def seeded(path: str, header: Header = HEADER) -> DirtyMap:
    made = DirtyMap.create(path, header)
    made.update(seeded=True)
    return made


def test_what_was_in_flight_is_dirty_after_a_kill_and_suspects_stay_suspect(path: str) -> None:
    left = seeded(path)
    left.mark_range(0, 10, 0.0)
    left.suspect_range(1000, 32)
    assert Sweep(left, 0, "data").take() is not None
    assert Sweep(left, 0, "compare").take() is not None
    assert left.dirty_granules == 0
    found = DirtyMap.open(path, HEADER, 5.0)
    assert (found.dirty_granules, found.flying_granules) == (10 + 16, 0)  # block edges: 992, 1024
    assert found.suspect_granules == 32
    assert found.oldest == 5.0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"boot": "c"}, "booted"),
        ({"misses": 3}, "missed 3"),
        ({"handed": 1}, "older copy"),
        ({"generation": "g"}, "intermediate"),
        ({"size": 4096}, "1073740824"),
        ({"token": "t"}, "tracker"),
        ({"job": "k"}, "job j"),
    ],
)
def test_a_map_of_something_else_is_refused(
    path: str, change: dict[str, object], reason: str
) -> None:
    seeded(path).close()
    with pytest.raises(MapRefusedError, match=reason):
        DirtyMap.open(path, msgspec.structs.replace(HEADER, **change), 0.0)


def test_an_unseeded_map_is_refused(path: str) -> None:
    DirtyMap.create(path, HEADER).close()
    with pytest.raises(MapRefusedError, match="never filled"):
        DirtyMap.open(path, HEADER, 0.0)


def test_a_half_written_header_leaves_the_one_before(path: str) -> None:
    made = seeded(path)
    made.update(epoch=1)
    made.update(epoch=2)
    made.close()
    content = bytearray(Path(path).read_bytes())
    content[40] ^= 1  # the slot of the last, even sequence number
    newest = 0 if b'"epoch":2' in content[:SLOT_BYTES] else SLOT_BYTES
    content[40] ^= 1
    content[newest + 40] ^= 1
    Path(path).write_bytes(content)
    assert DirtyMap.open(path, HEADER, 0.0).header.epoch == 1
    content[SLOT_BYTES - newest + 40] ^= 1
    Path(path).write_bytes(content)
    with pytest.raises(MapRefusedError, match="damaged"):
        DirtyMap.open(path, HEADER, 0.0)


def test_an_unused_suspect_map_stays_untouched(path: str) -> None:
    header = msgspec.structs.replace(HEADER, size=16 << 40, granule=65536)
    made = seeded(path, header)
    made.mark_range(0, 1000, 0.0)
    made.mark_range(made.granules - 5, 5, 0.0)
    for batch in take_everything(made, 0):
        made.acked(batch)
    assert made.clean
    with Path(path).open("rb") as file:
        touched = sum(end - first for first, end in _filled_pages(file.fileno(), file_size(header)))
    assert touched * 4096 < 128 << 10


def test_dirty_bytes_end_where_the_disk_ends(path: str) -> None:
    made = seeded(path)
    made.mark(0, np.full(4096 + 5, 2**64 - 1, dtype=np.uint64), 0.0)
    assert made.dirty_bytes == HEADER.size
    assert sum(batch.bytes(4096, HEADER.size) for batch in take_everything(made, 0)) == HEADER.size


def test_a_batch_is_answered_once(path: str) -> None:
    made = seeded(path)
    made.mark_range(0, 1, 0.0)
    batch = Sweep(made, 0, "data").take()
    assert batch is not None
    with pytest.raises(NotSettledError):
        take_everything(made, 0)
    made.acked(batch)
    with pytest.raises(NotInFlightError):
        made.acked(batch)


@pytest.mark.parametrize("kind", ["data", "compare"])
def test_what_was_in_flight_when_events_were_missed_is_sent_again(path: str, kind: Kind) -> None:
    made = seeded(path)
    if kind == "data":
        made.mark_range(3, 5, 0.0)
    else:
        made.suspect_range(3, 5)
    batch = Sweep(made, 0, kind).take()
    assert batch is not None
    made.suspect_range(0, made.granules)
    if kind == "data":
        made.acked(batch)
    else:
        made.compared(batch, (), 0.0)
    # The answer is about content from before the write that went unnoticed.
    assert all(made.state(granule)[0] for granule in range(3, 8))
    assert made.state(100) == (False, True, False)
    made.close()
