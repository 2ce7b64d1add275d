"""How fast do 1 % of random 4 KiB writes reach the copy, and how many bytes travel for them?

The tracker knows what was written; ``rsync --inplace`` must read and sum both sides to find it.
Both get the same writes and the same network, and both start from an identical copy.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

from bench.contest import SECONDS, Figures, Goal, Metric, Options, Question, Scene
from bench.images import GIB, MIB, random_image, scatter
from bench.leftovers import scratch
from bench.loops import loop
from bench.ours import Ours, ours
from bench.peers import Peers, peers, pipeline

PART = 0.01


def caught_up(we: Ours, image: Path, changed: int) -> Figures:
    """From ``job resume`` until every change is durably held; the session is opened within."""
    since, begun = we.mark(), time.time()
    we.ask("resume")
    we.ended_pass(since, "delta")
    we.both.clean()
    we.check(image)
    passes = [event for event in we.events(since) if event.name == "pass.ended"]
    assert {kind for event in passes for kind in event.said["disks"].values()} == {"delta"}
    wire = sum(event.said["wire_bytes"] for event in passes)
    return {"seconds": passes[-1].at - begun, "wire": wire / changed}


def rsynced(them: Peers) -> Figures:
    """``rsync --inplace``, told to look for what differs."""
    spent = pipeline(them.rsync_command("--no-whole-file"))
    them.check()
    return {"seconds": spent.seconds}


@contextlib.contextmanager
def scene(options: Options) -> Iterator[Scene]:
    """A loop disk in memory, and two copies of it."""
    size = options.bytes(2 * GIB, 192 * MIB)
    with scratch() as directory:
        image = directory / "disk.img"
        random_image(image, size)
        with loop(image) as device, peers(directory, image) as them, ours([device]) as we:
            them.rsync()
            we.both.create()
            we.both.synced()
            seeds, changed = itertools.count(100), [0]

            def write() -> None:
                we.pause()
                changed[0] = scatter(device, size, PART, next(seeds))

            yield Scene(
                {
                    "replicad": lambda: caught_up(we, image, changed[0]),
                    "rsync": lambda: rsynced(them),
                },
                size=size,
                before_round=write,
            )


QUESTION = Question(
    name="delta",
    title="1 % of a disk changed by random 4 KiB writes, until the copy is identical again",
    metrics={"seconds": SECONDS, "wire": Metric("per changed byte", 1.0, 3)},
    goals=(
        Goal("at least 20 x 'rsync --inplace'", "seconds", "<=", 1 / 20, peers=("rsync",)),
        Goal("wire bytes at most 1.10 x changed bytes", "wire", "<=", 1.10),
    ),
    scene=scene,
    root=True,
)
