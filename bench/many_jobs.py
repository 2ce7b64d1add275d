"""What do 50 sources get that copy into one receiver at the same time, and does each its share?

50 daemons copy the same image, together as many bytes as one source copies alone, into copies whose
pages are there and zeroed: else the machine's first touch of a page is most of what is measured.

The share of a job is its part of what came from when the last one had sent something until the
first one had sent all, held against an equal part. What came is what its copy holds (nothing of
the image is zero), so nobody is asked who is at work. That is a pass of its own, in which each of
the 50 has a bandwidth limit above an equal share, so that the first one has not ended before
the last one has begun; how fast they are is measured without.

What 50 processes can do beside one on this machine, whoever they are, bare loops of the same calls
show (:mod:`bench.bare`).
"""

from __future__ import annotations

import contextlib
import os
import time
from bisect import bisect
from collections.abc import Iterator
from pathlib import Path

from bench.bare import carry
from bench.contest import RATE, RATIO, Figures, Goal, Options, Question, Scale, Scene
from bench.fleet import Fleet, fleet
from bench.images import GIB, MIB, random_image, touch
from bench.leftovers import scratch
from bench.ours import WAIT_SECONDS
from tests.support.pair import same_content, until

POLL_SECONDS = 0.02

LIMIT = "320Mbit"
"""Of each of 50 jobs: 2 GB/s together, and 80 MiB take two seconds or more."""

NONE = "0"


def copied(all_of_them: Fleet, names: list[str], image: Path, limit: str = NONE) -> Figures:
    """These sources copy an image each: together how fast; or, with a limit, how fairly."""
    size = image.stat().st_size
    jobs = {name: all_of_them.create(name, image, limit) for name in names}
    copies = {
        view["source"]: Path(view["disks"][0]["intermediate"])
        for view in all_of_them.views().values()
    }
    for name, copy in copies.items():
        touch(copy, size)
        all_of_them.distrust(jobs[name], image)
    begun = time.time()
    all_of_them.begin(jobs)
    share = _watch([copies[name] for name in names], size) if limit != NONE else 0.0
    until(lambda: all(all_of_them.ended(name) for name in names), WAIT_SECONDS, "all ends")
    ends = [event for name in names if (event := all_of_them.ended(name))]
    assert {kind for event in ends for kind in event.said["disks"].values()} == {"full"}
    for name, copy in copies.items():
        if not same_content(copy, image):
            raise AssertionError(f"the copy of {name} differs")
    for job in jobs.values():
        all_of_them.forget(job)
    if limit != NONE:
        return {"share": share}
    return {"rate": size * len(names) / (max(event.at for event in ends) - begun)}


def bare(directory: Path, image: Path, count: int) -> Figures:
    """So many bare loops copy an image each, into pages that are there."""
    size = image.stat().st_size
    copies = [directory / f"bare{number}.img" for number in range(count)]
    try:
        for copy in copies:
            touch(copy, size)
        seconds = carry(image, copies)
        if not all(same_content(copy, image) for copy in copies):
            raise AssertionError("a copy of a bare loop differs")
    finally:
        for copy in copies:
            copy.unlink(missing_ok=True)
    return {"rate": size * count / seconds}


def _watch(copies: list[Path], size: int) -> float:
    """Until each holds ``size`` bytes; the smallest share of what came while all were under way. 0
    when they never were: then the images are too small for this machine."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(copy.open("rb", buffering=0)) for copy in copies]
        return _smallest_share([file.fileno() for file in files], size)


def _smallest_share(files: list[int], size: int) -> float:
    first = last = _held(files, size)
    deadline = time.monotonic() + WAIT_SECONDS
    while min(now := _held(files, size)) < size:
        if time.monotonic() > deadline:
            raise AssertionError(f"not all ended: {now}")
        if max(now) < size:
            last = now
            first = now if min(first) == 0 else first
        time.sleep(POLL_SECONDS)
    got = [after - before for before, after in zip(first, last, strict=True)]
    return min(got) * len(got) / sum(got) if min(first) and sum(got) else 0.0


def _held(files: list[int], size: int) -> list[int]:
    """Bytes that the copies hold, to the MiB: they come in order, but for one or two extents."""
    return [
        MIB * bisect(range(size // MIB), 0, key=lambda number: not any(_begins(file, number)))
        for file in files
    ]


def _begins(file: int, number: int) -> bytes:
    return os.pread(file, 8, number * MIB)


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
                    "all at once": lambda: copied(they, they.names, images[many]),
                    "all with a limit": lambda: copied(they, they.names, images[many], LIMIT),
                    "some at once": lambda: copied(they, they.names[:some], images[some]),
                    "one job": lambda: copied(they, they.names[:1], images[1]),
                    "bare loops, all": lambda: bare(directory, images[many], many),
                    "bare loop, one": lambda: bare(directory, images[1], 1),
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
            ours="all with a limit",
            statistic="min",
        ),
        Goal(
            "all at once, of as many bare loops",
            "rate",
            ">=",
            None,
            ours="all at once",
            peers=("bare loops, all",),
        ),
        Goal(
            "the bare loops themselves, of one bare loop",
            "rate",
            ">=",
            None,
            ours="bare loops, all",
            peers=("bare loop, one",),
        ),
    ),
    scene=scene,
)
