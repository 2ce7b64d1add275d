"""What does being tracked cost a disk?

fio, random writes of 4 KiB at depth 32, to a loop disk in memory: the fastest disk that this
machine has, so that the cost shows. Tracked as the daemon does it, drained once a second; beside it
the same disk with no program loaded.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from bench.contest import Figures, Goal, Metric, Options, Question, Scene
from bench.fio import measured
from bench.images import GIB, MIB, touch
from bench.leftovers import scratch
from bench.loops import loop
from bench.tracking import tracking

DRAIN_SECONDS = 1.0


def writes(device: str, seconds: float) -> Figures:
    """One run of fio."""
    how = ("--rw=randwrite", "--bs=4k", "--iodepth=32", "--ioengine=libaio", "--direct=1")
    return measured(seconds, *how, f"--filename={device}", "--norandommap", "--randrepeat=0")


def tracked(device: str, seconds: float, directory: Path) -> Figures:
    """The same while the disk is tracked; what was marked must be there at the end."""
    over = threading.Event()
    marked = [0]
    with tracking(directory, device) as drain:

        def drains() -> None:
            while not over.wait(DRAIN_SECONDS):
                marked[0] += drain()

        thread = threading.Thread(target=drains)
        thread.start()
        try:
            figures = writes(device, seconds)
        finally:
            over.set()
            thread.join()
        marked[0] += drain()
    assert marked[0] > 0, "nothing was tracked"
    return figures


@contextlib.contextmanager
def scene(options: Options) -> Iterator[Scene]:
    """A loop disk whose file is touched."""
    size, seconds = options.bytes(GIB, 128 * MIB), options.pick(3, 2)
    with scratch() as directory:
        image = directory / "disk.img"
        touch(image, size)
        with loop(image) as device:
            yield Scene(
                {
                    "tracked": lambda: tracked(device, seconds, directory),
                    "not tracked": lambda: writes(device, seconds),
                },
                size=size,
            )


QUESTION = Question(
    name="tracker_cost",
    title="fio on a loop disk in memory, 4 KiB random writes at depth 32, tracked and not",
    metrics={"iops": Metric("kIOPS", 1e-3, 1), "p99": Metric("us", 1e6, 0)},
    goals=(
        Goal(
            "IOPS at least 0.98 of without",
            "iops",
            ">=",
            0.98,
            ours="tracked",
            peers=("not tracked",),
        ),
        Goal(
            "p99 latency at most 1.05 of without",
            "p99",
            "<=",
            1.05,
            ours="tracked",
            peers=("not tracked",),
        ),
    ),
    scene=scene,
    rounds=(31, 2),
    root=True,
)
