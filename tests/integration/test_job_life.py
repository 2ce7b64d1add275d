"""A job's life from outside: schedule, pause, limit, compression, cancel, cutover, delete."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from replicad.tracker import EbpfTracker, pin_directory
from tests.replicad.tracker.devices import Direct
from tests.support.loops import MIB, loop_device
from tests.support.pair import CommandFailed, Pair, pair, same_content, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

SIZE = 128 * MIB
Writer = Callable[[int, int, bytes], None]


@contextlib.contextmanager
def raw_pair(tmp_path: Path) -> Iterator[tuple[Pair, Direct, Path]]:
    """A pair, and direct writes to its one unmounted disk."""
    image = tmp_path / "disk.img"
    with loop_device(image, SIZE) as device, pair([device]) as both:
        direct = Direct(device, MIB)
        yield both, direct, image
        direct.close()


def fill(direct: Direct, count: int, data: Callable[[], bytes]) -> None:
    """``count`` MiB from the disk's beginning."""
    for place in range(count):
        direct.write(place * MIB, data())


def noise() -> bytes:
    return os.urandom(MIB)


def pattern() -> bytes:
    """Random, and half of it is a repetition: compresses to about a half, not to nothing."""
    return b"".join(part * 2 for part in (os.urandom(512) for _ in range(MIB // 1024)))


def set_(both: Pair, *pairs: str) -> dict[str, Any]:
    """``job set``."""
    view: dict[str, Any] = both.receiver.run("job", "set", both.job, *pairs)
    return view


def test_a_schedule_makes_checkpoints_by_itself(tmp_path: Path) -> None:
    chosen = random.Random(11)
    with raw_pair(tmp_path) as (both, direct, image):
        fill(direct, 16, noise)
        both.create("--every", "3s", "--freeze-budget", "10s")
        seen: set[str] = set()

        def epoch(at_least: int) -> bool:
            view = both.show()
            seen.add(view["state"])
            return bool(view["epoch"] >= at_least)

        until(lambda: epoch(2), what="two scheduled checkpoints", step=0.02)
        assert "waiting" in seen
        view = both.state("waiting")
        assert view["next_sync"] is not None
        direct.write(chosen.randrange(SIZE // 4096) * 4096, os.urandom(4096))
        until(lambda: epoch(view["epoch"] + 2), what="two more", step=0.02)
        both.receiver.run("job", "pause", both.job)
        assert both.show()["state"] == "paused"
        paused = both.show()["epoch"]
        time.sleep(4)  # longer than the schedule: nothing may happen in this time
        assert both.show()["epoch"] == paused
        assert same_content(both.intermediate(), image)
        both.receiver.run("job", "resume", both.job)
        until(lambda: epoch(paused + 1), what="a checkpoint after the pause")
        set_(both, "every=none")


def test_pause_limit_and_compression_while_it_runs(tmp_path: Path) -> None:
    with raw_pair(tmp_path) as (both, direct, image):
        fill(direct, 64, noise)
        both.create("--bandwidth", "10MB", "--compress", "none")
        until(lambda: both.show()["wire_bytes"] > 4 * MIB, what="some of it")
        begun, before = time.monotonic(), both.show()["wire_bytes"]
        until(lambda: both.show()["wire_bytes"] - before > 32_000_000, what="32 MB")
        rate = (both.show()["wire_bytes"] - before) / (time.monotonic() - begun)
        assert rate == pytest.approx(10e6, rel=0.25)
        shown = both.show()
        assert shown["speed_bytes_per_second"] == pytest.approx(10e6, rel=0.25)

        both.source.run("pause")
        assert both.show()["state"] == "paused"
        direct.write(100 * MIB, noise())
        until(lambda: not both.metrics("receiver")["receiver_sessions"], what="the session's end")
        held = both.show()["wire_bytes"]
        dirty = until(lambda: both.show()["disks"][0]["dirty_bytes"], what="dirt while paused")
        assert dirty >= MIB
        assert both.show()["wire_bytes"] == held
        both.source.run("resume")
        both.source.run("limit", "unlimited")
        assert both.show()["bandwidth"] == 0
        both.clean()

        ratios = []
        for level in ("none", "3"):
            assert set_(both, f"compress={level}")["compress"] == level
            before = both.show()
            fill(direct, 32, pattern)
            after = both.clean(sent=before["logical_bytes"] + 32 * MIB)
            logical, wire = (after[k] - before[k] for k in ("logical_bytes", "wire_bytes"))
            ratios.append(wire / logical)
        assert ratios[0] == pytest.approx(1, abs=0.01)
        assert ratios[1] < 0.6
        both.checkpoint("--hold")
        assert same_content(both.intermediate(), image)


def test_cutover_ends_the_job_and_the_tracking(tmp_path: Path) -> None:
    with raw_pair(tmp_path) as (both, direct, image):
        fill(direct, 24, noise)
        both.create()
        both.synced()
        runtime = both.directory / "sr"
        assert list(runtime.glob("*.map"))
        direct.write(64 * MIB, noise())
        taken = both.receiver.run("job", "cutover", both.job, "--wait")
        assert taken["consistency"] == "crash"
        view = both.show()
        assert (view["state"], view["outcome"], view["error"]) == ("finished", "cutover", None)
        copy = both.intermediate()
        assert same_content(copy, image)
        until(lambda: not list(runtime.glob("*.map")), what="the maps' end")
        direct.write(64 * MIB, noise())
        assert not same_content(copy, image), "the copy went on after the cutover"
        both.source.kill()
        tracker = EbpfTracker.open(pin_directory(runtime), runtime)
        try:
            assert tracker.tracked() == []
        finally:
            tracker.close()
        both.source.start()
        assert both.receiver.run("job", "delete", both.job) == {"deleted": both.job}
        assert not copy.exists()
        assert both.receiver.run("job", "list") == []
        assert not list(both.storage.rglob(f"*{both.job}*"))


def test_cancel_and_a_new_job(tmp_path: Path) -> None:
    with raw_pair(tmp_path) as (both, direct, image):
        fill(direct, 48, noise)
        both.create("--bandwidth", "4MB")
        until(lambda: both.show()["wire_bytes"] > MIB, what="some of it")
        both.receiver.run("job", "cancel", both.job)
        view = both.show()
        assert (view["state"], view["outcome"]) == ("finished", "cancelled")
        with pytest.raises(CommandFailed) as refused:
            both.checkpoint()
        assert refused.value.code == 3
        until(lambda: not list((both.directory / "sr").glob("*.map")), what="the maps' end")
        old = both.intermediate()
        both.receiver.run("job", "delete", both.job)
        assert not old.exists()
        both.create()
        both.synced()
        both.checkpoint("--hold")
        assert same_content(both.intermediate(), image)
