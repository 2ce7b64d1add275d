"""A kill while a gap is being noted must not lose the gap."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from replicad import jobdisk
from tests.support.copying import bench


class Killed(BaseException):
    """The process is gone."""


def test_the_count_of_missed_events_is_noted_after_the_suspicion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other way round a kill in between leaves a map that agrees with the tracker, and lacks
    what was missed."""

    async def case(directory: Path) -> None:
        async with bench(directory, 64) as made:
            await made.sync()
            made.tracker.misses_now += 1

            def dies(*_: object) -> None:
                raise Killed

            monkeypatch.setattr(jobdisk, "suspect_all", dies)
            held = made.disk.live_map
            before = held.header.misses
            with pytest.raises(Killed):
                made.disks.drain_now()
            assert held.header.misses == before < made.tracker.misses_now

    with TemporaryDirectory(dir="/dev/shm") as directory:
        asyncio.run(case(Path(directory)))
