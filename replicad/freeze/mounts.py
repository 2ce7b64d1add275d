"""Which filesystems lie on some disks, and in which order they are frozen.

The kernel says what is mounted (``/proc/PID/mountinfo``, see proc(5)) and what a block device
stands on (:mod:`replicad.freeze.blockgraph`). From the two this module makes a plan:

* every filesystem (superblock) once, however often it is bind-mounted;
* a filesystem that stands on a file of another one (loop device) before that one: frozen the
  other way round its own freeze would wait for ever for the frozen one below it;
* otherwise in reverse mount order, as ``fsfreeze`` and ``lsblk --inverse`` users do by hand;
* read-only superblocks not at all: there is nothing to stop.

A superblock that is mounted only in another mount namespace (a container) is found through that
namespace's processes and reached through ``/proc/PID/root``. Paths can be mounted over, so what
was opened is compared with the mount id that was meant (:mod:`replicad.freeze.freezer`).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from replicad.freeze.blockgraph import BlockGraph, read_block_graph

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SYNC_ONLY = frozenset({"vfat", "msdos", "exfat"})
"""Kinds that Linux cannot freeze (no freeze_fs: EOPNOTSUPP) and that servers have all the same,
as the EFI system partition. They are synced while the others are frozen."""

MOST_PROCESSES = 50_000
"""Of /proc that are looked at for other mount namespaces."""

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo. ``device`` is the superblock's ``major:minor`` (anonymous for
    btrfs), ``root`` the directory of the filesystem that is mounted, ``reach`` the prefix that
    leads into the mount's namespace ('' for our own)."""

    id: int
    device: str
    root: str
    point: str
    kind: str
    source: str
    read_only: bool
    options: str = ""
    reach: str = ""

    @property
    def path(self) -> str:
        """Where we can open it."""
        return self.reach + self.point


@dataclass(frozen=True, slots=True)
class FrozenMount:
    """A filesystem to freeze: ``ways`` are (path, mount id) to open it by, best first."""

    point: str
    kind: str
    source: str
    device: str
    ways: tuple[tuple[str, int], ...]
    disks: tuple[str, ...] = ()

    @property
    def sync_only(self) -> bool:
        """It can only be synced, not frozen."""
        return self.kind in SYNC_ONLY


def parse_mountinfo(text: str, reach: str = "") -> list[Mount]:
    """The mounts in the order of the text, which is the order of mounting.

    Raises:
        ValueError: a line is not as proc(5) describes it.
    """
    return [_parse_line(line, reach) for line in text.split("\n") if line]


def _parse_line(line: str, reach: str) -> Mount:
    head, separator, tail = line.partition(" - ")
    fields, last = head.split(" "), tail.split(" ")
    if not separator or len(fields) < 6 or len(last) < 2:
        raise ValueError(f"not a line of mountinfo: {line!r}")
    options = last[2] if len(last) > 2 else ""
    return Mount(
        id=int(fields[0]),
        device=fields[2],
        root=_unescape(fields[3]),
        point=_unescape(fields[4]),
        kind=last[0],
        source=_unescape(last[1]),
        read_only="ro" in options.split(","),
        options=options,
        reach=reach,
    )


def _unescape(field: str) -> str:
    """Space, tab, newline and backslash are written in octal; the rest is bytes of a path."""
    raw = os.fsencode(_OCTAL.sub(lambda match: chr(int(match[1], 8)), field))
    return os.fsdecode(raw)


def mount_devices(mount: Mount, graph: BlockGraph) -> frozenset[str]:
    """The block devices (``major:minor``) that a mount's filesystem lies on directly."""
    devices = {mount.device} if mount.device in graph.nodes else set()
    sources = mount.source.split(":") if mount.source.startswith("/") else []
    sources += [
        value
        for key, _, value in (option.partition("=") for option in mount.options.split(","))
        if key in ("logdev", "rtdev")
    ]
    devices.update(device for path in sources if (device := graph.by_path(path)) is not None)
    for pool in graph.pools:
        if devices & pool:
            devices |= pool
    return frozenset(devices)


