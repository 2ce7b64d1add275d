"""What does the server notice while it is copied?

fio as the server's own work: random reads and writes of 16 KiB to a file on ext4 on a loop disk in
memory, as fast as it can, alone and while a first pass and then delta passes run: as users have it,
and by a source that was told not to step back (``[tuning] courtesy = "off"``). Both ends of the
copy share the processors with it here; on a server of its own only the source does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bench.contest import Figures, Goal, Metric, Options, Question, Scene
from bench.fio import measured
from bench.images import GIB, MIB
from bench.leftovers import scratch
from bench.loops import filesystem, fill, sparse_loop
from bench.ours import Ours, ours
from tests.support.pair import Pair


def work(where: Path, size: int, seconds: float) -> Figures:
    """The server's own work."""
    how = ("--rw=randrw", "--bs=16k", "--iodepth=8", "--ioengine=libaio", "--direct=1")
    return measured(seconds, *how, f"--filename={where}/work", f"--size={size}")


def replicated(we: Ours, where: Path, size: int, seconds: float) -> Figures:
    """The same while a job begins, and goes on; then the copy must become whole."""
    we.both.create()
    figures = work(where, size, seconds)
    view = we.both.synced()
    assert view["logical_bytes"] > 0, view
    we.both.checkpoint("--hold")
    we.forget()
    return figures


def rude(both: Pair) -> None:
    """A source that does not step back."""
    with both.source.config.open("a") as config:
        config.write('[tuning]\ncourtesy = "off"\n')


@contextlib.contextmanager
def scene(options: Options) -> Iterator[Scene]:
    """A disk of which half is the file that is worked on, and a quarter others."""
    size, seconds = options.bytes(4 * GIB, 256 * MIB), options.pick(15, 2)
    with (
        scratch() as directory,
        sparse_loop(directory / "disk.img", size) as device,
        filesystem(device, directory / "mnt", "ext4") as where,
        ours([device]) as we,
        ours([device], before=rude) as they,
    ):
        fill(where / "work", size // 2)
        fill(where / "others", size // 4, seed=2)
        yield Scene(
            {
                "with replicad": lambda: replicated(we, where, size // 2, seconds),
                "without courtesy": lambda: replicated(they, where, size // 2, seconds),
                "alone": lambda: work(where, size // 2, seconds),
            },
            size=size,
        )


QUESTION = Question(
    name="foreground",
    title="the server's own work, 16 KiB random reads and writes, while it is copied",
    metrics={"iops": Metric("kIOPS", 1e-3, 1), "p99": Metric("us", 1e6, 0)},
    goals=(
        Goal(
            "IOPS of the foreground, of alone",
            "iops",
            ">=",
            None,
            ours="with replicad",
            peers=("alone",),
        ),
        Goal(
            "IOPS of the foreground, of without courtesy",
            "iops",
            ">=",
            None,
            ours="with replicad",
            peers=("without courtesy",),
        ),
        Goal(
            "p99 latency of the foreground, of alone",
            "p99",
            "<=",
            None,
            ours="with replicad",
            peers=("alone",),
        ),
        Goal(
            "p99 latency of the foreground, of without courtesy",
            "p99",
            "<=",
            None,
            ours="with replicad",
            peers=("without courtesy",),
        ),
    ),
    scene=scene,
    root=True,
)
