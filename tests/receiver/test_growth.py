"""An intermediate disk follows its source's disk: at every step a death, then the next opening."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from protocol.errors import Fault
from protocol.local import crash
from protocol.wire.jobs import DiskIdentity, DiskInfo
from protocol.wire.messages import OpenDisk, OpenSession
from receiver import growth
from receiver.catalog import Catalog, DiskRow
from receiver.creation import create_job
from receiver.growth import ENLARGED
from receiver.jobs.spec import JobSpec
from receiver.opening import open_disks

SIZE, LARGER = 64 << 10, (96 << 10) + 512
STEPS = ("disk.growing", "disk.extended", "disk.grown", "disk.opened")
PATH = "/dev/vda"


class Killed(BaseException):
    """Nothing may handle it."""


class Rack:
    """A job with one intermediate disk, and a catalog that can be opened again."""

    def __init__(self, storage: Path) -> None:
        self.storage = storage
        self.catalog = Catalog(storage / "catalog.db")
        self.catalog.sources.enrol("web01", fingerprint="f", serial="1", now=1.0)
        disk = DiskInfo(path=PATH, size=SIZE, kind="disk", identity=DiskIdentity(serial="s"))
        self.catalog.sources.offer("web01", (disk,))
        self.job = create_job(self.catalog, storage, JobSpec(source="web01"), 1.0).id

    @property
    def row(self) -> DiskRow:
        return self.catalog.disks.of_job(self.job)[0]

    @property
    def file(self) -> Path:
        return Path(self.row.intermediate)

    def open(self, size: int, content: bytes = b"") -> None:
        """A session of a source whose disk has ``size`` bytes; it writes ``content`` at 0."""
        disk = OpenDisk(path=PATH, size=size, identity=DiskIdentity(serial="s"))
        message = OpenSession(id=1, job=self.job, disks=(disk,))
        opening = open_disks(
            self.catalog,
            self.storage,
            "web01",
            message,
            session=secrets.token_hex(16),
            here=False,
            boot="",
        )
        with opening.disks[0] as opened:
            assert opened.size == size
            opened.write(0, memoryview(content))
            opened.sync()
        opening.memory.close()

    def again(self) -> None:
        """Another process opens the catalog."""
        self.catalog.close()
        self.catalog = Catalog(self.storage / "catalog.db")


@pytest.fixture
def rack(tmp_path: Path) -> Iterator[Rack]:
    made = Rack(tmp_path)
    yield made
    made.catalog.close()


@pytest.mark.parametrize("step", STEPS)
def test_a_death_at_any_step_is_ended_by_the_next_opening(
    rack: Rack, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(SIZE)
    rack.open(SIZE, content)
    before = rack.row

    def die(name: str) -> None:
        if name == step:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(crash, "here", die)
        with pytest.raises(Killed):
            rack.open(LARGER)
    rack.again()
    rack.open(LARGER)
    assert rack.file.read_bytes() == content + bytes(LARGER - SIZE)
    after = rack.row
    assert (after.size, after.target.size, after.growing) == (LARGER, LARGER, None)
    assert (after.generation, after.target.inode) == (before.generation, before.target.inode)
    rack.open(LARGER + SIZE)
    assert rack.row.size == LARGER + SIZE


@pytest.mark.parametrize("step", ["disk.growing", "disk.extended"])
def test_a_disk_that_shrinks_back_in_between_is_refused(
    rack: Rack, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It did grow, and was promised the size; nothing of the file is changed."""

    def die(name: str) -> None:
        if name == step:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(crash, "here", die)
        with pytest.raises(Killed):
            rack.open(LARGER)
    held = rack.file.read_bytes()
    with pytest.raises(Fault, match=f"RPL-5002.*from {LARGER} to {SIZE}"):
        rack.open(SIZE)
    assert rack.file.read_bytes() == held
    rack.open(LARGER)


def test_a_file_of_a_third_size_is_not_the_one(rack: Rack) -> None:
    """While growing it may have two sizes, and no other."""
    rack.catalog.disks.growing(rack.job, 0, LARGER)
    os.truncate(rack.file, SIZE + 512)
    with pytest.raises(Fault, match="RPL-4106"):
        rack.open(LARGER)
    assert rack.file.stat().st_size == SIZE + 512


def test_another_disk_is_not_taken_for_one_that_has_grown(rack: Rack) -> None:
    other = OpenDisk(path=PATH, size=LARGER, identity=DiskIdentity(serial="other"))
    message = OpenSession(id=1, job=rack.job, disks=(other,))
    with pytest.raises(Fault, match="RPL-5003"):
        open_disks(
            rack.catalog, rack.storage, "web01", message, session="0" * 32, here=False, boot=""
        )
    assert rack.file.stat().st_size == SIZE


def test_a_smaller_disk_is_refused_and_nothing_changes(rack: Rack) -> None:
    content = os.urandom(SIZE)
    rack.open(SIZE, content)
    with pytest.raises(Fault, match=f"RPL-5002.*from {SIZE} to {SIZE - 512}"):
        rack.open(SIZE - 512)
    assert rack.file.read_bytes() == content
    assert rack.row.size == SIZE


@pytest.mark.parametrize(("kind", "reason"), [("raw", ""), ("device", ENLARGED)])
def test_nobody_knows_what_a_new_part_of_a_device_holds(
    rack: Rack, kind: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the source is told so, also by a receiver that died in between."""
    row = msgspec.structs.replace(rack.row, kind=kind)
    monkeypatch.setattr(growth, "_larger_device", lambda row, size: row.target)
    assert growth.follow(rack.catalog, rack.storage, row, LARGER).reason == reason
    rack.again()
    assert rack.row.reason == reason
    known = msgspec.structs.replace(rack.row, kind=kind, reason="put back")
    assert growth.follow(rack.catalog, rack.storage, known, LARGER + 512).reason == "put back"
