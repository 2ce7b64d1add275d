"""The grades of recovery: what was lost decides, it is said, and only what differs travels."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from replicad.dirtymap.header import SLOT_BYTES
from replicad.dirtymap.store import MapFile
from replicad.tracker import pin_directory
from tests.support.loops import MIB
from tests.support.pair import BIN, until
from tests.support.recovering import BLOCK, SIZE, Recovering, recovering

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

FEW = 40 * BLOCK + 2 * MIB
"""Bytes that may be sent when some ten blocks differ."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@pytest.fixture(scope="module")
def it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recovering]:
    with recovering(tmp_path_factory.mktemp("recovery")) as found:
        first = found.recovered("full")
        assert "was empty" in first["reason"]
        assert SIZE // 2 <= first["bytes_sent"] <= SIZE
        yield found


def the_map(it: Recovering) -> Path:
    (found,) = (it.both.directory / "sr").glob("*.map")
    return found


def dead(it: Recovering) -> None:
    """The source's daemon is killed, and the disk is written while it is dead."""
    it.in_step()
    it.both.source.kill()
    it.write(20, 21, 5000)


def compared(it: Recovering, since: str, reason: str) -> dict[str, Any]:
    found = it.recovered("compare", since)
    assert re.search(reason, found["reason"]), found
    assert found["bytes_read"] >= SIZE
    assert 0 < found["bytes_sent"] <= FEW
    until(lambda: it.both.show()["disks"][0]["recovery"] == found, what="the source's word")
    it.exact()
    return found


def test_pins_and_map_intact_is_nothing_to_do_but_what_was_written(it: Recovering) -> None:
    since = it.since()
    dead(it)
    it.both.source.start()
    found = it.recovered("intact", since)
    assert 3 * BLOCK <= found["bytes_sent"] <= FEW
    assert found["bytes_read"] <= FEW
    it.exact()


def emptied(it: Recovering) -> None:
    for path in (it.both.directory / "sr").iterdir():
        path.unlink()


def unpinned(it: Recovering) -> None:
    shutil.rmtree(pin_directory(it.both.directory / "sr"))


def cut(it: Recovering) -> None:
    os.truncate(the_map(it), 5000)


def flipped(it: Recovering) -> None:
    with the_map(it).open("r+b") as file:
        for slot in (0, SLOT_BYTES):
            file.seek(slot + 60)
            byte = file.read(1)
            file.seek(slot + 60)
            file.write(bytes([byte[0] ^ 1]))


def of_another_job(it: Recovering) -> None:
    held = MapFile.open(str(the_map(it)), lambda _: None)
    held.update(job="another1")
    held.close()


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (emptied, "record of what was written was lost"),
        (unpinned, "attached anew"),
        (cut, "cut off|another size"),
        (flipped, "damaged"),
        (of_another_job, "belongs to job another1"),
    ],
)
def test_what_is_lost_while_the_daemon_is_dead_is_compared(
    it: Recovering, loss: Callable[[Recovering], None], reason: str
) -> None:
    """Pins that are still there prove nothing without the map, nor the map without the pins."""
    since = it.since()
    dead(it)
    loss(it)
    it.both.source.start()
    compared(it, since, reason)


def test_another_boot_is_compared_and_says_when_that_was(it: Recovering, tmp_path: Path) -> None:
    """The daemon in a mount namespace of its own, where the kernel's boot id is another one."""
    since = it.since()
    dead(it)
    other = tmp_path / "boot_id"
    other.write_text("11111111-2222-3333-4444-555555555555\n")
    command = f'mount --bind "{other}" {BOOT_ID} && exec "$0" "$@"'
    daemon = [str(BIN / "replicad"), "--config", str(it.both.source.config), "run"]
    with it.both.source.log.open("ab") as log:
        process = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", command, *daemon], stdout=log, stderr=log
        )
    try:
        sentences: set[str] = set()

        def over() -> bool:
            view = it.both.show()
            sentences.add(view["sentence"])
            found = view["disks"][0]["recovery"]
            return bool(found and found["since"] > since and found["ended"])

        until(over, 60, "the comparison after another boot", step=0.0)
        compared(it, since, r"^rebooted at (20\d\d-\d\d-\d\d )?\d\d:\d\d UTC$")
        said = [text for text in sentences if text.startswith("compare pass: rebooted at ")]
        assert all("to read" in text and "differ so far" in text for text in said)
        until(lambda: it.both.metrics("receiver")["receiver_recovering"] == 0, what="metrics")
        assert it.both.metrics("receiver")["receiver_recovery_read_bytes"] >= SIZE
        assert it.both.metrics("source")["replicad_recovery_read_bytes"] >= SIZE
        since = it.since()
    finally:
        process.kill()
        process.wait()
    # Back in the kernel's own boot: the map is of another one again.
    it.write(30)
    it.both.source.start()
    compared(it, since, "rebooted at ")


def test_what_is_said_of_it_is_logged(it: Recovering) -> None:
    log = it.both.source.log.read_text()
    assert '"event":"recovery.began"' in log
    assert '"event":"recovery.ended"' in log
    assert '"grade":"intact"' in log
