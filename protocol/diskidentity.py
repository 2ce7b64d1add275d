"""Tell one disk from another, whatever it is called today.

``/dev/vdb`` can be another disk after a reboot, and writing the changes of one disk over the
copy of another destroys it. So a job remembers marks of its disk, strongest first: serial number
and WWN belong to the hardware, the UUID of the partition table to its content, the UUIDs of
filesystems to parts of it. The strongest mark that both sides have decides: a disk that was
repartitioned is still that disk, two disks with the same content are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protocol.wire.jobs import DiskIdentity, DiskInfo


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
