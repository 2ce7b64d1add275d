"""Committing a checkpoint: whose session it must be, and that what is held stands still."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import Fault
from protocol.wire.messages import Commit, OpenDisk, OpenSession
from receiver.checkpoint import commit
from tests.support.office import SIZE, Office, office

pytestmark = pytest.mark.timeout(60)


def run(tmp_path: Path, work: Callable[[Office, str], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30), office(tmp_path) as made:
            await work(made, await made.job())

    asyncio.run(bounded())


async def session_of(it: Office, job: str) -> str:
    disks = (OpenDisk(path="/dev/vda", size=SIZE),)
    opened = await it.sessions.open("web01", OpenSession(id=1, job=job, disks=disks), 8703)
    return opened.session


async def committed(it: Office, job: str, session: str, request: str, **more: Any) -> Any:
    message = Commit(
        id=2,
        session=session,
        job=job,
        epoch=1,
        consistency="filesystem",
        frozen_seconds=0.1,
        taken="2027-01-15T08:00:00Z",
        request=request,
        **more,
    )
    return await commit(it.shelf, it.storage, it.sessions, "web01", message)


@pytest.mark.parametrize("flag", ["hold", "cutover", None])
def test_what_is_held_or_finished_takes_no_content(flag: str | None, tmp_path: Path) -> None:
    """Whatever a source sends afterwards: held means exactly at the checkpoint."""

    async def work(it: Office, job: str) -> None:
        flags = {"hold": flag == "hold", "cutover": flag == "cutover"}
        session = await session_of(it, job)
        _, request = await it.manager.checkpoint(job, **flags)
        await committed(it, job, session, request, **flags)
        found = it.sessions.of_job(job)
        assert found is not None
        assert found.still is (flag is not None)

    run(tmp_path, work)


def test_a_commit_of_a_session_that_was_replaced_is_refused(tmp_path: Path) -> None:
    """Its content may have been written over by the newer session's."""

    async def work(it: Office, job: str) -> None:
        older = await session_of(it, job)
        await session_of(it, job)
        _, request = await it.manager.checkpoint(job, hold=False, cutover=False)
        with pytest.raises(Fault, match="RPL-3008"):
            await committed(it, job, older, request)
        assert (await it.manager.resolve(job)).epoch == 0

    run(tmp_path, work)


def test_everything_is_synced_before_it_is_preserved_and_then_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(it: Office, job: str) -> None:
        from receiver import checkpoint, snapshot

        steps: list[str] = []
        session = await session_of(it, job)
        found = it.sessions.of_job(job)
        assert found is not None
        _, request = await it.manager.checkpoint(job, hold=False, cutover=False)

        def noted(name: str, whole: Callable[..., Any]) -> Callable[..., Any]:
            def note(*arguments: Any) -> Any:
                steps.append(name)
                return whole(*arguments)

            return note

        for disk in found.disks.values():
            monkeypatch.setattr(disk, "sync", noted("sync", disk.sync))
        monkeypatch.setattr(checkpoint, "preserve", noted("preserve", snapshot.preserve))
        monkeypatch.setattr(checkpoint, "_record", noted("record", checkpoint._record))
        await committed(it, job, session, request)
        assert steps == ["sync", "preserve", "record"]

    run(tmp_path, work)
