"""For how long does a checkpoint freeze a filesystem that is written all the time?

Two real daemons, ext4 on a loop disk, fio writing 20 MB/s of random 16 KiB blocks to it. It says
the median, the 95th percentile and the longest of what the daemon measured, how far its forecast
was from it, and the longest stall of a writer that knows nothing of us. ``BENCH_TREE`` names
another working tree whose daemons take turns with ours, to compare before and after.
Run it with ``python -m bench.frozen [ROUNDS]``.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.support.loops import MIB, loop_device, mounted
from tests.support.pair import Pair, pair
from tests.support.stall import Observer

FIO = (
    *("fio", "--name=w", "--size=300m", "--rw=randwrite", "--bs=16k", "--rate=20m", "--thread"),
    *("--time_based", "--runtime=900", "--output=/dev/null", "--ioengine=psync"),
)


def figures(frozen: list[float], stalls: list[float]) -> dict[str, float]:
    """Of one tree, in seconds."""
    cuts = statistics.quantiles(frozen, n=20)
    return {
        "checkpoints": len(frozen),
        "p50": round(cuts[9], 4),
        "p95": round(cuts[18], 4),
        "longest": round(max(frozen), 4),
        "longest_stall_seen": round(max(stalls), 4),
    }


def forecasts(both: Pair) -> list[float]:
    """What was forecast over what it took, for each checkpoint of which the log says both."""
    events: list[dict[str, Any]] = [json.loads(line) for line in both.source.log.open()]
    return [
        event["forecast_seconds"] / event["frozen_seconds"]
        for event in events
        if event["event"] == "checkpoint.committed" and "forecast_seconds" in event
    ]


def measure(rounds: int, tree: Path | None) -> dict[str, Any]:
    """Take so many checkpoints with the daemons of a tree."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-frozen-") as directory,
        loop_device(Path(directory, "disk.img"), 640 * MIB) as device,
        mounted(device, Path(directory, "mnt"), "ext4") as where,
        pair([device], start=False) as both,
        Observer(where) as observer,
    ):
        both.receiver.start()
        both.source.start(**({"PYTHONPATH": str(tree)} if tree else {}))
        both.enrol()
        fio = subprocess.Popen([*FIO, f"--directory={where}"], start_new_session=True)
        try:
            both.create()
            both.synced()
            frozen, stalls = [], []
            for _ in range(rounds):
                observer.restart()
                frozen.append(both.checkpoint()["frozen_seconds"])
                stalls.append(observer.stalled)
        finally:
            fio.terminate()
            fio.wait()
        ratios = forecasts(both)
        found: dict[str, Any] = dict(figures(frozen, stalls))
        if ratios:
            found["forecast_over_real_p50"] = round(statistics.median(ratios), 2)
        return found


def main(rounds: int = 20) -> int:
    """Print one JSON object a tree and round."""
    other = os.environ.get("BENCH_TREE")
    trees = [None, Path(other)] if other else [None]
    for _ in range(2 if other else 1):
        for tree in trees:
            print(json.dumps({"tree": str(tree or "this"), **measure(rounds, tree)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:2])))
