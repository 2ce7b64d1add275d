"""Jobs with a real catalog and a scripted clock: nobody waits for ever, nothing ended revives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import Fault, PeerFault
from protocol.wire.jobs import DiskReport, ErrorInfo, JobReport
from protocol.wire.messages import CheckpointFailed, Commit, OpenDisk, OpenSession
from receiver.checkpoint import commit
from receiver.happenings import TICK_SECONDS
from tests.support.office import SIZE, Office, office

pytestmark = pytest.mark.timeout(60)

Work = Callable[[Office], Awaitable[None]]


def run(tmp_path: Path, work: Work) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30), office(tmp_path) as made:
            await work(made)

    asyncio.run(bounded())


async def waiting(it: Office, job: str, **flags: bool) -> tuple[asyncio.Task[Any], str]:
    """Somebody who waits for a checkpoint."""
    wanted = {"hold": False, "cutover": False, **flags}
    row, request = await it.manager.checkpoint(job, **wanted)
    task = asyncio.create_task(it.manager.result(row, request))
    while not len(it.manager._waiting):  # noqa: ASYNC110 - until it waits
        await asyncio.sleep(0)
    return task, request


async def refused(task: asyncio.Task[Any]) -> str:
    with pytest.raises(Fault) as caught:
        async with asyncio.timeout(5):
            await task
    return caught.value.code


def report(job: str, revision: int, **more: Any) -> JobReport:
    return JobReport(job=job, revision=revision, **{"state": "syncing", **more})


ERROR = ErrorInfo(code="RPL-5004", message="reading failed", remedy="look")


async def open_session(it: Office, job: str) -> str:
    opened = await it.sessions.open(
        "web01",
        OpenSession(id=1, job=job, disks=(OpenDisk(path="/dev/vda", size=SIZE),)),
        8703,
    )
    return opened.session


def committing(job: str, session: str, epoch: int, request: str, **more: Any) -> Commit:
    return Commit(
        id=2,
        session=session,
        job=job,
        epoch=epoch,
        consistency="filesystem",
        frozen_seconds=0.1,
        taken="2027-01-15T08:00:00Z",
        request=request,
        **more,
    )


async def committed(it: Office, message: Commit) -> Any:
    reply, job, row = await commit(it.shelf, it.storage, it.sessions, "web01", message)
    it.manager.happenings.committed(job, row)
    return reply


@pytest.mark.parametrize("how", ["pause", "cancel", "expiry", "error", "failed", "disk"])
def test_who_waits_for_a_checkpoint_hears_whatever_becomes_of_it(how: str, tmp_path: Path) -> None:
    async def work(it: Office) -> None:
        job = await it.job(valid=3600.0)
        task, request = await waiting(it, job)
        code = "RPL-6006"
        if how in {"pause", "cancel"}:
            await it.manager.act(job, how)  # type: ignore[arg-type]
        elif how == "expiry":
            it.now += 3601
            await it.manager.happenings.tick()
        elif how == "error":
            revision = it.orders["web01"][-1].revision
            told = report(job, revision, state="error", error=ERROR)
            await it.manager.happenings.reported("web01", told)
            code = ERROR.code
        elif how == "failed":
            said = CheckpointFailed(job=job, request=request, error=ERROR)
            await it.manager.happenings.checkpoint_failed("web01", said)
            code = ERROR.code
        else:
            await open_session(it, job)
            session = it.sessions.of_job(job)
            assert session is not None
            session.fail(Fault("RPL-4108", "writing failed", "look"))
            code = "RPL-4108"
        assert await refused(task) == code
        assert (await it.manager.resolve(job)).wanted is None

    run(tmp_path, work)


def test_a_commit_answers_who_waits_and_saying_it_twice_is_saying_it_once(tmp_path: Path) -> None:
    async def work(it: Office) -> None:
        job = await it.job()
        session = await open_session(it, job)
        task, request = await waiting(it, job, hold=True)
        message = committing(job, session, 1, request, hold=True)
        assert (await committed(it, message)).held
        await it.sessions.close(job)
        assert (await task).epoch == 1
        again = await committed(it, message)
        assert (again.epoch, again.held) == (1, True)
        late = await it.manager.result(await it.manager.resolve(job), request)
        assert late.epoch == 1

    run(tmp_path, work)


def test_a_scheduled_checkpoint_under_way_does_not_end_the_job_when_another_is_wanted(
    tmp_path: Path,
) -> None:
    async def work(it: Office) -> None:
        job = await it.job(every=3600.0)
        session = await open_session(it, job)
        scheduled = (await it.manager.resolve(job)).wanted
        assert scheduled is not None
        task, request = await waiting(it, job)
        await committed(it, committing(job, session, 1, scheduled.request))
        row = await it.manager.resolve(job)
        assert row.wanted is not None
        assert (row.wanted.request, row.state, row.epoch) == (request, "syncing", 1)
        await committed(it, committing(job, session, 2, request))
        await it.sessions.close(job)
        assert (await task).epoch == 2

    run(tmp_path, work)


def test_a_commit_that_nobody_asked_for_is_refused(tmp_path: Path) -> None:
    async def work(it: Office) -> None:
        job = await it.job()
        session = await open_session(it, job)
        with pytest.raises(Fault, match="RPL-4005"):
            await committed(it, committing(job, session, 1, "unasked"))
        assert (await it.manager.resolve(job)).epoch == 0
        await it.sessions.close(job)

    run(tmp_path, work)


def test_the_same_checkpoint_asked_twice_is_one(tmp_path: Path) -> None:
    async def work(it: Office) -> None:
        job = await it.job()
        _, first = await it.manager.checkpoint(job, hold=True, cutover=False)
        _, again = await it.manager.checkpoint(job, hold=True, cutover=False)
        assert again == first
        with pytest.raises(Fault, match="RPL-4005"):
            await it.manager.checkpoint(job, hold=False, cutover=False)

    run(tmp_path, work)


def test_a_cutover_that_was_withdrawn_does_not_end_the_job(tmp_path: Path) -> None:
    async def work(it: Office) -> None:
        job = await it.job()
        session = await open_session(it, job)
        task, request = await waiting(it, job, cutover=True)
        await it.manager.act(job, "pause")
        await refused(task)
        with pytest.raises(Fault, match="RPL-4005"):
            await committed(it, committing(job, session, 1, request, cutover=True))
        row = await it.manager.resolve(job)
        assert (row.state, row.epoch) == ("paused", 0)
        await it.sessions.close(job)

    run(tmp_path, work)


def test_no_session_is_opened_while_a_commit_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(it: Office) -> None:
        job = await it.job()
        session = it.sessions.find(bytes.fromhex(await open_session(it, job)))
        assert session is not None
        _, request = await waiting(it, job)
        go, begun = asyncio.Event(), asyncio.Event()
        sync = session.sync

        async def slow() -> None:
            begun.set()
            await go.wait()
            await sync()

        monkeypatch.setattr(session, "sync", slow)
        record = asyncio.create_task(committed(it, committing(job, session.id, 1, request)))
        await begun.wait()
        assert session.still  # content that comes now is refused
        other = asyncio.create_task(open_session(it, job))
        await asyncio.sleep(0.3)  # it looks into the catalog first, in another thread
        assert not session.over
        go.set()
        await record
        await other
        assert session.over

    run(tmp_path, work)


def test_a_source_is_believed_about_its_own_job_only(tmp_path: Path) -> None:
    async def work(it: Office) -> None:
        await it.enrol("evil")
        job = await it.job()
        happenings = it.manager.happenings
        await happenings.reported("web01", report(job, 2, speed_bytes_per_second=5.0))
        with pytest.raises(PeerFault, match="RPL-4003"):
            await happenings.reported("evil", report(job, 2, speed_bytes_per_second=9.0))
        it.here.add("web01")
        view = await it.manager.view(await it.manager.resolve(job))
        assert view.speed_bytes_per_second == 5.0
        await happenings.reported("web01", report("gone1234", 1))  # of a deleted job: old news
        with pytest.raises(Fault, match="RPL-4003"):
            await it.sessions.open(
                "evil",
                OpenSession(id=1, job=job, disks=(OpenDisk(path="/dev/vda", size=SIZE),)),
                8703,
            )
        with pytest.raises(Fault, match="RPL-3002"):
            await commit(
                it.shelf, it.storage, it.sessions, "evil", committing(job, "0" * 32, 1, "r")
            )

    run(tmp_path, work)


def test_the_figures_of_a_source_that_is_away_say_so(tmp_path: Path) -> None:
    async def work(it: Office) -> None:
        job = await it.job()
        view = await it.manager.view(await it.manager.resolve(job))
        assert view.state == "preparing"
        assert view.sentence == "source has never connected"
        disk = DiskReport(path="/dev/vda", size=SIZE, dirty_bytes=4096, in_flight_bytes=512)
        it.here.add("web01")
        told = report(job, 2, speed_bytes_per_second=7.0, lag_seconds=3.0, disks=(disk,))
        await it.manager.happenings.reported("web01", told)
        it.here.clear()
        it.now += 60
        view = await it.manager.view(await it.manager.resolve(job))
        assert not view.connected
        assert view.speed_bytes_per_second == 0
        assert view.remaining_seconds is None
        assert (view.disks[0].dirty_bytes, view.disks[0].in_flight_bytes) == (4096, 0)
        assert view.sentence == "source not connected since 2027-01-15T08:00:00Z"
        assert view.lag_seconds == 63.0

    run(tmp_path, work)


def test_what_has_ended_is_not_revived_by_the_clock(tmp_path: Path) -> None:
    async def work(it: Office) -> None:
        job = await it.job(valid=10.0, start="at", start_at=it.now + 5)
        it.now += 20
        await it.manager.act(job, "cancel")
        await it.manager.happenings.tick()
        row = await it.manager.resolve(job)
        assert (row.state, row.outcome) == ("finished", "cancelled")
        await it.manager.delete(job)
        await it.manager.happenings.tick()

    run(tmp_path, work)


def test_a_job_starts_at_its_time_and_a_missed_one_once(tmp_path: Path) -> None:
    async def work(it: Office) -> None:
        job = await it.job(every=3600.0, start="at", start_at=it.now + 100)
        await it.manager.happenings.tick()
        assert (await it.manager.resolve(job)).state == "ready"
        it.now += 3 * 3600 + 150  # off for three of them
        await it.manager.happenings.tick()
        row = await it.manager.resolve(job)
        assert row.state == "preparing"
        assert row.wanted is not None
        said = CheckpointFailed(job=job, request=row.wanted.request, error=ERROR)
        await it.manager.happenings.checkpoint_failed("web01", said)
        row = await it.manager.resolve(job)
        assert row.state == "waiting"
        assert row.error == ERROR
        assert row.next_sync is not None
        assert it.now < row.next_sync <= it.now + 3600
        assert (row.next_sync - 100) % 3600 == 0
        it.now = row.next_sync
        await it.manager.happenings.tick()
        assert (await it.manager.resolve(job)).state == "preparing"

    run(tmp_path, work)


def test_a_schedule_that_is_set_or_ended_takes_effect_at_once(tmp_path: Path) -> None:
    async def work(it: Office) -> None:
        job = await it.job()
        await it.manager.edit(job, {"every": 3600.0})
        row = await it.manager.resolve(job)
        assert row.wanted is not None
        said = CheckpointFailed(job=job, request=row.wanted.request, error=ERROR)
        await it.manager.happenings.checkpoint_failed("web01", said)
        before = await it.manager.resolve(job)
        await it.manager.edit(job, {"every": 600.0})
        after = await it.manager.resolve(job)
        assert before.next_sync is not None
        assert after.next_sync is not None
        assert after.next_sync < before.next_sync
        await it.manager.edit(job, {"every": None})
        await it.manager.happenings.tick()
        row = await it.manager.resolve(job)
        assert (row.state, row.next_sync) == ("preparing", None)

    run(tmp_path, work)


def test_the_clock_goes_on_when_the_catalog_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlite3

    async def work(it: Office) -> None:
        job = await it.job(start="at", start_at=it.now + 1)
        it.now += 2

        def full(*_: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        with monkeypatch.context() as patch:
            patch.setattr("receiver.catalog.jobs.Jobs.save", full)
            clock = asyncio.create_task(it.manager.happenings.keep_time())
            await asyncio.sleep(0.05)
            assert not clock.done()
        await asyncio.sleep(2 * TICK_SECONDS)
        assert (await it.manager.resolve(job)).state == "preparing"
        clock.cancel()
        await asyncio.gather(clock, return_exceptions=True)

    run(tmp_path, work)


def test_bytes_go_on_after_a_restart_and_the_counter_begins_again(tmp_path: Path) -> None:
    async def first(it: Office) -> None:
        job = await it.job()
        it.sessions._past[job] = (1000, 100)
        await it.manager.happenings.reported("web01", report(job, 2))
        it.sessions._past[job] = (3000, 300)  # the end of the daemon keeps these too

    async def second(it: Office) -> None:
        (row,) = await it.shelf.do(lambda catalog: catalog.jobs.all())
        assert it.manager.figures.received(row) == (3000, 300)
        assert it.manager.figures.since_start(row.id) == (0, 0)

    async def both() -> None:
        async with asyncio.timeout(30):
            async with office(tmp_path) as it:
                await first(it)
            from receiver.shelf import Shelf

            shelf = await Shelf.open(tmp_path / "catalog.db")
            try:
                await second(Office(shelf, tmp_path))
            finally:
                await shelf.close()

    asyncio.run(both())
