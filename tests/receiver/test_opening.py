"""Opening a job's intermediate disks: what is refused, and what is said of what they hold."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import Fault
from protocol.wire.jobs import DiskIdentity
from protocol.wire.messages import OpenDisk, OpenedDisk, OpenSession
from receiver.disk import RawDisk
from receiver.evidence import Left
from receiver.opening import open_disks
from tests.support.office import SIZE, Office, office

pytestmark = pytest.mark.timeout(60)


def run(tmp_path: Path, work: Callable[[Office, str], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30), office(tmp_path) as made:
            await work(made, await made.job())

    asyncio.run(bounded())


async def opened(it: Office, job: str, **more: Any) -> OpenedDisk:
    """What a source is told when it opens a session; the disks are closed again."""
    disk = OpenDisk(**{"path": "/dev/vda", "size": SIZE, **more})
    message = OpenSession(id=1, job=job, disks=(disk,))

    def work(catalog: Any) -> OpenedDisk:
        opening = open_disks(
            catalog, it.storage, "web01", message, session="0" * 32, here=False, boot=""
        )
        marks = [Left(number=n, mark=each.mark()) for n, each in opening.disks.items()]
        opening.memory.end(marks)
        for each in opening.disks.values():
            each.close()
        opening.memory.close()
        return opening.opened[0]

    return await it.shelf.do(work)


async def held(it: Office, job: str) -> RawDisk:
    """The intermediate disk itself."""
    (row,) = await it.shelf.do(lambda catalog: catalog.disks.of_job(job))
    return RawDisk.open(
        it.storage,
        job,
        Path(row.intermediate).name,
        size=row.size,
        generation=row.generation,
        identity=row.target,
    )


def test_a_disk_is_fresh_once_and_keeps_its_generation(tmp_path: Path) -> None:
    """The second session cannot know what the first has sent before it died."""

    async def work(it: Office, job: str) -> None:
        first, second = await opened(it, job), await opened(it, job)
        assert (first.fresh, second.fresh) == (True, False)
        assert first.generation == second.generation

    run(tmp_path, work)


def test_a_disk_that_holds_something_is_not_fresh(tmp_path: Path) -> None:
    async def work(it: Office, job: str) -> None:
        with await held(it, job) as disk:
            disk.write(4096, memoryview(b"x" * 4096))
        assert not (await opened(it, job)).fresh

    run(tmp_path, work)


def test_what_cannot_be_vouched_for_gets_another_generation(tmp_path: Path) -> None:
    async def work(it: Office, job: str) -> None:
        first = await opened(it, job)
        with await held(it, job) as disk:
            disk.distrust()
        second, third = await opened(it, job), await opened(it, job)
        assert first.generation != second.generation == third.generation
        with await held(it, job) as disk:
            assert disk.trusted

    run(tmp_path, work)


@pytest.mark.parametrize(
    ("offer", "code"),
    [
        ({"size": SIZE // 2}, "RPL-5002"),
        ({"identity": DiskIdentity(wwn="naa.5000c500a1b2c3d4")}, "RPL-5003"),
        ({"path": "/dev/vdb"}, "RPL-4002"),
    ],
)
def test_another_disk_of_the_source_is_refused(
    offer: dict[str, Any], code: str, tmp_path: Path
) -> None:
    async def work(it: Office, job: str) -> None:
        known = DiskIdentity(wwn="naa.5000c500ffffffff")
        await it.shelf.do(lambda catalog: _identify(catalog, job, known))
        with pytest.raises(Fault) as refused:
            await opened(it, job, **offer)
        assert refused.value.code == code
        assert (await opened(it, job, identity=known)).fresh

    run(tmp_path, work)


def _identify(catalog: Any, job: str, identity: DiskIdentity) -> None:
    from receiver.catalog import rows

    catalog.disks._store.change(
        "UPDATE disks SET identity = ? WHERE job = ?", (rows.text(identity), job)
    )


def test_a_job_that_is_held_opens_nothing(tmp_path: Path) -> None:
    async def work(it: Office, job: str) -> None:
        import msgspec

        def hold(catalog: Any) -> None:
            row = catalog.jobs.get(job)
            catalog.jobs.save(msgspec.structs.replace(row, held=True))

        await it.shelf.do(hold)
        with pytest.raises(Fault, match="RPL-4005"):
            await opened(it, job)

    run(tmp_path, work)
