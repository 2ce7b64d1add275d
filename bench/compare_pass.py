"""How fast do both sides find 1 % that differs, beside reading both sides once?

The peer is one ``dd`` a side, both at the same time, into nothing. Ours also hashes, says the
digests, answers, reads once more what differs, and sends it. So what nobody can do without is shown
beside it (:mod:`bench.bare`): two bare loops that read and hash each side once, and a pair of them
that does the whole comparison.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

from bench.bare import carry, hash_both, mend
from bench.contest import RATE, Figures, Goal, Metric, Options, Question, Scene
from bench.images import GIB, MIB, random_image, scatter, touch
from bench.leftovers import scratch
from bench.ours import Ours, ours
from bench.peers import together
from tests.support.pair import same_content

PART = 0.01


def compared(we: Ours, image: Path, seed: int) -> Figures:
    """While the job is paused a part changes unseen; then it goes on, and must compare."""
    size = image.stat().st_size
    we.pause()
    changed = scatter(image, size, PART, seed)
    since, begun = we.mark(), time.time()
    we.ask("resume")
    event = we.ended_pass(since, "compare")
    we.check(image)
    assert event.said["differing_bytes"] >= changed, event
    return {"rate": size / (event.at - begun), "sent": event.said["wire_bytes"] / changed}


def read_both(one: Path, other: Path) -> Figures:
    """Both files, once, at the same time."""
    into = ["of=/dev/null", "bs=1M", "status=none"]
    spent = together(*(["dd", f"if={path}", *into] for path in (one, other)))
    return {"rate": one.stat().st_size / spent.seconds}


def hashed(one: Path, other: Path) -> Figures:
    """Both files, read and hashed once, at the same time."""
    return {"rate": one.stat().st_size / hash_both(one, other)}


def _touched(path: Path, size: int) -> Path:
    touch(path, size)
    return path


def mended(image: Path, copy: Path, seed: int) -> Figures:
    """The whole comparison in bare loops."""
    size = image.stat().st_size
    scatter(image, size, PART, seed)
    seconds = mend(image, copy)
    if not same_content(image, copy):
        raise AssertionError("the bare loops left a difference")
    return {"rate": size / seconds}


@contextlib.contextmanager
def scene(options: Options) -> Iterator[Scene]:
    """A job whose first pass is done. Writes to a file are not tracked, so every sync compares."""
    size = options.bytes(2 * GIB, 128 * MIB)
    with scratch() as directory:
        image = directory / "disk.img"
        random_image(image, size)
        other, its_copy = directory / "bare.img", directory / "bare copy.img"
        random_image(other, size)
        carry(other, [_touched(its_copy, size)])  # as ours is made: how it is written, it is read
        with ours([image]) as we:
            we.both.create()
            we.both.synced()
            copy, seeds = we.both.intermediate(), itertools.count(100)
            yield Scene(
                {
                    "replicad": lambda: compared(we, image, next(seeds)),
                    "read both sides": lambda: read_both(image, copy),
                    "hash both sides": lambda: hashed(image, copy),
                    "bare comparison": lambda: mended(other, its_copy, next(seeds)),
                },
                size=size,
            )


QUESTION = Question(
    name="compare_pass",
    title="a compare pass of a disk of which 1 % differs, in scattered blocks of 4 KiB",
    metrics={"rate": RATE, "sent": Metric("per changed byte", 1.0, 3)},
    goals=(
        Goal(
            "at least 0.7 x the speed of reading both sides once",
            "rate",
            ">=",
            0.7,
            peers=("read both sides",),
        ),
        Goal("of the bare loops", "rate", ">=", None, peers=("hash both sides",)),
        Goal("of a bare comparison", "rate", ">=", None, peers=("bare comparison",)),
        Goal(
            "a bare comparison itself, of reading",
            "rate",
            ">=",
            None,
            ours="bare comparison",
            peers=("read both sides",),
        ),
        Goal(
            "the bare loops themselves, of reading",
            "rate",
            ">=",
            None,
            ours="hash both sides",
            peers=("read both sides",),
        ),
    ),
    scene=scene,
)
