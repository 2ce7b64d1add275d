"""The level of compression follows the line of a real job, and status says so."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.loops import MIB
from tests.support.pair import pair, same_content, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

NONE = -100
"""Instead of the level where nothing is compressed: less than any."""


def text(size: int) -> bytes:
    """Lines of words: a higher level finds more in it."""
    rng = random.Random(7)
    words = [
        "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(4000)
    ]
    line = " ".join(rng.choices(words, k=400_000)).encode()
    return (line * (size // len(line) + 1))[:size]


def test_a_slow_line_raises_the_level_and_a_fast_one_lowers_it(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(text(512 * MIB))
    with pair([str(image)]) as both:
        # So slow that a busy machine, too, has time to compress what this line takes.
        both.create("--bandwidth", "20Mbit", "--compress", "auto")

        def level() -> int:
            said = both.status()["job"]
            found = said["compression"]["level"] if said else 1
            return NONE if found is None else int(found)

        until(lambda: level() >= 3, 120, "a higher level")
        said = both.status()["job"]["compression"]
        assert said["mode"] == "auto"
        assert "the line is waited for" in said["because"] or "level" in said["because"]
        assert both.metrics("source")["replicad_compression_level"] >= 3
        both.receiver.run("job", "set", both.job, "bandwidth=0")
        both.synced()
        assert level() < 3
        assert same_content(both.intermediate(), image)
        both.receiver.run("job", "set", both.job, "compress=none")
        until(lambda: both.status()["job"]["compression"]["mode"] == "none", 20, "none")
        assert level() == NONE
        assert "replicad_compression_level" not in both.metrics("source")
