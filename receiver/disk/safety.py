"""Why a block device must not be written: one function for each reason, all before a byte.

The idea: a wrong target destroys a machine, so every reason that we can think of is asked
for by name, and the kernel's own claim (O_EXCL) is only the last of them. They look at the
device's number and at what shares its bytes: its partitions, and the disk it is part of.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from protocol.errors import (
    TARGET_CHANGED,
    TARGET_IN_USE,
    TARGET_MISSING,
    TARGET_MOUNTED,
    TARGET_OF_OTHER_JOB,
    TARGET_TOO_SMALL,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from protocol.wire.jobs import DiskIdentity
    from receiver.disk.device import Device, Machine


def refuse_all(
    device: Device,
    machine: Machine,
    *,
    needed: int,
    job: str,
    others: Iterable[tuple[str, str]],
    storage: Path,
    source: DiskIdentity,
    source_path: str = "",
) -> None:
    """Every check that can be made without opening the device.

    Args:
        device: the target.
        machine: where to look.
        needed: bytes of the source's disk.
        job: id of the job that wants it.
        others: (job id, path) of all device targets in the catalog.
        storage: the receiver's storage directory.
        source: identity of the disk that is to be copied onto it.
        source_path: its path, only if the source is this very machine.

    Raises:
        LocalFault: TARGET_*, the first reason found.
    """
    refuse_other_job(device, machine, job, others)
    refuse_storage(device, machine, storage)
    refuse_mounted(device, machine)
    refuse_swap(device, machine)
    refuse_holders(device, machine)
    refuse_source_disk(device, machine, source, source_path)
    refuse_read_only(device)
    refuse_too_small(device, needed)


def refuse_other_job(
    device: Device, machine: Machine, job: str, others: Iterable[tuple[str, str]]
) -> None:
    """A device, or a part of it, that another job of the catalog writes to."""
    for owner, path in others:
        if owner != job and machine.number_of(path) in device.related:
            raise TARGET_OF_OTHER_JOB.fault(path=device.path, job=owner)


def refuse_storage(device: Device, machine: Machine, storage: Path) -> None:
    """The device that holds our own catalog and files, even where its mount cannot be seen."""
    if machine.device_of_directory(storage) in device.related:
        raise TARGET_IN_USE.fault(
            path=device.path, detail=f"it holds the receiver's own storage, {storage}"
        )


def refuse_mounted(device: Device, machine: Machine) -> None:
    """A mounted device, a disk with a mounted partition, a partition of a mounted disk."""
    where = machine.mounts_of(device.related)
    if where:
        raise TARGET_MOUNTED.fault(path=device.path, where=", ".join(sorted(set(where))))


def refuse_swap(device: Device, machine: Machine) -> None:
    """A device that the kernel swaps to."""
    for path in machine.swaps():
        if machine.number_of(path) in device.related:
            raise TARGET_IN_USE.fault(path=device.path, detail=f"{path} is swap space")


def refuse_holders(device: Device, machine: Machine) -> None:
    """A part of a volume group, RAID or encrypted device, or the backing of a loop device."""
    users = [*device.holders, *machine.backed_by(device.related)]
    if users:
        raise TARGET_IN_USE.fault(path=device.path, detail=f"{', '.join(users)} is made of it")


def refuse_source_disk(
    device: Device, machine: Machine, source: DiskIdentity, source_path: str
) -> None:
    """The very disk that is to be copied: by its world-wide name or, on this machine, number.

    Serial numbers are not asked, because emulators give every machine the same ones; nor are
    filesystem and partition table identifiers, because an earlier copy has them too.
    """
    name = _worldwide(source.wwn)
    shared = name and name in {_worldwide(device.marks.get(k, "")) for k in ("wwid", "device/wwid")}
    if shared or (source_path and machine.number_of(source_path) in device.related):
        raise TARGET_IN_USE.fault(path=device.path, detail="it is the disk that is to be copied")


def _worldwide(mark: str) -> str:
    """The digits of a registered world-wide name (NAA, EUI-64); empty for any other text."""
    found = re.fullmatch(r"(?:naa\.|eui\.|0x)?([0-9a-f]{16}|[0-9a-f]{32})", mark.lower())
    return found[1] if found else ""


def refuse_read_only(device: Device) -> None:
    """A write-protected device."""
    if device.read_only:
        raise TARGET_MISSING.fault(path=device.path, detail="it is read-only")


def refuse_too_small(device: Device, needed: int) -> None:
    """A device on which the copy would not fit."""
    if device.size < needed:
        raise TARGET_TOO_SMALL.fault(path=device.path, size=device.size, needed=needed)


def refuse_changed(device: Device, size: int, marks: dict[str, str]) -> None:
    """Another device under the path that the job wrote to.

    Marks that the kernel did not show at first do not count: a newer kernel may show more.
    """
    if device.size != size:
        raise TARGET_CHANGED.fault(
            path=device.path, detail=f"it has {device.size} bytes instead of {size}"
        )
    for key, value in marks.items():
        now = device.marks.get(key, "")
        if now != value:
            raise TARGET_CHANGED.fault(
                path=device.path, detail=f"its {key} is {now or 'absent'} instead of {value}"
            )
