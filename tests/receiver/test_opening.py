"""From a job to its open disks, with a crash between any two steps."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from protocol.errors import Fault
from protocol.wire.messages import DiskIdentity, DiskInfo
from receiver.catalog import Catalog, DiskRow
from receiver.disk import opening
from receiver.jobs.spec import JobSpec

SIZE = 1 << 20
OFFERED = (
    DiskInfo(path="/dev/vda", size=SIZE, kind="disk", identity=DiskIdentity(serial="a")),
    DiskInfo(path="/dev/vdb", size=SIZE, kind="disk"),
)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(tmp_path / "catalog.sqlite") as opened:
        opened.sources.enrol("web01", fingerprint="f", serial="1", now=1.0)
        yield opened


def planned(catalog: Catalog, storage: Path, spec: JobSpec | None = None) -> list[DiskRow]:
    spec = spec or JobSpec(source="web01")
    with catalog.transaction():
        job = catalog.jobs.create(spec, "ready", 1.0)
        return [catalog.disks.add(row) for row in opening.plan(job.id, spec, OFFERED, storage)]


def opened(catalog: Catalog, row: DiskRow, storage: Path) -> opening.Opened:
    now = catalog.disks.of_job(row.job)[row.number]
    return opening.open_disk(now, storage=storage, others=[])


def test_a_job_takes_what_is_named_or_everything(tmp_path: Path) -> None:
    rows = opening.plan("job1", JobSpec(source="web01"), OFFERED, tmp_path)
    assert [(row.number, row.source_path, row.kind) for row in rows] == [
        (0, "/dev/vda", "raw"),
        (1, "/dev/vdb", "raw"),
    ]
    assert rows[0].intermediate == f"{tmp_path}/disks/job1/0-vda.raw"
    assert rows[0].identity == OFFERED[0].identity
    assert rows[0].generation != rows[1].generation
    spec = JobSpec(source="web01", disks=("/dev/vdb",), targets=("device:/dev/sdx",))
    (row,) = opening.plan("job1", spec, OFFERED, tmp_path)
    assert (row.number, row.kind, row.intermediate, row.fresh) == (0, "device", "/dev/sdx", False)
    with pytest.raises(Fault, match=r"RPL-4002.*vdc"):
        opening.plan("job1", JobSpec(source="web01", disks=("/dev/vdc",)), OFFERED, tmp_path)
    with pytest.raises(Fault, match="RPL-4002"):
        opening.plan("job1", JobSpec(source="web01"), (), tmp_path)


def test_a_disk_is_made_once_and_taken_up_again(catalog: Catalog, tmp_path: Path) -> None:
    row = planned(catalog, tmp_path)[0]
    first = opened(catalog, row, tmp_path)
    assert first.row.fresh
    catalog.disks.record(first.row)
    first.confirm()
    first.disk.write(0, memoryview(b"x"))
    first.disk.close()
    again = opened(catalog, row, tmp_path)
    assert again.row == msgspec.structs.replace(first.row, fresh=False)
    again.disk.close()


def test_a_crash_before_the_catalog_knows_of_a_new_file(catalog: Catalog, tmp_path: Path) -> None:
    row = planned(catalog, tmp_path)[0]
    opened(catalog, row, tmp_path).disk.close()
    second = opened(catalog, row, tmp_path)
    assert second.row.generation == row.generation
    assert second.row.fresh
    second.disk.close()


@pytest.mark.parametrize("died_before", ["record", "confirm", "nothing"])
def test_after_a_failed_sync_the_generation_is_another(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, died_before: str
) -> None:
    row = planned(catalog, tmp_path)[0]
    first = opened(catalog, row, tmp_path)
    catalog.disks.record(first.row)
    first.confirm()

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(Fault, match="RPL-4108"):
            first.disk.sync()
    first.disk.close()
    seen = {first.row.generation}
    second = opened(catalog, row, tmp_path)
    assert second.row.generation not in seen
    if died_before != "record":
        catalog.disks.record(second.row)
        if died_before != "confirm":
            second.confirm()
    second.disk.close()
    third = opened(catalog, row, tmp_path)
    if died_before == "nothing":
        assert third.row.generation == second.row.generation
    else:
        assert third.row.generation not in {first.row.generation, second.row.generation}
        catalog.disks.record(third.row)
        third.confirm()
    third.disk.close()
    last = opened(catalog, row, tmp_path)
    assert last.row.generation == third.row.generation
    last.disk.close()


@pytest.mark.root
def test_a_device_is_taken_and_recognised(
    catalog: Catalog, tmp_path: Path, loop_device: Callable[[int], str]
) -> None:
    one, two = loop_device(SIZE), loop_device(SIZE)
    link = tmp_path / "target"
    link.symlink_to(one)
    spec = JobSpec(source="web01", disks=("/dev/vda",), targets=(f"device:{link}",))
    row = planned(catalog, tmp_path, spec)[0]
    first = opened(catalog, row, tmp_path)
    catalog.disks.record(first.row)
    first.confirm()
    first.disk.close()
    assert not first.row.fresh
    opened(catalog, row, tmp_path).disk.close()
    link.unlink()
    link.symlink_to(two)
    with pytest.raises(Fault, match="RPL-4106"):
        opened(catalog, row, tmp_path)
