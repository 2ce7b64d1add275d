"""Finding the disks of a job among those that may be copied: the rim of :mod:`.following`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from protocol.errors import (
    SOURCE_DISK_AMBIGUOUS,
    SOURCE_DISK_CHANGED,
    SOURCE_DISK_FORBIDDEN,
)
from protocol.local import log
from protocol.wire.jobs import DiskInfo, KnownDisk
from replicad.following import Ambiguous, Here, Nowhere, match_all
from replicad.inventory import disks_of, present_disks
from replicad.recovery import peek
from replicad.tracker import attachment, boot_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_log = log.get("disks")


def find_disks(
    directory: Path,
    job: str,
    paths: Sequence[str],
    allowed: Sequence[str],
    known: Sequence[KnownDisk],
) -> list[tuple[str, DiskInfo]]:
    """What the job calls each of its disks, and the disk as and where it is now.

    Args:
        directory: where dirty maps live; they say which devices were used in this boot.
        job: id of the job.
        paths: what the job calls its disks.
        allowed: what the configuration allows; empty for all disks of the machine.
        known: how the job knows its disks; one that is not in it is taken by its name.

    Raises:
        LocalFault: SOURCE_DISK_MISSING, SOURCE_DISK_CHANGED, SOURCE_DISK_AMBIGUOUS,
            SOURCE_DISK_FORBIDDEN.
    """
    by_name = {disk.path: disk for disk in known}
    offered = _each_once(present_disks(allowed), paths)
    here = {info.path: info for info in offered}
    proven = _proven(directory, job, offered)
    wanted = [by_name[path] for path in paths if path in by_name]
    matches = match_all(wanted, offered, proven)
    found = []
    for path in paths:
        match = matches.get(path, Nowhere(""))
        if isinstance(match, Ambiguous):
            raise SOURCE_DISK_AMBIGUOUS.fault(path=path, candidates=", ".join(match.paths))
        if isinstance(match, Here):
            info = match.info
        elif match.detail:
            raise SOURCE_DISK_CHANGED.fault(path=path, detail=match.detail)
        elif path in here and path not in by_name:
            info = here[path]
        else:
            # A disk that has vanished is missing, not forbidden; disks_of says so.
            if path not in here and (path not in allowed if allowed else Path(path).exists()):
                raise SOURCE_DISK_FORBIDDEN.fault(path=path)
            (info,) = disks_of([path])
        if info.path != path:
            _log.warning("disk.followed", disk=path, now=info.path)
        found.append((path, info))
    return found


def _each_once(offered: Iterable[DiskInfo], preferred: Iterable[str]) -> list[DiskInfo]:
    """A disk that is offered under several names, under the one that the job uses."""
    names = set(preferred)
    found: dict[str, DiskInfo] = {}
    for info in offered:
        key = attachment(info.path) or info.path
        if key not in found or info.path in names:
            found[key] = info
    return list(found.values())


def _proven(directory: Path, job: str, offered: Iterable[DiskInfo]) -> dict[str, str]:
    """For the disks of the job's maps: where the very device is that was used in this boot."""
    by_attachment = {attachment(info.path): info.path for info in offered}
    found = {}
    for header in peek(directory, job):
        if header.boot == boot_id() and header.attachment in by_attachment and header.attachment:
            found[header.disk] = by_attachment[header.attachment]
    return found
