"""A source's disk has grown: its intermediate disk follows, before the session opens.

The idea: an intention that is durable first. The catalog notes the size that is wanted
(``growing``), then the file is extended, then the catalog takes the new size and forgets the
intention. A kill between any two of these is found by the next opening, which ends what was
begun: the file may then have the old size or the new one, and no other. What is added are zeros
that no session has written to, so nothing of it can be wrong. The generation stays: what the
intermediate disk held it holds. That the source compares afterwards is the source's to decide.

A device is not made larger by us. If it is large enough the job goes on in it; if not, it is
refused by name, and an administrator may enlarge it: then it is still the same device, with more
bytes. What these hold nobody knows, and the source is told so: it leaves nothing out there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from protocol.local import crash, log
from receiver.catalog.rows import TargetIdentity
from receiver.disk import RawDisk
from receiver.disk.device import Machine
from receiver.disk.safety import refuse_changed, refuse_too_small

if TYPE_CHECKING:
    from receiver.catalog import Catalog, DiskRow

ENLARGED = "the copy goes on in a part of its device that was not part of it before"
"""Why it is not known what the intermediate disk holds."""

_log = log.get("sessions")


def follow(catalog: Catalog, storage: Path, row: DiskRow, size: int) -> DiskRow:
    """The disk's row after its intermediate disk has been made as large as ``size`` says.

    A smaller ``size`` changes nothing; it is for the caller to refuse.

    Args:
        size: bytes of the source's disk now.

    Raises:
        LocalFault: TARGET_*: it cannot follow. What was begun is ended by the next call.
    """
    if row.growing is not None:
        # Whatever the source says today: a larger size was promised to it.
        row = _extend(catalog, storage, row, row.growing)
    if size <= row.size:
        return row
    before = row.size
    row = _extend(catalog, storage, row, size)
    _log.info("disk.grew", job=row.job, disk=row.source_path, before=before, after=size)
    return row


def _extend(catalog: Catalog, storage: Path, row: DiskRow, size: int) -> DiskRow:
    reason = row.reason
    if row.kind == "device":
        target, reason = _larger_device(row, size), reason or ENLARGED
    else:
        catalog.disks.growing(row.job, row.number, size)
        crash.here("disk.growing")
        target = RawDisk.extend(
            storage,
            row.job,
            Path(row.intermediate).name,
            size=row.size,
            to=size,
            generation=row.generation,
            identity=row.target,
        )
        crash.here("disk.extended")
    catalog.disks.grown(row.job, row.number, size, target, reason)
    crash.here("disk.grown")
    return msgspec.structs.replace(row, size=size, target=target, growing=None, reason=reason)


def _larger_device(row: DiskRow, size: int) -> TargetIdentity:
    """The device as it is now, which may have been enlarged for this.

    Raises:
        LocalFault: TARGET_TOO_SMALL; TARGET_CHANGED when it is another one; TARGET_MISSING.
    """
    device = Machine().device(row.intermediate)
    refuse_too_small(device, size)
    refuse_changed(device, max(device.size, row.target.size), row.target.marks)
    return TargetIdentity(size=device.size, marks=dict(device.marks))
