"""From a job to its open intermediate disks: planned, opened, vouched for.

The order matters, because a crash can come between any two steps:

1. :func:`plan` makes the rows; they are in the catalog before anything is made on disk.
2. :func:`open_disk` makes or takes up the intermediate disk. What it says of it (a new file's
   inode, a new generation for content that nobody can vouch for) is recorded in the catalog,
3. and only then :meth:`Opened.confirm` writes the generation onto the disk.

After a crash before 2 is recorded, the file without data is made again; after one before 3,
the file is still marked as untrusted and gets yet another generation. Both are safe.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from protocol.errors import UNKNOWN_DISK
from receiver.catalog.disks import new_generation
from receiver.catalog.rows import DiskRow, TargetIdentity
from receiver.disk import files
from receiver.disk.block import BlockDisk
from receiver.disk.raw import RawDisk, file_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from protocol.wire.messages import DiskInfo
    from receiver.disk.base import IntermediateDisk
    from receiver.disk.device import Machine
    from receiver.jobs.spec import JobSpec


def plan(job: str, spec: JobSpec, offered: Iterable[DiskInfo], storage: Path) -> list[DiskRow]:
    """The disks of a new job, numbered from 0 in the order that the administrator gave.

    Args:
        job: its id.
        spec: what is wanted; without disks, all that the source offers.
        offered: the source's inventory.
        storage: the receiver's storage directory.

    Raises:
        LocalFault: UNKNOWN_DISK: the source has no such disk, or none at all.
    """
    by_path = {info.path: info for info in offered}
    paths = spec.disks or tuple(by_path)
    unknown = [path for path in paths if path not in by_path] or ([] if paths else ["at all"])
    if unknown:
        raise UNKNOWN_DISK.fault(source=spec.source, path=", ".join(unknown))
    return [
        _row(job, number, by_path[path], spec.target_of(number), storage)
        for number, path in enumerate(paths)
    ]


def _row(job: str, number: int, info: DiskInfo, target: str, storage: Path) -> DiskRow:
    raw = target == "raw"
    place = storage / files.DIRECTORY / job / file_name(number, info.path)
    return DiskRow(
        job=job,
        number=number,
        source_path=info.path,
        size=info.size,
        identity=info.identity,
        kind="raw" if raw else "device",
        intermediate=str(place) if raw else target.removeprefix("device:"),
        target=TargetIdentity(),
        generation=new_generation(),
        fresh=raw,
    )


@dataclass(frozen=True, slots=True)
class Opened:
    """An open disk and what the catalog must know of it now (``Disks.record``)."""

    disk: IntermediateDisk
    row: DiskRow

    def confirm(self) -> None:
        """Write the generation onto the disk, once the catalog has it.

        Raises:
            LocalFault: TARGET_IO.
        """
        if isinstance(self.disk, RawDisk) and not self.disk.trusted:
            self.disk.set_generation(self.row.generation)


def open_disk(
    row: DiskRow,
    *,
    storage: Path,
    others: Iterable[tuple[str, str]],
    same_machine: bool = False,
    machine: Machine | None = None,
) -> Opened:
    """Make a disk that was only planned, or take up one that the job made before.

    Args:
        row: what the catalog has.
        storage: the receiver's storage directory.
        others: (job id, path) of all device targets in the catalog.
        same_machine: the source runs on this machine (equal boot ids).
        machine: where to look for devices; the real one by default.

    Raises:
        LocalFault: TARGET_* or RECEIVER_FULL. Nothing has been written then.
    """
    made = row.target != TargetIdentity()
    if row.kind == "raw":
        raw = _take_up(row, storage) if made else _make(row, storage)
        generation = row.generation if raw.trusted else new_generation()
        return _opened(raw, row, raw.identity(), generation)
    device = BlockDisk.open(
        row.intermediate,
        row.size,
        job=row.job,
        others=others,
        storage=storage,
        identity=row.target if made else None,
        source=row.identity,
        source_path=row.source_path if same_machine else "",
        machine=machine,
    )
    return _opened(device, row, row.target if made else device.identity(), row.generation)


def _make(row: DiskRow, storage: Path) -> RawDisk:
    return RawDisk.create(
        storage,
        row.job,
        number=row.number,
        source_path=row.source_path,
        size=row.size,
        generation=row.generation,
    )


def _take_up(row: DiskRow, storage: Path) -> RawDisk:
    return RawDisk.open(
        storage,
        row.job,
        Path(row.intermediate).name,
        size=row.size,
        generation=row.generation,
        identity=row.target,
    )


def _opened(
    disk: IntermediateDisk, row: DiskRow, target: TargetIdentity, generation: str
) -> Opened:
    return Opened(
        disk,
        msgspec.structs.replace(row, target=target, generation=generation, fresh=disk.known_zero),
    )
