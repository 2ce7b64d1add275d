"""Verification on real disks: damage is found where it is, and only where it is."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.loops import MIB, flush, loop_device, mounted
from tests.support.pair import BIN, Pair, busy_writer, pair, same_content, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

GRANULE = 4096
PUNCH_HOLE = 3
"""FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE."""

Range = tuple[int, int]


def verify(both: Pair, *options: str, code: int = 0) -> dict[str, Any]:
    """``job verify --wait``."""
    said: dict[str, Any] = both.receiver.run(
        "job", "verify", both.job, "--wait", *options, code=code
    )
    return said


def ranges(said: dict[str, Any]) -> list[Range]:
    return [(each["offset"], each["length"]) for each in said["ranges"]]


def quiet_places(copy: Path, noise: bytes, count: int) -> list[int]:
    """Where the copy holds granules of a file that nobody writes, well apart from each other."""
    held, places, step = copy.read_bytes(), [], len(noise) // count
    for at in range(0, step * count, step):
        place = held.find(noise[at : at + 18 * GRANULE])
        if place >= 0:  # a small ext4 has blocks of 1 KiB
            places.append(-(-place // GRANULE) * GRANULE)
    assert len(places) == count, "the file is in pieces"
    return places


def damage(copy: Path, places: list[int]) -> list[Range]:
    """Four kinds of it; the ranges in which the copy is wrong now, to the granule."""
    written, flipped, punched, zeroed = places[:4]
    with copy.open("r+b") as file:
        os.pwrite(file.fileno(), os.urandom(3 * GRANULE), written)
        (byte,) = os.pread(file.fileno(), 1, flipped + 2 * GRANULE + 77)
        os.pwrite(file.fileno(), bytes([byte ^ 8]), flipped + 2 * GRANULE + 77)
        libc = ctypes.CDLL(None, use_errno=True)
        hole = ctypes.c_long(punched), ctypes.c_long(16 * GRANULE)
        assert libc.fallocate(file.fileno(), PUNCH_HOLE, *hole) == 0
        os.pwrite(file.fileno(), bytes(GRANULE), zeroed + GRANULE)
    return sorted(
        [
            (written, 3 * GRANULE),
            (flipped + 2 * GRANULE, GRANULE),
            (punched, 16 * GRANULE),
            (zeroed + GRANULE, GRANULE),
        ]
    )


@contextlib.contextmanager
def loaded(kind: str, tmp_path: Path) -> Iterator[tuple[Pair, Path, bytes]]:
    """A pair whose source is under load and has had its first copy; the disk's image, and what a
    file holds that nobody writes."""
    image, noise = tmp_path / "disk.img", os.urandom(24 * MIB)
    with (
        loop_device(image, 320 * MIB) as device,
        mounted(device, tmp_path / "mnt", kind) as where,
    ):
        (where / "noise").write_bytes(noise)
        flush(where)
        with busy_writer(where), pair([device]) as both:
            both.create("--freeze-budget", "30s")
            both.synced()
            yield both, image, noise


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_damage_is_found_and_repaired_under_load(kind: str, tmp_path: Path) -> None:
    with loaded(kind, tmp_path) as (both, image, noise):
        clean = verify(both)
        assert (clean["differing_bytes"], clean["ranges"]) == (0, [])
        assert clean["bytes_compared"] > 250 * MIB
        copy = both.intermediate()
        wrong = damage(copy, quiet_places(copy, noise, 4))

        found = verify(both, code=1)
        assert ranges(found) == wrong
        assert found["differing_bytes"] == 21 * GRANULE
        assert not found["repaired"]
        shown = both.show()
        assert shown["verified"] == found
        assert shown["error"]["code"] == "RPL-6008"
        # Not sent, and not forgotten: the next one finds it again.
        assert ranges(verify(both, code=1)) == wrong

        mended = both.source.run("verify", "--wait", "--repair")
        assert ranges(mended) == wrong
        assert mended["repaired"]
        assert both.show()["error"] is None
        with image.open("rb") as disk, copy.open("rb") as held:
            for offset, length in wrong:
                assert os.pread(disk.fileno(), length, offset) == os.pread(
                    held.fileno(), length, offset
                )
        assert verify(both)["differing_bytes"] == 0
        both.metric("receiver", "receiver_verify_differing_bytes_total", 3 * 21 * GRANULE)
        both.metric("receiver", "receiver_unrepaired_bytes", 0)
        until(
            lambda: both.metrics("source")["replicad_verified_bytes_total"] > 5 * 200 * MIB,
            what="the source counting five verifications",
        )

        # A checkpoint is exact, also over what is known to be wrong and not repaired.
        reference = both.directory / "reference.img"
        both.keep_reference(image, reference)
        damage(copy, quiet_places(copy, noise, 4))
        verify(both, code=1)
        both.checkpoint("--hold")
        assert same_content(copy, reference)
        view = both.show()
        assert (view["error"], view["verified"]["repaired"]) == (None, True)
        refused = both.receiver.run("job", "verify", both.job, code=3)
        assert refused["code"] == "RPL-4005"


@contextlib.contextmanager
def on_a_medium(tmp_path: Path) -> Iterator[tuple[Pair, Path, bytes]]:
    """A pair whose receiver keeps its copies on a filesystem of its own, and that one's image."""
    content, medium = os.urandom(64 * MIB), tmp_path / "medium.img"
    with (
        loop_device(tmp_path / "disk.img", 64 * MIB) as device,
        loop_device(medium, 160 * MIB) as below,
        pair([device], start=False) as both,
        mounted(below, both.storage, "ext4"),
    ):
        Path(device).write_bytes(content)
        flush(device)
        try:
            both.start()
            both.create()
            both.clean()
            yield both, medium, content
        finally:
            both.source.kill()
            both.receiver.kill()


