"""How much of the source's processors does a copy take?

CPU seconds for each GiB, of all that runs on the source: ours is the daemon, a peer all commands
of its pipeline on this side. The loopback's own work counts for both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bench.contest import RATE, Goal, Options, Question, Scene
from bench.full_pass import CPU
from bench.images import GIB, MIB, random_image
from bench.leftovers import scratch
from bench.ours import ours
from bench.peers import peers


@contextlib.contextmanager
def scene(options: Options) -> Iterator[Scene]:
    """The same image for everybody."""
    size = options.bytes(2 * GIB, 128 * MIB)
    with scratch() as directory:
        image = directory / "disk.img"
        random_image(image, size)
        with peers(directory, image) as them, ours([image]) as we:
            yield Scene(
                {
                    "replicad": lambda: we.full_pass(image),
                    "dd|ssh": them.dd_ssh,
                    "rsync": them.rsync,
                    "nbdcopy tls": them.nbd_tls,
                },
                size=size,
            )


QUESTION = Question(
    name="cpu",
    title="CPU seconds of the source for each GiB of a full pass, incompressible",
    metrics={"cpu": CPU, "rate": RATE},
    goals=(Goal("at most half of 'dd | ssh'", "cpu", "<=", 0.5, peers=("dd|ssh",)),),
    scene=scene,
)
