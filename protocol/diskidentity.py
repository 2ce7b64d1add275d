"""Tell one disk from another, whatever it is called today.

``/dev/vdb`` can be another disk after a reboot, and writing the changes of one disk over the
copy of another destroys it. So a job remembers marks of its disk, strongest first: serial number
and WWN belong to the hardware, the UUID of the partition table to its content, the UUIDs of
filesystems to parts of it. The strongest mark that both sides have decides: a disk that was
repartitioned is still that disk, two disks with the same content are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from protocol.wire.jobs import DiskIdentity, DiskInfo


def strength(expected: DiskIdentity, now: DiskIdentity) -> int:
    """How strong the mark is by which two disks are the same: 4 serial number, 3 WWN, 2 partition
    table, 1 a filesystem; 0 when the strongest mark that both have differs, or none is shared."""
    pairs = (
        (4, expected.serial, now.serial),
        (3, expected.wwn, now.wwn),
        (2, expected.partition_table, now.partition_table),
    )
    for level, before, after in pairs:
        if before and after:
            return level if before == after else 0
    return int(bool(set(expected.filesystems) & set(now.filesystems)))


def of_other_hardware(expected: DiskIdentity, now: DiskIdentity) -> bool:
    """Whether marks that belong to the hardware differ: whatever else, it is another disk."""
    pairs = ((expected.serial, now.serial), (expected.wwn, now.wwn))
    return any(before and after and before != after for before, after in pairs)


def refreshed(before: DiskIdentity, now: DiskIdentity) -> DiskIdentity:
    """The marks to remember of a disk that was recognised: those that it bears now. A mark of the
    hardware that cannot be read today (another driver) is kept; so is the content's, when there is
    nothing that could be read."""
    content = now if now.partition_table or now.filesystems else before
    return msgspec.structs.replace(
        content, serial=now.serial or before.serial, wwn=now.wwn or before.wwn
    )


def compare_identity(expected: DiskIdentity, size: int, actual: DiskInfo) -> str | None:
    """None when ``actual`` is the expected disk, else a sentence that says how it differs.

    Args:
        expected: the marks that the job remembers.
        size: bytes that the job remembers.
        actual: the disk as it is now.
    """
    now = actual.identity
    marks = (
        ("serial number", expected.serial, now.serial),
        ("WWN", expected.wwn, now.wwn),
        ("partition table", expected.partition_table, now.partition_table),
    )
    compared = False
    for name, before, after in marks:
        if before and after:
            if before != after:
                return f"its {name} is {after}, the job's disk has {before}"
            compared = True
            break
    if not compared and expected.filesystems and now.filesystems:
        if not set(expected.filesystems) & set(now.filesystems):
            return (
                f"it holds the filesystems {', '.join(now.filesystems)}, "
                f"the job's disk held {', '.join(expected.filesystems)}"
            )
        compared = True
    if not compared and any(
        (expected.serial, expected.wwn, expected.partition_table, expected.filesystems)
    ):
        return "it bears none of the marks by which the job knows its disk"
    if actual.size != size:
        return f"it has {actual.size} bytes, the job's disk {size}"
    return None
