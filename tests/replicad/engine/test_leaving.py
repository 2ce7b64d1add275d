"""What is of no use is known at the right moment, and what was never ours is not left in a copy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from replicad.engine import leaving
from replicad.recovery import FOREIGN_FLAG, SINCE_COMPARE
from replicad.unused import Area
from tests.support.copying import GRANULE, Bench, bench

COUNT = 64


def with_bench(case: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def run(directory: Path) -> None:
        async with bench(directory, COUNT) as made:
            await made.sync()
            await case(made)

    with TemporaryDirectory(dir="/dev/shm") as directory:
        asyncio.run(run(Path(directory)))


def test_swap_is_looked_up_for_each_bitmap_that_is_handed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A drain after an interrupted one hands over two: what is in the second may have been written
    when what was swap at the first was no longer."""
    swap = [Area("0:0", 0, COUNT * GRANULE)]
    monkeypatch.setattr(leaving, "swap_areas", lambda: list(swap))

    async def case(made: Bench) -> None:
        await made.disks.leave_out("auto")
        tracker, disk, held = made.tracker, made.disk, made.disk.live_map

        def drain(disks: Any, sink: Any, handed: Any) -> dict[str, Any]:
            tracked = disks[0]
            sink(tracked, 0, np.array([1 << 3], np.uint64))
            handed(tracked, 1)
            swap.clear()  # swapoff, and a filesystem is made
            sink(tracked, 0, np.array([1 << 5], np.uint64))
            handed(tracked, 2)
            return {}

        monkeypatch.setattr(tracker, "drain", drain)
        made.disks.drain_now()
        assert not held.state(3)[0]
        assert held.state(5)[0], "a write was taken for swapping"
        assert disk.live_map.left_out_bytes == GRANULE

    with_bench(case)


def test_a_comparison_that_left_something_to_send_has_not_made_all_equal() -> None:
    """What differs is found at the end of a pass: it is still what another machine wrote."""

    async def case(made: Bench) -> None:
        disk, held = made.disk, made.disk.live_map
        held.update(flags=(SINCE_COMPARE, FOREIGN_FLAG))
        held.mark_range(7, 1, 0.0)
        disk.kind = "compare"
        disk.end_pass()
        assert set(held.header.flags) == {SINCE_COMPARE, FOREIGN_FLAG}
        await made.disks.leave_out("skip")
        await made.sync()
        assert held.clean
        assert set(held.header.flags) == {SINCE_COMPARE}

    with_bench(case)


def test_what_could_not_be_read_was_not_made_equal() -> None:
    async def case(made: Bench) -> None:
        disk, held = made.disk, made.disk.live_map
        held.update(flags=(SINCE_COMPARE, FOREIGN_FLAG))
        disk.unreadable.passed_over = GRANULE
        disk.kind = "delta"
        disk.end_pass()
        assert FOREIGN_FLAG in held.header.flags

    with_bench(case)
