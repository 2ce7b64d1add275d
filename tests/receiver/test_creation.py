"""Making and deleting a job, killed between any two steps: what is left, and what repairs it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import Fault
from protocol.wire.jobs import DiskInfo
from receiver import snapshot
from receiver.catalog import Catalog, CheckpointRow
from receiver.creation import create_job, delete_job, sweep_storage
from receiver.disk import RawDisk, files
from receiver.jobs.spec import JobSpec

NOW = 1_800_000_000.0
SIZE = 1 << 20
DISKS = tuple(DiskInfo(path=f"/dev/vd{letter}", size=SIZE, kind="disk") for letter in "ab")
SPEC = JobSpec(source="web01")


class Killed(BaseException):
    """The process is gone: no handler that it has may be what repairs things."""


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(tmp_path / "catalog.db") as opened:
        opened.sources.enrol("web01", fingerprint="f", serial="1", now=NOW)
        opened.sources.offer("web01", DISKS)
        yield opened


def left(storage: Path) -> list[str]:
    """Files under disks and snapshots."""
    return sorted(
        str(path.relative_to(storage))
        for name in ("disks", "snapshots")
        for path in (storage / name).rglob("*")
    )


def killing(monkeypatch: pytest.MonkeyPatch, place: str, nth: int, after: bool) -> None:
    """End the "process" before or after the nth call of ``place``."""
    calls = 0
    module, _, name = place.rpartition(".")
    import importlib

    owner: Any
    try:
        owner = importlib.import_module(module)
    except ModuleNotFoundError:
        package, _, kind = module.rpartition(".")
        owner = getattr(importlib.import_module(package), kind)
    whole: Callable[..., Any] = getattr(owner, name)

    def dying(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth and not after:
            raise Killed
        found = whole(*args, **kwargs)
        if calls == nth:
            if isinstance(found, int):  # the kernel closes what a dead process had open
                os.close(found)
            raise Killed
        return found

    monkeypatch.setattr(owner, name, dying)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize(
    "place",
    [
        "receiver.disk.files.lock",
        "receiver.disk.files.set_mark",
        "receiver.disk.raw._make",
        "receiver.catalog.disks.Disks.add",
    ],
)
def test_a_kill_while_a_job_is_made_leaves_nothing_after_the_next_start(
    place: str, nth: int, after: bool, catalog: Catalog, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        killing(patch, place, nth, after)
        # What a dying process does not do any more.
        patch.setattr("receiver.creation._remove_files", lambda *_: None)
        patch.setattr(os, "unlink", lambda *_, **__: None)
        with pytest.raises(Killed):
            create_job(catalog, tmp_path, SPEC, NOW)
    assert catalog.jobs.all() == []
    sweep_storage(catalog, tmp_path)
    assert left(tmp_path) == []
    made = create_job(catalog, tmp_path, SPEC, NOW)  # and the source is free for another
    assert len(catalog.disks.of_job(made.id)) == 2


def test_a_refusal_leaves_nothing_at_once(catalog: Catalog, tmp_path: Path) -> None:
    spec = JobSpec(
        source="web01", disks=("/dev/vda", "/dev/vdb"), targets=("raw", "device:/dev/nonesuch")
    )
    with pytest.raises(Fault, match="RPL-4105"):
        create_job(catalog, tmp_path, spec, NOW)
    assert left(tmp_path) == []
    assert catalog.jobs.all() == []


def test_the_sweep_leaves_what_holds_a_byte_or_is_not_ours(
    catalog: Catalog, tmp_path: Path
) -> None:
    job = create_job(catalog, tmp_path, SPEC, NOW)
    home = tmp_path / files.DIRECTORY
    before = left(tmp_path)
    lost = home / "lostjob1"
    lost.mkdir()
    for name in ("0-full.raw", "1-empty.raw", "2-linked.raw", "notes.txt", "3-held.raw"):
        (lost / name).touch()
        os.truncate(lost / name, SIZE)
    (lost / "0-full.raw").write_bytes(b"x")
    (lost / "other").hardlink_to(lost / "2-linked.raw")
    (home / job.id / "9-stray.raw").touch()
    (home / "elsewhere").symlink_to(tmp_path)
    held = os.open(lost / "3-held.raw", os.O_RDONLY)
    try:
        files.lock(held, lost / "3-held.raw")
        removed = sweep_storage(catalog, tmp_path)
    finally:
        os.close(held)
    assert sorted(removed) == sorted([f"{job.id}/9-stray.raw", "lostjob1/1-empty.raw"])
    assert sorted(os.listdir(lost)) == [
        "0-full.raw",
        "2-linked.raw",
        "3-held.raw",
        "notes.txt",
        "other",
    ]
    assert set(before) <= set(left(tmp_path))


def test_the_sweep_lets_go_what_a_kill_after_a_commit_kept(
    catalog: Catalog, tmp_path: Path
) -> None:
    """Of four snapshots two are kept; one was struck out already, its files were still there."""
    job = create_job(catalog, tmp_path, JobSpec(source="web01", keep=2), NOW)
    home = tmp_path / snapshot.DIRECTORY / job.id
    for epoch in range(1, 5):
        (home / str(epoch)).mkdir(parents=True)
        catalog.checkpoints.add(
            CheckpointRow(
                job=job.id,
                epoch=epoch,
                request=f"r{epoch}",
                consistency="filesystem",
                taken="2026-01-01T00:00:00Z",
                committed=NOW,
                frozen_seconds=0.1,
                snapshot=str(home / str(epoch)),
                preserved="",
            )
        )
    catalog.checkpoints.dropped(job.id, 1, "let go")
    assert sorted(sweep_storage(catalog, tmp_path)) == [f"{job.id}/1", f"{job.id}/2"]
    assert sorted(os.listdir(home)) == ["3", "4"]
    kept = {row.epoch for row in catalog.checkpoints.of_job(job.id) if row.snapshot}
    assert kept == {3, 4}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("place", ["receiver.snapshot.sweep", "receiver.disk.files.delete_files"])
def test_a_kill_while_a_job_is_deleted_can_be_deleted_again(
    place: str, after: bool, catalog: Catalog, tmp_path: Path
) -> None:
    job = create_job(catalog, tmp_path, SPEC, NOW)
    orphan = tmp_path / snapshot.DIRECTORY / job.id / "7"  # of a commit that was refused
    orphan.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        killing(patch, place, 1, after)
        with pytest.raises(Killed):
            delete_job(catalog, tmp_path, job)
    assert [row.id for row in catalog.jobs.all()] == [job.id]
    delete_job(catalog, tmp_path, job)
    assert left(tmp_path) == []
    assert catalog.jobs.all() == []


def test_a_commit_of_the_catalog_that_fails_does_not_swallow_later_ones(
    catalog: Catalog, tmp_path: Path
) -> None:
    """After a COMMIT that failed (disk full), the next transaction is its own again."""
    store = catalog._store
    whole = store._connection

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(whole, name)

        def execute(self, statement: str, *args: Any) -> Any:
            if statement == "COMMIT":
                raise OSError("disk full")
            return whole.execute(statement, *args)

    store._connection = Full()  # type: ignore[assignment]
    with pytest.raises(OSError, match="disk full"):
        create_job(catalog, tmp_path, SPEC, NOW)
    store._connection = whole
    assert not whole.in_transaction
    job = create_job(catalog, tmp_path, SPEC, NOW)
    with Catalog(tmp_path / "catalog.db") as other:
        assert [row.id for row in other.jobs.all()] == [job.id]


def test_a_hole_is_known_without_reading(tmp_path: Path) -> None:
    with RawDisk.create(
        tmp_path, "job1", number=0, source_path="/dev/vda", size=8 << 20, generation="g"
    ) as disk:
        assert disk.is_hole(0, disk.size)
        disk.write(1 << 20, memoryview(b"x" * 4096))
        assert disk.is_hole(0, 1 << 20)
        assert not disk.is_hole(0, (1 << 20) + 4096)
        assert not disk.is_hole(1 << 20, 4096)
        with pytest.raises(ValueError, match="not within"):
            disk.is_hole(disk.size, 1)
