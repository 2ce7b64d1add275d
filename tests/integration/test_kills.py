"""kill -9 of either daemon: it goes on where it was, and every checkpoint is identical."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.load import bpftrace_beside, written_bytes
from tests.support.loops import MIB, flush, loop_device, mounted
from tests.support.pair import BIN, Pair, busy_writer, pair, same_content, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

SIZE = 320 * MIB
BALLAST = 96 * MIB
"""Bytes that are written once at the beginning and never again: sent again, they would show."""

IN_FLIGHT = 16 * MIB
"""Bytes that one kill may cost: what was sent and not durable, at the limit of LIMIT."""

LIMIT = "12MB"
"""Bandwidth (bytes) at which a full pass takes long enough to be killed in."""


class Scene:
    """A job over one mounted disk with ballast on it, and what it held when it was frozen."""

    def __init__(self, both: Pair, device: str, image: Path, where: Path) -> None:
        self.both = both
        self.device = device
        self.where = where
        self.reference = both.directory / "reference.img"
        both.keep_reference(image, self.reference)

    def identical(self) -> None:
        """The copy stands at a checkpoint now and is what was frozen."""
        assert same_content(self.both.intermediate(), self.reference)

    def checkpoint(self) -> None:
        """Take one, compare, go on."""
        assert self.both.checkpoint("--hold")["consistency"] == "filesystem"
        self.identical()
        self.both.resume()

    def begin_checkpoint(self) -> subprocess.Popen[bytes]:
        """Ask for one and do not wait for the answer."""
        command = [str(BIN / "receiver"), "--config", str(self.both.receiver.config)]
        return subprocess.Popen(
            [*command, "job", "checkpoint", self.both.job, "--wait", "--hold", "--json"],
            stdout=subprocess.DEVNULL,
        )

    def held(self) -> None:
        """Wait until a checkpoint that was asked for is there, compare, go on."""
        until(lambda: self.both.show()["held"], what="the checkpoint")
        self.identical()
        self.both.resume()

    def full(self) -> bool:
        """Whether the source is in its full pass now."""
        job = self.job()
        return job.get("state") == "syncing" and job["disks"][0]["pass"] == "full"

    def unlimited(self) -> None:
        """The rest as fast as it goes."""
        self.both.receiver.run("job", "set", self.both.job, "bandwidth=unlimited")

    def job(self) -> dict[str, Any]:
        """The job as the source sees it; counters are those of the source's process."""
        found: dict[str, Any] = self.both.status()["job"] or {}
        return found


@contextlib.contextmanager
def scene(tmp_path: Path, kind: str) -> Iterator[Scene]:
    """No job yet, nobody writes yet."""
    image = tmp_path / "disk.img"
    with (
        loop_device(image, SIZE) as device,
        mounted(device, tmp_path / "mnt", kind) as where,
        pair([device]) as both,
    ):
        (where / "ballast").write_bytes(os.urandom(BALLAST))
        flush(where)
        yield Scene(both, device, image, where)


@pytest.mark.parametrize(("kind", "observed"), [("ext4", False), ("xfs", False), ("xfs", True)])
def test_what_changes_while_the_source_daemon_is_dead(
    kind: str, observed: bool, tmp_path: Path
) -> None:
    """Tracking goes on in the kernel: a delta pass is all that is needed afterwards."""
    with (
        scene(tmp_path, kind) as it,
        bpftrace_beside() if observed else contextlib.nullcontext(),
    ):
        both = it.both
        both.create("--freeze-budget", "30s")
        both.synced()
        both.clean()
        both.source.kill()
        before = written_bytes(it.device)
        with busy_writer(it.where, "30M"):
            until(lambda: written_bytes(it.device) - before > 64 * MIB, what="heavy writing")
            both.source.start()
            seen: set[str] = set()

            def swept() -> bool:
                disks = it.job().get("disks", [])
                seen.update(disk["pass"] for disk in disks)
                return bool(disks) and disks[0]["passed"] > 0

            until(swept, what="a pass after the restart", step=0.0)
            it.checkpoint()
            after = it.job()
            written = written_bytes(it.device) - before
        assert seen <= {"delta", "idle"}
        assert after["disks"][0]["trust"].startswith("tracked without a gap since")
        assert after["logical_bytes"] <= written
        assert after["wire_bytes"] <= 1.1 * written
        assert both.status()["tracker"]["misses"] == 0


def test_the_source_daemon_killed_at_ten_random_moments(tmp_path: Path) -> None:
    """Three times in the full pass, three in delta passes, four in checkpoints.

    In all, no more is sent than the disk, what was written, and what ten kills caught in flight.
    """
    moment = random.Random(10)
    with scene(tmp_path, "ext4") as it:
        both = it.both
        start = written_bytes(it.device)

        def kill_after(most: float) -> None:
            time.sleep(moment.uniform(0, most))
            both.source.kill()
            both.source.start()

        both.create("--freeze-budget", "30s", "--bandwidth", LIMIT)
        for _ in range(3):
            until(it.full, what="the full pass")
            kill_after(0.5)
        it.unlimited()
        both.synced()
        it.checkpoint()
        with busy_writer(it.where, "5M"):
            for _ in range(3):
                kill_after(1.5)
                it.checkpoint()
            for _ in range(4):
                asked = it.begin_checkpoint()
                kill_after(2.0)
                assert asked.wait(60) == 0
                it.held()
        written = written_bytes(it.device) - start
        assert both.show()["logical_bytes"] <= SIZE + written + 10 * IN_FLIGHT


def test_the_receiver_killed_in_each_phase(tmp_path: Path) -> None:
    """The full pass is not begun anew, and nobody has to tell the two to go on."""
    with scene(tmp_path, "ext4") as it:
        both = it.both
        both.create("--freeze-budget", "30s", "--bandwidth", LIMIT)
        with busy_writer(it.where, "5M"):
            start = written_bytes(it.device)
            until(lambda: it.full() and it.job()["wire_bytes"] > BALLAST / 2, what="half of it")
            both.receiver.kill()
            both.receiver.start()
            it.unlimited()
            both.synced()
            until(lambda: it.job()["disks"][0]["pass"] == "delta", what="a delta pass", step=0.0)
            both.receiver.kill()
            both.receiver.start()
            both.state("syncing")
            it.checkpoint()
            asked = it.begin_checkpoint()
            until(lambda: it.job()["state"] == "checkpointing", what="a checkpoint", step=0.0)
            both.receiver.kill()
            assert asked.wait(60) != 0, "who asked cannot be told that it was taken"
            both.receiver.start()
            it.held()
            written = written_bytes(it.device) - start
        job = it.job()
        assert job["logical_bytes"] <= SIZE + written + 3 * IN_FLIGHT
        assert job["wire_bytes"] <= 1.1 * (BALLAST + 32 * MIB + written + 3 * IN_FLIGHT)
