"""Does a large filesystem with little in it cost what is in it?

A disk of 20 GiB with 1 GiB of files, beside a disk of which those files fill nearly all. In both
lie further blocks that are not zero and belong to deleted files, a tenth as many. Bytes read and
sent are those that the source counts, as multiples of the files; the files of the copy are
compared.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.contest import SECONDS, Figures, Goal, Metric, Options, Question, Scene
from bench.images import GIB, MIB
from bench.leftovers import scratch
from bench.loops import filesystem, fill, loop, sparse_loop
from bench.ours import ours
from tests.support.loops import mounted, run

KINDS = ("ext4", "xfs")
LARGE = 20
"""How many times larger than its files the large disk is."""


def copied(directory: Path, kind: str, used: int, size: int) -> Figures:
    """A first pass and a checkpoint of such a disk; its files are compared."""
    place = directory / "work"
    place.mkdir()
    try:
        with (
            sparse_loop(place / "disk.img", size) as device,
            filesystem(device, place / "mnt", kind) as where,
            ours([device]) as we,
        ):
            fill(where / "kept", used)
            fill(where / "deleted", used // 10, seed=2)
            (where / "deleted").unlink()
            run("sync", "-f", where)
            we.both.create("--start", "manual")
            since, begun = we.mark(), time.time()
            we.ask("start")
            event = we.ended_pass(since, "full")
            we.both.checkpoint("--hold")
            _same_files(we.both.intermediate(), place, where, kind)
            return {
                "seconds": event.at - begun,
                "read": event.said["read_bytes"] / used,
                "wire": event.said["wire_bytes"] / used,
            }
    finally:
        (place / "mnt").rmdir()
        (place / "copy").rmdir()
        place.rmdir()


def _same_files(copy: Path, place: Path, where: Path, kind: str) -> None:
    """Mount the held copy (its journal is played into a file of its own) and compare."""
    overlay = place / "copy.img"
    run("cp", "--sparse=always", copy, overlay)
    (place / "copy").mkdir(exist_ok=True)
    try:
        with loop(overlay) as device:
            if kind == "xfs":
                run("xfs_repair", "-L", "-f", overlay)
                run("xfs_admin", "-U", "generate", overlay)
            with mounted(device, place / "copy"):
                run("cmp", where / "kept", place / "copy" / "kept")
    finally:
        overlay.unlink()


@contextlib.contextmanager
def scene(options: Options) -> Iterator[Scene]:
    """Small and large, both kinds."""
    used = options.bytes(GIB, 64 * MIB)
    # a filesystem of its smallest size needs some room besides
    small = max(used + used // 4, 320 * MIB)
    with scratch() as directory:
        runs = {}
        for kind in KINDS:
            runs[f"{kind} small"] = partial(copied, directory, kind, used, small)
            runs[f"{kind} large"] = partial(copied, directory, kind, used, LARGE * used)
        yield Scene(dict(runs), size=LARGE * used)


def _goals(kind: str) -> tuple[Goal, ...]:
    """Of one kind of filesystem. Read may be what the filesystem needs for itself: the tables of
    inodes of an ext4 of 20 GiB are 320 MiB."""
    large, small = f"{kind} large", (f"{kind} small",)
    return (
        Goal(f"{kind}: reads at most 1.5 x what is used", "read", "<=", 1.5, ours=large),
        Goal(f"{kind}: sends at most 1.05 x what is used", "wire", "<=", 1.05, ours=large),
        Goal(f"{kind}: at most 1.2 x the time", "seconds", "<=", 1.2, ours=large, peers=small),
    )


USED = Metric("x used", 1.0, 3)

QUESTION = Question(
    name="free_space",
    title="a disk 20 times as large as its files, beside one that they fill",
    metrics={"seconds": SECONDS, "read": USED, "wire": USED},
    goals=tuple(goal for kind in KINDS for goal in _goals(kind)),
    scene=scene,
    root=True,
    warm_up=False,
)
