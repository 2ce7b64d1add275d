"""How fast is a full pass, encrypted and verified, beside plain and encrypted copies?

2 GiB that nothing can compress. Ours digests every byte, encrypts it, checks the digest again and
syncs; ``nbdcopy`` in plaintext over a Unix socket does none of that. So what nobody can do without
is shown beside it: bare loops that read, digest and seal, and open, digest and write
(:mod:`bench.bare`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bench.bare import carry
from bench.contest import RATE, Figures, Goal, Metric, Options, Question, Scene
from bench.images import GIB, MIB, random_image, touch
from bench.leftovers import scratch
from bench.ours import ours
from bench.peers import peers
from tests.support.pair import same_content

CPU = Metric("CPU s/GiB", 1.0, 2)
ENCRYPTED = ("nbdcopy tls", "dd|ssh", "dd|zstd|ssh", "rsync")

FIRST_TOUCH = (
    "all write into pages that are there, but for those who make a 'new file': they touch each page"
    " of it for the first time"
)


def carried(image: Path, copy: Path) -> Figures:
    """The whole copy in bare loops."""
    touch(copy, image.stat().st_size)
    seconds = carry(image, [copy])
    if not same_content(image, copy):
        raise AssertionError("the bare loops copied something else")
    return {"rate": image.stat().st_size / seconds}


@contextlib.contextmanager
def scene(options: Options) -> Iterator[Scene]:
    """The same image for everybody."""
    size = options.bytes(2 * GIB, 96 * MIB)
    with scratch() as directory:
        image = directory / "disk.img"
        random_image(image, size)
        with peers(directory, image) as them, ours([image]) as we, ours([image]) as anew:
            yield Scene(
                {
                    "replicad": lambda: we.full_pass(image),
                    "replicad new file": lambda: anew.full_pass_new_file(image),
                    "nbdcopy": them.nbd,
                    "nbdcopy new file": them.nbd_new_file,
                    "nbdcopy tls": them.nbd_tls,
                    "dd|ssh": them.dd_ssh,
                    "dd|zstd|ssh": them.dd_zstd_ssh,
                    "rsync": them.rsync,
                    "bare loops": lambda: carried(image, directory / "bare copy.img"),
                },
                size=size,
                notes=[FIRST_TOUCH],
            )


QUESTION = Question(
    name="full_pass",
    title="a full pass, incompressible, encrypted and verified",
    metrics={"rate": RATE, "cpu": CPU},
    goals=(
        Goal("at least 1.0 x nbdcopy in plaintext", "rate", ">=", 1.0, peers=("nbdcopy",)),
        Goal("at least 3 x the fastest encrypted peer", "rate", ">=", 3.0, peers=ENCRYPTED),
        Goal("of the bare loops", "rate", ">=", None, peers=("bare loops",)),
        Goal(
            "the bare loops themselves, of nbdcopy",
            "rate",
            ">=",
            None,
            ours="bare loops",
            peers=("nbdcopy",),
        ),
    ),
    scene=scene,
)
