"""The catalog: what is refused, what survives, and that every older file can be opened."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from protocol.errors import Fault
from protocol.wire.jobs import (
    CheckpointOrder,
    DiskIdentity,
    DiskInfo,
    ErrorInfo,
    JobReport,
)
from receiver.catalog import Catalog, CheckpointRow, DiskRow, TargetIdentity, schema, store
from receiver.jobs.spec import JobSpec

NOW = 1_800_000_000.0


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(tmp_path / "catalog.sqlite") as opened:
        yield opened


def enrol(catalog: Catalog, name: str = "web01", fingerprint: str = "f1") -> None:
    catalog.sources.enrol(name, fingerprint=fingerprint, serial="1", now=NOW)


def disk_of(job: str, number: int = 0, intermediate: str = "/x") -> DiskRow:
    return DiskRow(
        job=job,
        number=number,
        source_path=f"/dev/vd{number}",
        size=1 << 30,
        identity=DiskIdentity(serial="s", filesystems=("a", "b")),
        kind="raw",
        intermediate=intermediate,
        target=TargetIdentity(size=1 << 30, inode=7, marks={"serial": "s"}),
        generation="g",
        fresh=True,
    )


def checkpoint_of(job: str, epoch: int, request: str = "") -> CheckpointRow:
    return CheckpointRow(
        job=job,
        epoch=epoch,
        request=request,
        consistency="filesystem",
        taken="2027-01-15T08:00:00Z",
        committed=NOW,
        frozen_seconds=0.25,
        snapshot="/s/1",
        preserved="preserved in /s/1",
    )


# --- the file ---------------------------------------------------------------------------------


def test_the_file_is_private_durable_and_of_this_version(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    with Catalog(path) as catalog:
        assert path.stat().st_mode & 0o777 == 0o600
        pragmas = {
            name: catalog._store.one(f"PRAGMA {name}")
            for name in ("journal_mode", "synchronous", "foreign_keys", "user_version")
        }
        values = {name: row[0] for name, row in pragmas.items() if row is not None}
    assert values == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "user_version": schema.VERSION,
    }


def tables(path: Path) -> list[tuple[str, str]]:
    connection = sqlite3.connect(path)
    found = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"
    ).fetchall()
    connection.close()
    return [(name, sql) for name, sql in found]


@pytest.mark.parametrize("version", range(schema.VERSION + 1))
def test_every_older_file_becomes_a_present_one(tmp_path: Path, version: int) -> None:
    old, new = tmp_path / "old.sqlite", tmp_path / "new.sqlite"
    connection = sqlite3.connect(old)
    for step in schema.STEPS[:version]:
        connection.executescript(step)
    connection.execute(f"PRAGMA user_version={version}")
    connection.commit()
    connection.close()
    Catalog(old).close()
    Catalog(new).close()
    assert tables(old) == tables(new)


def test_a_step_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "catalog.sqlite"
    Catalog(path).close()
    before = tables(path)
    broken = "CREATE TABLE extra (x INTEGER) STRICT; CREATE TABLE jobs (x INTEGER) STRICT"
    monkeypatch.setattr(schema, "STEPS", (*schema.STEPS, broken))
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    with pytest.raises(Fault, match="RPL-4111"):
        Catalog(path)
    monkeypatch.undo()
    assert tables(path) == before
    Catalog(path).close()


def test_a_newer_or_foreign_file_is_refused(tmp_path: Path) -> None:
    newer = tmp_path / "newer.sqlite"
    connection = sqlite3.connect(newer)
    connection.execute(f"PRAGMA user_version={schema.VERSION + 1}")
    connection.close()
    with pytest.raises(Fault, match=r"RPL-4111.*newer release"):
        Catalog(newer)
    foreign = tmp_path / "foreign.sqlite"
    foreign.write_bytes(b"not a database, but long enough to be looked at" * 99)
    with pytest.raises(Fault, match="RPL-4111"):
        Catalog(foreign)


def test_it_belongs_to_one_thread(catalog: Catalog) -> None:
    failure: list[Exception] = []

    def use() -> None:
        try:
            catalog.jobs.all()
        except sqlite3.ProgrammingError as error:
            failure.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert failure


def test_transactions_are_all_or_nothing_when_nested(catalog: Catalog) -> None:
    def half() -> None:
        with catalog.transaction():
            enrol(catalog)
            with catalog.transaction():
                enrol(catalog, "web02", "f2")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        half()
    assert catalog.sources.all() == []


def test_what_was_committed_survives_a_kill(tmp_path: Path) -> None:
    script = (
        "import sys, os, signal; from pathlib import Path; from receiver.catalog import Catalog\n"
        "c = Catalog(Path(sys.argv[1]))\n"
        "c.sources.enrol('a', fingerprint='1', serial='1', now=1.0)\n"
        "c._store._connection.execute('BEGIN IMMEDIATE')\n"
        "c.sources.enrol('b', fingerprint='2', serial='2', now=1.0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "catalog.sqlite"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", script, str(path)], cwd=root, check=False)
    with Catalog(path) as catalog:
        assert [source.name for source in catalog.sources.all()] == ["a"]


# --- sources ----------------------------------------------------------------------------------


def test_a_source_is_known_by_its_certificate_until_it_is_forgotten(catalog: Catalog) -> None:
    enrol(catalog)
    assert catalog.sources.with_certificate("f1", "web01").name == "web01"
    with pytest.raises(Fault, match="RPL-2007"):
        catalog.sources.with_certificate("f2", "web01")
    catalog.sources.forget("web01", NOW)
    for refused in (
        lambda: catalog.sources.with_certificate("f1", "web01"),
        lambda: catalog.sources.get("web01"),
        lambda: catalog.sources.forget("web01", NOW),
    ):
        with pytest.raises(Fault, match=r"RPL-2007|RPL-4001"):
            refused()
    assert catalog.sources.all() == []


def test_a_name_is_only_given_again_to_its_owner_or_when_forgotten(catalog: Catalog) -> None:
    enrol(catalog)
    with pytest.raises(Fault, match="RPL-2009"):
        enrol(catalog, fingerprint="f2")
    with pytest.raises(Fault, match="RPL-2009"):
        catalog.sources.enrol("web01", fingerprint="f2", serial="2", now=NOW, replaces="stranger")
    catalog.sources.enrol("web01", fingerprint="f2", serial="2", now=NOW, replaces="f1")
    with pytest.raises(Fault, match="RPL-2007"):
        catalog.sources.with_certificate("f1", "web01")
    catalog.sources.forget("web01", NOW)
    enrol(catalog, fingerprint="f3")
    assert catalog.sources.with_certificate("f3", "web01").forgotten is None


def test_names_that_differ_in_case_only_are_one(catalog: Catalog) -> None:
    enrol(catalog)
    with pytest.raises(Fault, match=r"RPL-2009.*web01"):
        enrol(catalog, "Web01", "f2")
    catalog.sources.forget("web01", NOW)
    enrol(catalog, "Web01", "f2")


def test_what_a_source_says_is_kept(catalog: Catalog) -> None:
    enrol(catalog)
    disks = (DiskInfo(path="/dev/vda", size=5, kind="disk"),)
    catalog.sources.offer("web01", disks)
    catalog.sources.seen("web01", NOW + 1, address="10.0.0.1", software="1.0")
    catalog.sources.seen("web01", NOW + 2)
    row = catalog.sources.get("web01")
    assert (row.inventory, row.last_seen, row.address) == (disks, NOW + 2, "10.0.0.1")
    assert row.software == "1.0"


# --- jobs -------------------------------------------------------------------------------------


def test_a_source_has_one_unfinished_job(catalog: Catalog) -> None:
    enrol(catalog)
    first = catalog.jobs.create(JobSpec(source="web01", name="move"), "ready", NOW)
    with pytest.raises(Fault, match=rf"RPL-4004.*{first.id}"):
        catalog.jobs.create(JobSpec(source="web01"), "ready", NOW)
    with pytest.raises(sqlite3.IntegrityError):
        catalog._store.change(
            "INSERT INTO jobs (id, source, name, spec, state, created)"
            " SELECT 'x', source, name, spec, state, created FROM jobs"
        )
    with pytest.raises(Fault, match="RPL-4004"):
        catalog.sources.forget("web01", NOW)
    catalog.jobs.save(msgspec.structs.replace(first, state="finished", outcome="cancelled"))
    second = catalog.jobs.create(JobSpec(source="web01"), "preparing", NOW)
    assert catalog.jobs.unfinished_of("web01") == second
    assert catalog.jobs.unfinished() == [second]
    assert len(catalog.jobs.all()) == 2


def test_a_job_of_nobody_is_refused(catalog: Catalog) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        catalog.jobs.create(JobSpec(source="nobody"), "ready", NOW)


def test_all_of_a_job_comes_back(catalog: Catalog) -> None:
    enrol(catalog)
    spec = JobSpec(source="web01", disks=("/dev/vda",), every=3600.0, valid=60.0)
    job = catalog.jobs.create(spec, "preparing", NOW, next_sync=NOW + 5)
    assert (job.started, job.valid_until, job.next_sync) == (NOW, NOW + 60, NOW + 5)
    changed = msgspec.structs.replace(
        job,
        name="other",
        state="waiting",
        revision=7,
        epoch=3,
        held=True,
        wanted=CheckpointOrder(request="r", hold=True),
        error=ErrorInfo(code="RPL-1900", message="m"),
    )
    assert catalog.jobs.save(changed) == changed
    report = JobReport(job=job.id, revision=7, state="waiting", logical_bytes=5)
    catalog.jobs.record_report(job.id, report)
    assert catalog.jobs.get(job.id) == msgspec.structs.replace(changed, report=report)


def test_orders_and_errors_raise_the_revision(catalog: Catalog) -> None:
    enrol(catalog)
    job = catalog.jobs.create(JobSpec(source="web01"), "syncing", NOW)
    order = CheckpointOrder(request="r")
    assert catalog.jobs.want_checkpoint(job.id, order, "syncing").revision == 2
    error = ErrorInfo(code="RPL-4107", message="full")
    failed = catalog.jobs.record_error(job.id, "error", error)
    assert (failed.revision, failed.state, failed.error) == (3, "error", error)
    assert failed.wanted == order


def test_an_unknown_job_is_a_fault(catalog: Catalog) -> None:
    enrol(catalog)
    job = catalog.jobs.create(JobSpec(source="web01"), "ready", NOW)
    catalog.jobs.delete(job.id)
    for refused in (
        lambda: catalog.jobs.get(job.id),
        lambda: catalog.jobs.delete(job.id),
        lambda: catalog.jobs.save(job),
    ):
        with pytest.raises(Fault, match="RPL-4003"):
            refused()


# --- disks and checkpoints --------------------------------------------------------------------


def test_a_target_belongs_to_one_job_and_goes_with_it(catalog: Catalog) -> None:
    enrol(catalog)
    enrol(catalog, "web02", "f2")
    one = catalog.jobs.create(JobSpec(source="web01"), "ready", NOW)
    two = catalog.jobs.create(JobSpec(source="web02"), "ready", NOW)
    row = catalog.disks.add(disk_of(one.id))
    assert catalog.disks.of_job(one.id) == [row]
    with pytest.raises(sqlite3.IntegrityError):
        catalog.disks.add(disk_of(two.id))
    kept = catalog.disks.add(disk_of(two.id, intermediate="/y"))
    catalog.checkpoints.add(checkpoint_of(one.id, 1))
    catalog.jobs.delete(one.id)
    assert catalog.disks.all() == [kept]
    assert catalog.checkpoints.of_job(one.id) == []


def test_freshness_ends_before_the_first_byte_and_a_generation_is_renewed(
    catalog: Catalog,
) -> None:
    enrol(catalog)
    job = catalog.jobs.create(JobSpec(source="web01"), "ready", NOW)
    catalog.disks.add(disk_of(job.id))
    catalog.disks.written(job.id, 0)
    assert not catalog.disks.of_job(job.id)[0].fresh
    target = TargetIdentity(size=1, inode=9)
    minted = catalog.disks.renew(job.id, 0, target, fresh=True)
    row = catalog.disks.of_job(job.id)[0]
    assert (row.generation, row.target, row.fresh) == (minted, target, True)
    assert catalog.disks.renew(job.id, 0, target, fresh=True) != minted
    assert catalog.disks.devices() == []


def test_an_epoch_never_goes_back(catalog: Catalog) -> None:
    enrol(catalog)
    stale = catalog.jobs.create(JobSpec(source="web01"), "ready", NOW)
    catalog.checkpoints.add(checkpoint_of(stale.id, 4))
    assert catalog.jobs.save(msgspec.structs.replace(stale, held=True)).epoch == 4
    assert catalog.jobs.get(stale.id).epoch == 4


def test_checkpoints_in_order_and_asked_for_once(catalog: Catalog) -> None:
    enrol(catalog)
    job = catalog.jobs.create(JobSpec(source="web01"), "ready", NOW)
    first = catalog.checkpoints.add(checkpoint_of(job.id, 1, "r1"))
    second = catalog.checkpoints.add(checkpoint_of(job.id, 2))
    third = catalog.checkpoints.add(checkpoint_of(job.id, 3))
    assert catalog.jobs.get(job.id).epoch == 3
    assert catalog.checkpoints.of_job(job.id) == [first, second, third]
    assert catalog.checkpoints.newest(job.id) == third
    assert catalog.checkpoints.get(job.id, 2) == second
    assert catalog.checkpoints.answering(job.id, "r1") == first
    assert catalog.checkpoints.answering(job.id, "") is None
    for twice in (checkpoint_of(job.id, 1), checkpoint_of(job.id, 4, "r1")):
        with pytest.raises(sqlite3.IntegrityError):
            catalog.checkpoints.add(twice)
    assert catalog.jobs.get(job.id).epoch == 3
    catalog.checkpoints.dropped(job.id, 1, "let go: keep=2")
    assert catalog.checkpoints.of_job(job.id)[0].snapshot is None


def test_waiting_for_another_process_is_bounded() -> None:
    assert 0 < store.BUSY_TIMEOUT_MS <= 10_000
