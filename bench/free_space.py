"""Does a large filesystem with little in it cost what is in it?

A disk of 20 GiB with 1 GiB of files, beside a disk of which those files fill nearly all. In both
lie further blocks that are not zero and belong to deleted files, a tenth as many. Bytes read and
sent are those that the source counts, as multiples of the files; the files are compared.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.contest import SECONDS, Figures, Goal, Metric, Options, Question, Scene
from bench.images import GIB, MIB
from bench.leftovers import scratch, touched
from bench.loops import filesystem, fill, loop, sparse_loop
from bench.ours import Ours, ours
from tests.support.loops import run

KINDS = ("ext4", "xfs")
LARGE = 20
"""How many times larger than its files the large disk is."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk with ``used`` bytes in a file, and blocks of a deleted one."""

    kind: str
    device: str
    where: Path
    used: int


@contextlib.contextmanager
def disk(directory: Path, kind: str, used: int, size: int) -> Iterator[Disk]:
    """Such a disk, mounted."""
    place = directory / f"{kind}-{size // MIB}"
    place.mkdir()
    with (
        sparse_loop(place / "disk.img", size) as device,
        filesystem(device, place / "mnt", kind) as where,
    ):
        fill(where / "kept", used)
        fill(where / "deleted", used // 10, seed=2)
        (where / "deleted").unlink()
        run("sync", "-f", where)
        yield Disk(kind, device, where, used)


def copied(we: Ours, of: Disk) -> Figures:
    """A first pass and a checkpoint; the files of the copy are compared."""
    we.both.create("--start", "manual", "--disk", of.device)
    touched(of.used + of.used // 2)
    since, begun = we.mark(), time.time()
    we.ask("start")
    event = we.ended_pass(since, "full")
    we.both.checkpoint("--hold")
    _same_files(we.both.intermediate(), of)
    we.forget()
    return {
        "seconds": event.at - begun,
        "read": event.said["read_bytes"] / of.used,
        "wire": event.said["wire_bytes"] / of.used,
    }


READ_ONLY = {"ext4": "ro,noload", "xfs": "ro,norecovery,nouuid"}
"""How the copy of a mounted filesystem is mounted beside it without a write."""


def _same_files(copy: Path, of: Disk) -> None:
    """Mount the held copy and compare.

    Raises:
        AssertionError: a file differs.
    """
    where = of.where.parent / "copy"
    where.mkdir(exist_ok=True)
    with loop(copy, "--read-only") as device:
        run("mount", "-t", of.kind, "-o", READ_ONLY[of.kind], device, where)
        try:
            run("cmp", of.where / "kept", where / "kept")
        finally:
            run("umount", where)


@contextlib.contextmanager
def scene(options: Options) -> Iterator[Scene]:
    """Small and large, both kinds, one source with all of them."""
    used = options.bytes(GIB, 64 * MIB)
    # a filesystem of its smallest size needs some room besides
    sizes = {"small": max(used + used // 4, 320 * MIB), "large": max(LARGE * used, 640 * MIB)}
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(scratch())
        disks = {
            f"{kind} {name}": stack.enter_context(disk(directory, kind, used, size))
            for kind in KINDS
            for name, size in sizes.items()
        }
        we = stack.enter_context(ours([each.device for each in disks.values()]))
        runs = {name: partial(copied, we, each) for name, each in disks.items()}
        yield Scene(dict(runs), size=sizes["large"])


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
)
