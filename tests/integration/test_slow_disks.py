"""Slow disks on either side: nothing times out, nothing piles up, and what is said is true."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.baddisk import attached, bad_disk
from tests.support.loops import MIB, run
from tests.support.pair import Pair, pair, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

SIZE = 96 * MIB
ANSWER_SECONDS = 3.0
"""For a daemon whose disk takes longer than this for everything. (It answers in milliseconds; the
machine may be busy.)"""

MEMORY_BYTES = 96 * MIB
"""By which a daemon may grow while it moves SIZE and more: buffers, not what waits for a disk."""


def write(path: str | Path, at: int, size: int) -> None:
    with open(path, "r+b") as disk:
        disk.seek(at)
        disk.write(random.Random(at + size).randbytes(size))
        disk.flush()
        os.fsync(disk.fileno())


def resident(pid: int) -> int:
    """Bytes of memory of a process now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no such process")


def watched(both: Pair, done: Callable[[dict[str, Any]], bool], seconds: float) -> float:
    """Ask both daemons all the time until ``done``; the longest answer in seconds."""
    longest, deadline = 0.0, time.monotonic() + seconds
    while True:
        begun = time.monotonic()
        view, status = both.show(), both.status()
        longest = max(longest, time.monotonic() - begun)
        assert status["connected"]
        assert status["job"]["reconnects"] == 0
        assert view["state"] in {"preparing", "syncing"}, view["error"]
        if done(status["job"]):
            return longest
        assert time.monotonic() < deadline, view
        time.sleep(0.2)


def in_step(job: dict[str, Any]) -> bool:
    return bool(job["disks"]) and not (
        job["disks"][0]["dirty_bytes"] or job["disks"][0]["in_flight_bytes"]
    )


def test_a_slow_source_and_a_slow_target(tmp_path: Path) -> None:
    with (
        bad_disk(tmp_path, SIZE, "source") as slow_source,
        attached(slow_source) as device,
        bad_disk(tmp_path, SIZE, "target") as slow_target,
        attached(slow_target) as target,
        pair([device]) as both,
    ):
        write(device, 0, SIZE)
        before = {side.pid: resident(side.pid) for side in (both.receiver, both.source)}
        slow_source.delay = 0.1  # for each MiB
        both.create("--freeze-budget", "60s", "--disk", device, "--target", f"device:{target}")
        both.state("syncing")
        seen: list[tuple[int, float | None]] = []

        def first_copy(job: dict[str, Any]) -> bool:
            disk = job["disks"][0] if job["disks"] else {"transferred_bytes": 0}
            seen.append((disk["transferred_bytes"], job["remaining_seconds"]))
            return in_step(job)

        watched(both, first_copy, 60)
        assert len({done for done, _ in seen}) > 4, "its progress was not shown"
        assert any(remaining is not None and remaining > 1 for _, remaining in seen)

        # The target takes seconds for each write and each sync; both daemons go on answering.
        slow_source.delay = 0.0
        slow_target.delay = 4.0
        write(device, MIB, 64 * 4096)
        until(lambda: not in_step(both.status()["job"]), 20, "the change being seen")
        until(lambda: not in_step(both.show()), 3, "the receiver saying that it lacks something")
        longest = watched(both, in_step, 60)
        assert longest < ANSWER_SECONDS, "a slow disk held up a daemon"
        slow_target.delay = 0.03
        write(device, 0, SIZE)
        watched(both, in_step, 60)
        grown = {pid: resident(pid) - size for pid, size in before.items()}
        assert all(growth < MEMORY_BYTES for growth in grown.values()), grown
        both.checkpoint("--hold")
        run("cmp", "-n", str(SIZE), target, device)
        assert "RPL-3" not in both.source.log.read_text(), "a connection was lost"
