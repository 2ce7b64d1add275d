"""How long does it take to ask the kernel what was written to a disk to which nobody writes?

A drain stands in every freeze, so it must not grow with the disk. Loop disks over holes; the maps
in the kernel are as large as for a disk that is full. And again with a thousand granules that were
written, in random places.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator
from functools import partial

from bench.contest import MILLISECONDS, Figures, Goal, Options, Question, Scale, Scene
from bench.images import BLOCK, GIB, MIB
from bench.leftovers import scratch
from bench.loops import sparse_loop
from bench.tracking import tracking

SIZES = {"64 GiB": 64 * GIB, "1 TiB": 1024 * GIB, "16 TiB": 16384 * GIB}
WRITTEN = 1000


def drained(device: str, size: int, drain: Callable[[], int]) -> Figures:
    """A drain of an idle disk, and one after scattered writes."""
    drain()
    begun = time.perf_counter()
    drain()
    idle = time.perf_counter() - begun
    fd = os.open(device, os.O_WRONLY)
    try:
        places = random.Random(1).sample(range(size // BLOCK), WRITTEN)
        for place in places:
            os.pwrite(fd, b"x" * BLOCK, place * BLOCK)
        os.fsync(fd)
    finally:
        os.close(fd)
    begun = time.perf_counter()
    marked = drain()
    seconds = time.perf_counter() - begun
    assert marked >= WRITTEN * 0.99, f"{marked} granules marked"
    return {"idle": idle, "written": seconds}


@contextlib.contextmanager
def scene(options: Options) -> Iterator[Scene]:
    """All disks at once, each with a tracker of its own."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(scratch())
        contestants = {}
        for name, size in SIZES.items():
            image = directory / f"{size // MIB}.img"
            device = stack.enter_context(sparse_loop(image, size))
            drain = stack.enter_context(tracking(directory, device))
            contestants[name] = partial(drained, device, size, drain)
        scale = Scale("idle", "size of the disk", {n: float(s) for n, s in SIZES.items()})
        yield Scene(dict(contestants), scale=scale)


QUESTION = Question(
    name="drain",
    title="a drain of the tracker, by the size of the disk",
    metrics={"idle": MILLISECONDS, "written": MILLISECONDS},
    goals=tuple(
        Goal(f"{name} idle under 50 ms", "idle", "<=", 0.05, ours=name, statistic="max")
        for name in SIZES
    ),
    scene=scene,
    rounds=(20, 5),
    root=True,
)