def plan_freeze(
    mounts: Sequence[Mount], graph: BlockGraph, targets: Iterable[str]
) -> tuple[FrozenMount, ...]:
    """The filesystems on the devices ``targets``, first to freeze first. Pure.

    Args:
        mounts: of all namespaces, our own first, each in mount order.
        targets: ``major:minor`` of whole disks (or of whatever is copied).
    """
    wanted = frozenset(targets)
    by_device: dict[str, list[Mount]] = {}
    for mount in mounts:
        if mount.device.partition(":")[0] != "0" or mount_devices(mount, graph):
            by_device.setdefault(mount.device, []).append(mount)
    # What each filesystem stands on, through every layer: devices and other filesystems.
    below = {
        device: _below(mount_devices(same[0], graph), graph, by_device)
        for device, same in by_device.items()
    }
    chosen = [
        device
        for device, same in by_device.items()
        if below[device] & wanted and not same[0].read_only
    ]
    ordered = _upper_first(list(reversed(chosen)), below)
    return tuple(_frozen(by_device[device], below[device] & wanted, graph) for device in ordered)


def _below(
    devices: frozenset[str], graph: BlockGraph, by_device: Mapping[str, Sequence[Mount]]
) -> frozenset[str]:
    """All that ``devices`` stand on, including them and the filesystems in between."""
    seen: set[str] = set()
    pending = list(devices)
    while pending:
        device = pending.pop()
        if device in seen:
            continue
        seen.add(device)
        pending.extend(graph.under(device))
        if device in by_device:
            pending.extend(mount_devices(by_device[device][0], graph))
    return frozenset(seen)


def _upper_first(devices: list[str], below: Mapping[str, frozenset[str]]) -> list[str]:
    """A stable order in which nothing comes after what it stands on."""
    ordered: list[str] = []
    rest = list(devices)
    while rest:
        free = next(
            (one for one in rest if not any(one in below[other] for other in rest if other != one)),
            rest[0],
        )
        rest.remove(free)
        ordered.append(free)
    return ordered


def _frozen(same: Sequence[Mount], disks: frozenset[str], graph: BlockGraph) -> FrozenMount:
    """The filesystem with all its mounts as ways to it: whole ones before bind mounts of parts."""
    ways = sorted(same, key=lambda mount: (mount.reach != "", mount.root != "/"))
    best = ways[0]
    return FrozenMount(
        point=best.path,
        kind=best.kind,
        source=best.source,
        device=best.device,
        ways=tuple((mount.path, mount.id) for mount in ways),
        disks=tuple(sorted(graph.nodes[disk].name for disk in disks if disk in graph.nodes)),
    )


def read_mounts(proc: Path = Path("/proc")) -> list[Mount]:
    """Our own mounts, then those of every other mount namespace that has a process."""
    mounts = parse_mountinfo(_read(proc / "self/mountinfo"))
    seen = {(proc / "self/ns/mnt").readlink()}
    numbers = sorted(int(entry.name) for entry in os.scandir(proc) if entry.name.isdigit())
    for number in numbers[:MOST_PROCESSES]:
        base = proc / str(number)
        try:
            namespace = (base / "ns/mnt").readlink()
            if namespace in seen:
                continue
            text = _read(base / "mountinfo")
        except OSError:
            # The process has ended, or is a kernel thread without a root: not a way in.
            continue
        seen.add(namespace)
        mounts += parse_mountinfo(text, reach=f"{base}/root")
    return mounts


def _read(path: Path) -> str:
    return os.fsdecode(path.read_bytes())


def mounts_to_freeze(disks: Sequence[str | Path]) -> tuple[FrozenMount, ...]:
    """The filesystems on ``disks`` (block devices or image files), first to freeze first.

    Raises:
        LocalFault: ``source_disk_missing``.
    """
    mounts = read_mounts()
    graph = read_block_graph(mounts)
    targets = {device for disk in disks for device in graph.targets(Path(disk))}
    return plan_freeze(mounts, graph, targets)
