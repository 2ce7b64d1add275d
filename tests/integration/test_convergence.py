"""Whether passes converge is said in time, with the true rates, once for each change."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.support.load import written_bytes
from tests.support.loops import MIB, flush, loop_device, mounted
from tests.support.pair import CommandFailed, Pair, pair, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

WRITTEN = 12_000_000
"""Bytes per second that fio writes."""

BELOW, ABOVE = "24Mbit", "400Mbit"
NEAR = 0.25
"""How far a rate that is said may be from the real one."""


@contextlib.contextmanager
def writing(where: Path, size: int = 160) -> Iterator[None]:
    """fio: new random blocks at a known rate, straight to the disk."""
    fio = subprocess.Popen(
        [
            *("fio", "--name=w", f"--size={size}M", "--rw=randwrite", "--bs=16k"),
            *(f"--rate={WRITTEN}", "--ioengine=psync", "--direct=1", "--time_based"),
            *("--runtime=600", "--refill_buffers", "--buffer_compress_percentage=0", "--thread"),
            *(f"--directory={where}", "--output=/dev/null"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(fio.pid, signal.SIGKILL)
        fio.wait()


def reaches(both: Pair, state: str, seconds: float = 60.0) -> dict[str, Any]:
    """Wait until the job is said to converge, or not."""
    found: dict[str, Any] = until(
        lambda: (c := both.show()["convergence"])["state"] == state and c, seconds, state
    )
    return found


def log_events(both: Pair, name: str) -> list[dict[str, Any]]:
    lines = both.source.log.read_text().splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [event for event in found if event["event"] == name]


def test_the_rates_are_true_and_the_state_follows_the_line(tmp_path: Path) -> None:
    with (
        loop_device(tmp_path / "disk.img", 320 * MIB) as device,
        mounted(device, tmp_path / "mnt", "ext4") as where,
        pair([device]) as both,
    ):
        (where / "w.0.0").write_bytes(os.urandom(160 * MIB))
        flush(where)
        both.create("--freeze-budget", "100ms")
        both.synced()
        with writing(where):
            both.receiver.run("job", "set", both.job, f"bandwidth={BELOW}")
            reaches(both, "not converging")
            begun = written_bytes(device)
            at = both.status()["job"]["wire_bytes"]
            # The window of the rates: what they are made of then was written under this limit.
            seconds = 16.0
            time.sleep(seconds)
            real = (written_bytes(device) - begun) / seconds
            wire = (both.status()["job"]["wire_bytes"] - at) / seconds
            said = reaches(both, "not converging")
            print(f"written {real:.0f} B/s, sent {wire:.0f} B/s, said {said}")
            assert said["write_bytes_per_second"] == pytest.approx(real, rel=NEAR)
            assert said["send_bytes_per_second"] == pytest.approx(wire, rel=NEAR)
            assert said["needed_bytes_per_second"] == pytest.approx(real, rel=NEAR)
            assert "do not converge" in said["sentence"]
            assert "Mbit/s are needed" in said["sentence"]
            assert "a freeze now would take" in said["sentence"]
            assert said["freeze_allowed_seconds"] == 0.1

            # It does not fit, and that is said, in time; the job goes on.
            with pytest.raises(CommandFailed) as refused:
                both.checkpoint()
            error = refused.value.error["error"]
            assert error["code"] == "RPL-6004"
            assert "do not converge" in error["message"]
            assert both.state("syncing")["convergence"]["state"] == "not converging"

            both.receiver.run("job", "set", both.job, f"bandwidth={ABOVE}")
            reaches(both, "converging")
            both.receiver.run("job", "set", both.job, "freeze_budget=2s")
            both.checkpoint()
        sides: list[tuple[Literal["source", "receiver"], str]]
        sides = [("source", "replicad"), ("receiver", "receiver")]
        for side, prefix in sides:
            both.metric(side, f"{prefix}_convergence", 1)
            both.metric(side, f"{prefix}_freeze_allowed_seconds", 2.0)
            assert both.metrics(side)[f"{prefix}_write_bytes_per_second"] > 0
        assert len(log_events(both, "convergence.lost")) == 1
        assert len(log_events(both, "convergence.regained")) == 1
        assert "convergence" in both.status()["job"]


def test_rewriting_a_few_blocks_does_not_outrun_a_slow_line(tmp_path: Path) -> None:
    """The disk is written several times as fast as the line, but always in the same place."""
    with (
        loop_device(tmp_path / "disk.img", 160 * MIB) as device,
        mounted(device, tmp_path / "mnt", "ext4") as where,
        pair([device]) as both,
    ):
        both.create("--bandwidth", BELOW)
        both.synced()
        with writing(where, size=1):
            until(lambda: both.show()["convergence"]["write_bytes_per_second"], what="a rate")
            begun = written_bytes(device)
            time.sleep(5.0)
            assert (written_bytes(device) - begun) / 5.0 > 2 * 3e6
            said = both.show()["convergence"]
        assert said["state"] == "converging", said
        assert said["write_bytes_per_second"] < 2e6
