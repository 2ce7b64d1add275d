"""How fast is a full pass of a disk as they are: 40 % zero, 30 % text, 30 % random?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bench.contest import RATE, Goal, Options, Question, Scene
from bench.full_pass import CPU
from bench.images import GIB, MIB, mixed_image
from bench.leftovers import scratch
from bench.ours import ours
from bench.peers import peers


@contextlib.contextmanager
def scene(options: Options) -> Iterator[Scene]:
    """The same image for everybody."""
    size = options.bytes(2 * GIB, 100 * MIB)
    with scratch() as directory:
        image = directory / "disk.img"
        mixed_image(image, size)
        with peers(directory, image) as them, ours([image]) as we:
            yield Scene(
                {
                    "replicad": lambda: we.full_pass(image),
                    "dd|zstd|ssh": them.dd_zstd_ssh,
                    "rsync -z": them.rsync_z,
                },
                size=size,
            )


QUESTION = Question(
    name="mixed_image",
    title="a full pass of a disk: 40 % zero, 30 % text, 30 % random",
    metrics={"rate": RATE, "cpu": CPU},
    goals=(
        Goal(
            "at least 4 x 'dd | zstd -1 | ssh' and 'rsync -z'",
            "rate",
            ">=",
            4.0,
            peers=("dd|zstd|ssh", "rsync -z"),
        ),
    ),
    scene=scene,
)
