"""The set of a job's disks: what the source's configuration allows, and nothing else."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from protocol.errors import SOURCE_DISK_FORBIDDEN, LocalFault
from replicad.engine import disks as module
from replicad.engine.disks import DiskSet
from replicad.tracker import NoTracker


@pytest.mark.parametrize("named", [(), ("/dev/other",)])
def test_an_order_reaches_no_disk_that_is_not_allowed(
    named: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "ok.img"
    image.write_bytes(bytes(4096))
    monkeypatch.setattr(module, "JobDisk", lambda *_: pytest.fail("a disk was opened"))

    async def case() -> None:
        with ThreadPoolExecutor(1) as worker:
            disks = DiskSet("j", tmp_path, NoTracker("not here"), worker)
            await disks.open(named, (str(image),))

    with pytest.raises(LocalFault) as refused:
        asyncio.run(case())
    assert refused.value.code == SOURCE_DISK_FORBIDDEN.code
