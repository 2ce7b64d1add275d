"""What do 50 sources get that copy into one receiver at the same time, and does each its share?

50 daemons copy the same image, together as many bytes as one source copies alone. All begin slowly,
with a bandwidth limit; what counts begins when all are under way and the limits are lifted, because
the first of 50 daemons that open their sessions on two processors would be done before the last has
begun. The share of a job is its part of what came from then until the first one ended, held against
an equal part.
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

POLL_SECONDS = 0.05

SLOWLY = "8Mbit"
"""Until all are under way: 1 MB/s each."""


def copied(all_of_them: Fleet, names: list[str], image: Path) -> Figures:
    """These sources copy an image each: together how fast, and how fairly."""
    jobs = {name: all_of_them.create(name, image, SLOWLY) for name in names}
    touched(image.stat().st_size * len(names))
    all_of_them.begin(jobs)
    before = _under_way(all_of_them, names)
    all_of_them.unleash(jobs.values())
    begun = time.time()
    share = _watch(all_of_them, names)
    ends = [event.at for name in names if (event := all_of_them.ended(name))]
    for view in all_of_them.views().values():
        copy = Path(view["disks"][0]["intermediate"])
        if not same_content(copy, image):
            raise AssertionError(f"the copy of {view['source']} differs")
    for job in jobs.values():
        all_of_them.forget(job)
    rate = (image.stat().st_size * len(names) - before) / (max(ends) - begun)
    return {"rate": rate, "share": share} if len(names) > 1 else {"rate": rate}


def _under_way(all_of_them: Fleet, names: list[str]) -> int:
    """Wait until each has sent something; what they have sent together."""

    def all_have() -> int:
        sent = _transferred(all_of_them)
        return sum(sent.values()) if all(sent[name] for name in names) else 0

    sent: int = until(all_have, WAIT_SECONDS, "all under way", POLL_SECONDS)
    return sent


def _watch(all_of_them: Fleet, names: list[str]) -> float:
    """Until all have ended; the smallest share of what came until the first one had."""
    first = last = _transferred(all_of_them)
    deadline = time.monotonic() + WAIT_SECONDS
    while missing := [name for name in names if not all_of_them.ended(name)]:
        if time.monotonic() > deadline:
            raise AssertionError(f"not all ended: {all_of_them.views()}")
        if len(missing) == len(names):
            last = _transferred(all_of_them)
        time.sleep(POLL_SECONDS)
    got = [last[name] - first[name] for name in names]
    return min(got) * len(got) / sum(got) if sum(got) else 0.0


def _transferred(all_of_them: Fleet) -> dict[str, int]:
    """Logical bytes that the receiver has had, by source."""
    return {name: view["logical_bytes"] for name, view in all_of_them.views().items()}


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
