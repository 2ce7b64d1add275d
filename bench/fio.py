"""fio, and the figures of it that we ask for."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.contest import Figures

_ALWAYS = ("fio", "--name=bench", "--thread", "--time_based", "--group_reporting")
"""Jobs are threads: as processes they leave our process group and outlive a kill."""


def measured(seconds: float, *options: str) -> Figures:
    """A run of fio: its I/O operations per second, and the 99th percentile of their latency.

    Raises:
        AssertionError: it failed.
    """
    command = [*_ALWAYS, f"--runtime={seconds:g}", "--output-format=json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"fio: exit {done.returncode}: {done.stderr}{done.stdout[-500:]}")
    job: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    busy = [job[way] for way in ("read", "write") if job[way]["total_ios"]]
    latency = max(way["clat_ns"]["percentile"]["99.000000"] for way in busy)
    return {"iops": sum(way["iops"] for way in busy), "p99": latency / 1e9}


@contextlib.contextmanager
def beside(options: Sequence[str], where: Path) -> Iterator[None]:
    """fio in the background, writing into a directory until the end."""
    command = [*_ALWAYS, "--runtime=36000", "--output=/dev/null", *options, f"--directory={where}"]
    process = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()
