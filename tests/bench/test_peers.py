"""Every peer makes a true copy, and one that does not would be noticed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.images import MIB, random_image
from bench.leftovers import scratch
from bench.peers import Peers, peers, pipeline, together

WAYS = ("nbd", "nbd_new_file", "nbd_tls", "dd_ssh", "dd_zstd_ssh", "rsync", "rsync_z")


@pytest.fixture(scope="module")
def them() -> Iterator[Peers]:
    with scratch() as directory:
        image = directory / "disk.img"
        random_image(image, 4 * MIB)
        with peers(directory, image) as found:
            yield found


@pytest.mark.parametrize("way", WAYS)
def test_a_true_copy(them: Peers, way: str) -> None:
    figures = getattr(them, way)()
    assert them.image.read_bytes() == them.target.read_bytes()
    assert figures["rate"] > 0
    assert figures["cpu"] > 0


def test_a_wrong_copy_is_noticed(them: Peers) -> None:
    them.dd_ssh()
    with them.target.open("r+b") as copy:
        copy.seek(MIB)
        copy.write(b"other")
    with pytest.raises(AssertionError, match="differs"):
        them.check()


def test_a_command_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no-such-file"):
        pipeline(["cat", str(tmp_path / "no-such-file")], ["cat"])
    with pytest.raises(AssertionError, match="false"):
        together(["true"], ["false"])


def test_what_the_source_used_is_counted() -> None:
    burn = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"
    spent = pipeline(["sh", "-c", burn], ["cat"])
    assert 0.02 < spent.cpu_seconds <= 2 * spent.seconds + 0.1
