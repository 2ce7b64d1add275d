"""What do 50 sources get that copy into one receiver at the same time, and does each its share?

50 daemons copy the same image, together as many bytes as one source copies alone. The share of a
job is its part of what came from when the last one had sent something until the first one had
sent all, held against an equal part. What came is what its copy holds (nothing of it can be
compressed or is zero), so nobody is asked who is at work. Each of the 50 has a bandwidth limit, far
above an equal share, so that the first one has not ended before the last one has begun.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from bench.contest import RATE, RATIO, Figures, Goal, Options, Question, Scale, Scene
from bench.fleet import Fleet, fleet
from bench.images import GIB, MIB, random_image
from bench.leftovers import scratch, touched
from bench.ours import WAIT_SECONDS
from tests.support.pair import same_content, until

POLL_SECONDS = 0.02

BLOCK = 512
"""Bytes in the unit of ``st_blocks``."""

LIMIT = "320Mbit"
"""Of each of 50 jobs: 2 GB/s together, and 80 MiB take two seconds or more."""


def copied(all_of_them: Fleet, names: list[str], image: Path, limit: str = "0") -> Figures:
    """These sources copy an image each: together how fast, and how fairly."""
    jobs = {name: all_of_them.create(name, image, limit) for name in names}
    copies = {
        view["source"]: Path(view["disks"][0]["intermediate"])
        for view in all_of_them.views().values()
    }
    touched(image.stat().st_size * len(names))
    begun = time.time()
    all_of_them.begin(jobs)
    share = _watch([copies[name] for name in names], image.stat().st_size)
    until(lambda: all(all_of_them.ended(name) for name in names), WAIT_SECONDS, "all ends")
    ends = [event.at for name in names if (event := all_of_them.ended(name))]
    for name, copy in copies.items():
        if not same_content(copy, image):
            raise AssertionError(f"the copy of {name} differs")
    for job in jobs.values():
        all_of_them.forget(job)
    rate = image.stat().st_size * len(names) / (max(ends) - begun)
    return {"rate": rate, "share": share} if len(names) > 1 else {"rate": rate}


def _watch(copies: list[Path], size: int) -> float:
    """Until each holds ``size`` bytes; the smallest share of what came while all were under way. 0
    when they never were: then the images are too small for this machine."""
    first = last = _held(copies)
    deadline = time.monotonic() + WAIT_SECONDS
    while min(now := _held(copies)) < size:
        if time.monotonic() > deadline:
            raise AssertionError(f"not all ended: {now}")
        if max(now) < size:
            last = now
            first = now if min(first) == 0 else first
        time.sleep(POLL_SECONDS)
    got = [after - before for before, after in zip(first, last, strict=True)]
    return min(got) * len(got) / sum(got) if min(first) and sum(got) else 0.0


def _held(copies: list[Path]) -> list[int]:
    """Bytes that the copies hold."""
    return [copy.stat().st_blocks * BLOCK for copy in copies]


@contextlib.contextmanager
def scene(options: Options) -> Iterator[Scene]:
    """Images that are together as large for many jobs, for some and for one."""
    some, many = options.pick(10, 2), options.pick(50, 4)
    size = options.bytes(4 * GIB, 192 * MIB)
    with scratch() as directory:
        images = {}
        for count in (1, some, many):
            images[count] = directory / f"{count}.img"
            random_image(images[count], size // count // MIB * MIB)
        with fleet(many, list(images.values())) as they:
            yield Scene(
                {
                    "all at once": lambda: copied(they, they.names, images[many], LIMIT),
                    "some at once": lambda: copied(they, they.names[:some], images[some]),
                    "one job": lambda: copied(they, they.names[:1], images[1]),
                },
                size=size,
                notes=[f"all: {many} jobs at once, some: {some}; together as many bytes as one"],
                scale=Scale(
                    "rate",
                    "jobs at once",
                    {"one job": 1, "some at once": some, "all at once": many},
                ),
            )


QUESTION = Question(
    name="many_jobs",
    title="50 jobs at once into one receiver, beside one job",
    metrics={"rate": RATE, "share": RATIO},
    goals=(
        Goal(
            "together at least 0.8 x of one job",
            "rate",
            ">=",
            0.8,
            ours="all at once",
            peers=("one job",),
        ),
        Goal(
            "no job under half its fair share",
            "share",
            ">=",
            0.5,
            ours="all at once",
            statistic="min",
        ),
    ),
    scene=scene,
)
