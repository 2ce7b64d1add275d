"""How much memory does the source need for a large disk?

Disks of 1 GiB to 16 TiB, sparse, with xfs and a few files. A first pass for at most 30 s and,
when it ends in that time, a checkpoint. Then: the most that was ever resident in the source's
daemon (VmHWM: the dirty map, which is a mapped file, is in it), what of it is its own and not of
files (RssAnon, now), the bytes of its dirty map, and of its maps in the kernel.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.contest import MEBIBYTES, SECONDS, Figures, Goal, Metric, Options, Question, Scale, Scene
from bench.images import GIB, MIB
from bench.leftovers import scratch
from bench.loops import filesystem, fill, sparse_loop
from bench.ours import ours

SIZES = {"1 GiB": GIB, "64 GiB": 64 * GIB, "1 TiB": 1024 * GIB, "16 TiB": 16384 * GIB}
MAP_BOUND = 32 * MIB
"""Bytes of one bitmap at most: the granule is chosen so. The kernel has two for each disk."""

SLACK = 1.05
"""A map also has levels above its bits, or a header, and pages of the kernel."""

BITMAPS = 4
"""In a dirty map: dirty, suspect, in flight, left out."""


def status(pid: int, key: str) -> int:
    """A figure of ``/proc/PID/status``, in bytes."""
    found = re.search(rf"{key}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def kernel_maps(pid: int) -> list[int]:
    """Bytes of each BPF map that a process has open."""
    maps: dict[str, int] = {}
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(OSError):
            said = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
            if "map_id" in said:
                maps[said["map_id"]] = int(said["memlock"])
    return list(maps.values())


def needed(directory: Path, size: int, seconds: float) -> Figures:
    """A disk with a filesystem, copied by daemons of its own for at most so many seconds."""
    with (
        sparse_loop(directory / "disk.img", size) as device,
        filesystem(device, directory / "mnt", "xfs") as where,
        ours([device]) as we,
    ):
        fill(where / "file", 32 * MIB)
        begun, since = time.monotonic(), we.mark()
        we.both.create()
        pid = we.both.source.pid
        kernel: list[int] = []
        while not (over := we.has_ended(since)) and time.monotonic() < begun + seconds:
            kernel = max(kernel, kernel_maps(pid), key=sum)
            time.sleep(0.2)
        taken = time.monotonic() - begun
        if over:
            we.both.checkpoint("--hold")
        dirty = sum(path.stat().st_size for path in (we.both.directory / "sr").glob("*.map"))
        return {
            "resident": status(pid, "VmHWM"),
            "own": status(pid, "RssAnon"),
            "map": dirty,
            "kernel": sum(kernel),
            "largest": max(kernel),
            "done": float(over),
            "seconds": taken,
        }


@contextlib.contextmanager
def scene(options: Options) -> Iterator[Scene]:
    """One size after the other."""
    seconds = options.pick(30, 2)
    with scratch() as directory:
        scale = Scale("resident", "size of the disk", {n: float(s) for n, s in SIZES.items()})
        runs = {n: partial(needed, directory, s, seconds) for n, s in SIZES.items()}
        notes = [f"done: whether the first pass ended in {seconds} s; then a checkpoint followed"]
        yield Scene(dict(runs), scale=scale, notes=notes)


SMALLEST, LARGEST = "1 GiB", "16 TiB"

QUESTION = Question(
    name="memory",
    title="memory of the source by the size of a sparse disk",
    metrics={
        "resident": MEBIBYTES,
        "own": MEBIBYTES,
        "map": MEBIBYTES,
        "kernel": MEBIBYTES,
        "largest": MEBIBYTES,
        "done": Metric("", 1.0, 0),
        "seconds": SECONDS,
    },
    goals=(
        Goal(
            "16 TiB: resident under 150 MiB",
            "resident",
            "<=",
            150 * MIB,
            ours=LARGEST,
            statistic="max",
        ),
        Goal(
            "1 GiB, a checkpoint included: resident under 150 MiB",
            "resident",
            "<=",
            150 * MIB,
            ours=SMALLEST,
            statistic="max",
        ),
        Goal(
            "16 TiB: the largest map in the kernel 32 MiB and its levels",
            "largest",
            "<=",
            MAP_BOUND * SLACK,
            ours=LARGEST,
            statistic="max",
        ),
        Goal(
            "16 TiB: the dirty map four bitmaps of 32 MiB",
            "map",
            "<=",
            BITMAPS * MAP_BOUND * SLACK,
            ours=LARGEST,
            statistic="max",
        ),
    ),
    scene=scene,
    rounds=(5, 1),
    root=True,
    warm_up=False,
)