def rot(storage: Path, medium: Path, content: bytes, offset: int) -> None:
    """Flip a bit below the receiver's filesystem, where its page cache does not see it."""
    flush(storage)
    place = medium.read_bytes().find(content[offset : offset + 512])
    assert place >= 0
    with medium.open("r+b") as file:
        (byte,) = os.pread(file.fileno(), 1, place + 100)
        os.pwrite(file.fileno(), bytes([byte ^ 1]), place + 100)


@pytest.mark.slow
def test_rot_below_the_page_cache_is_found_whoever_is_killed(tmp_path: Path) -> None:
    with on_a_medium(tmp_path) as (both, medium, content):
        copy = both.intermediate()
        assert copy.read_bytes() == content, "and now all of it is in the page cache"
        rot(both.storage, medium, content, 60 * MIB)
        assert copy.read_bytes() == content, "the page cache hides it"
        both.receiver.run("job", "set", both.job, "bandwidth=1kB")
        asked = both.receiver.run("job", "verify", both.job)
        again = both.source.run("verify")
        assert asked["request"] == again["request"], "asking twice is asking once"

        def under_way() -> bool:
            view = both.show()
            done = view["disks"][0]["transferred_bytes"]
            return bool(view["sentence"].startswith("verify: ") and 0 < done < 64 * MIB)

        until(under_way, what="some of it compared")
        assert both.show()["disks"][0]["pass"] == "compare"
        # A checkpoint does not wait for the end of it.
        begun = time.monotonic()
        both.checkpoint()
        assert time.monotonic() - begun < 10
        assert both.show()["verified"] is None
        with subprocess.Popen(
            # Who runs the tests in the background may have told them to ignore it.
            [
                *("env", "--default-signal=INT", str(BIN / "replicad")),
                *("--config", str(both.source.config), "verify", "--wait", "--json"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as waiting:
            time.sleep(1)
            waiting.send_signal(signal.SIGINT)
            assert waiting.wait(20) != 0
        both.source.kill()
        both.source.start()
        until(under_way, what="it began anew")
        both.receiver.kill()
        both.receiver.start()
        both.receiver.run("job", "set", both.job, "bandwidth=unlimited")
        said = until(lambda: both.show()["verified"], what="its end")
        assert ranges(said) == [(60 * MIB, GRANULE)]
        assert said["request"] == asked["request"]
        assert verify(both, "--repair")["repaired"]
        assert verify(both)["differing_bytes"] == 0


def test_without_a_tracker_it_is_refused_and_says_why(tmp_path: Path) -> None:
    with (
        loop_device(tmp_path / "disk.img", 32 * MIB) as device,
        pair([device], tracker="off") as both,
    ):
        both.create()
        both.synced()
        refused = verify(both, code=3)
        assert refused["code"] == "RPL-6007"
        assert "switched off" in refused["message"]
        assert both.show()["verified"] is None
