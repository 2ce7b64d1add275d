"""Where the disks of a job are today: found by what they are, not by what they are called.

The kernel names disks in the order in which it finds them, so ``/dev/vdb`` of yesterday may be
``/dev/vdc``. Pure: the caller brings what the job knows and what is there. What cannot be told
for certain is refused by name, never guessed: two disks with the same marks (one is a clone of the
other) most of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from protocol.diskidentity import compare_identity, of_other_hardware, strength
from protocol.wire.jobs import DiskInfo, KnownDisk


@dataclass(frozen=True, slots=True)
class Here:
    """The disk, wherever it is."""

    info: DiskInfo


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """Several could be it: their paths."""

    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Nowhere:
    """None is it. ``detail``: how the one under its name differs; '' when there is none."""

    detail: str


Match = Here | Ambiguous | Nowhere


def match(wanted: KnownDisk, present: Sequence[DiskInfo], proven: str = "") -> Match:
    """The disk that a job knows as ``wanted``.

    A larger or smaller disk with its marks is still that disk (what becomes of another size is
    decided elsewhere), unless one of the right size bears them as well.

    Args:
        wanted: how the job knows it.
        present: the disks that may be copied, each once.
        proven: path of the one that is known to be it, because it was never detached.
    """
    named = next((disk for disk in present if disk.path == wanted.path), None)
    kept = next((disk for disk in present if disk.path == proven), None)
    if kept is not None and not of_other_hardware(wanted.identity, kept.identity):
        return Here(kept)
    if not any(_marks(wanted)):
        # Nothing but its name is known of it.
        return Here(named) if named is not None else Nowhere("")
    found = _strongest(wanted, present)
    if len(found) > 1:
        found = [disk for disk in found if disk.size == wanted.size] or found
    if len(found) == 1:
        return Here(found[0])
    if found:
        return Ambiguous(tuple(sorted(disk.path for disk in found)))
    if named is None:
        return Nowhere("")
    return Nowhere(compare_identity(wanted.identity, named.size, named) or "its marks differ")


def match_all(
    wanted: Sequence[KnownDisk], present: Sequence[DiskInfo], proven: Mapping[str, str]
) -> dict[str, Match]:
    """All disks of a job, by the job's paths.

    Members of one mirror or filesystem bear the same marks. When those that could be one disk of
    the job are exactly the disks of the job under their own names, the names decide.

    Args:
        proven: for disks of the job (its path), where each is known to be.
    """
    found = {disk.path: match(disk, present, proven.get(disk.path, "")) for disk in wanted}
    own = {disk.path for disk in present} & {disk.path for disk in wanted}
    by_path = {disk.path: disk for disk in present}
    for path, each in found.items():
        if isinstance(each, Ambiguous) and path in each.paths and set(each.paths) <= own:
            found[path] = Here(by_path[path])
    return found


def _strongest(wanted: KnownDisk, present: Sequence[DiskInfo]) -> list[DiskInfo]:
    """Those that share the strongest mark that any of them shares with what is wanted."""
    by_strength: dict[int, list[DiskInfo]] = {}
    for disk in present:
        by_strength.setdefault(strength(wanted.identity, disk.identity), []).append(disk)
    best = max(by_strength, default=0)
    return by_strength[best] if best > 0 else []


def _marks(wanted: KnownDisk) -> tuple[object, ...]:
    known = wanted.identity
    return known.serial, known.wwn, known.partition_table, known.filesystems
