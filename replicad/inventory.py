"""The disks of this machine: what a job can copy and how each is recognised.

Read from sysfs, which is always there; only the UUIDs of partition tables and filesystems come
from ``blkid --probe``, which reads the disk itself. ``lsblk`` shows the same but takes much of
it from udev's database, which a small or containerised system does not have.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import stat
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from protocol.errors import SOURCE_DISK_MISSING, LocalFault, sayable
from protocol.wire.jobs import DiskIdentity, DiskInfo, Mounted
from replicad.freeze.blockgraph import BlockGraph, number, read_block_graph
from replicad.freeze.mounts import Mount, mount_devices, read_mounts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BLKGETSIZE64 = 0x80081272
SECTOR = 512
"""sysfs gives sizes in units of this, whatever the disk's own sector size is."""

PROBE_SECONDS = 10.0
"""A disk that does not answer blkid in this time has no marks as far as we know."""

PROBE_BYTES = 64 * 1024
"""blkid's output is some hundred bytes; more is not read."""

_NOT_OFFERED = re.compile(r"^(loop|zram|ram|sr|fd|dm-|md|nbd)\d|^mmcblk\d+(boot|rpmb|gp)\d*|^mtd")
"""Whole devices that are no disks of their own, or stand on disks that are offered themselves."""


def disks_of(config_disks: Sequence[str] = ()) -> list[DiskInfo]:
    """The disks that may be copied.

    Args:
        config_disks: block devices (any kind, also through links such as /dev/disk/by-id) or
            image files; none for all disks of the machine.

    Raises:
        LocalFault: ``source_disk_missing`` for a named disk that cannot be opened.
    """
    mounts = read_mounts()
    graph = read_block_graph(mounts)
    if config_disks:
        return [_named(path, graph, mounts) for path in config_disks]
    return [
        _block_disk(f"/dev/{name}", name, graph, mounts, _sysfs_size(name))
        for name in sorted(node.name for node in graph.nodes.values() if not node.partition)
        if _offered(name)
    ]


def present_disks(config_disks: Sequence[str] = ()) -> list[DiskInfo]:
    """As :func:`disks_of`, but a named disk that cannot be opened is left out: the others can
    still be copied, and a job that wants it is told why when it opens it."""
    found: list[DiskInfo] = []
    for path in config_disks:
        with contextlib.suppress(LocalFault):
            found += disks_of([path])
    return found if config_disks else disks_of()


def _offered(name: str, sysfs: Path = Path("/sys/class/block")) -> bool:
    """A disk of its own, writable, visible and with a medium in it."""
    base = sysfs / name
    return (
        not _NOT_OFFERED.match(name)
        and _text(base / "ro") != "1"
        and _text(base / "hidden") in ("", "0")
        and _sysfs_size(name, sysfs) > 0
    )


def _named(path: str, graph: BlockGraph, mounts: Sequence[Mount]) -> DiskInfo:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            size = _size(fd, status)
        finally:
            os.close(fd)
    except OSError as error:
        detail = error.strerror or str(error)
        raise SOURCE_DISK_MISSING.fault(path=path, detail=detail) from error
    if stat.S_ISBLK(status.st_mode):
        node = graph.nodes.get(number(status.st_rdev))
        name = node.name if node else Path(path).resolve().name
        return _block_disk(path, name, graph, mounts, size)
    return DiskInfo(
        path=path,
        size=size,
        kind="file",
        identity=_content_marks([path]),
        mounted=_mounted(graph.targets(Path(path)), graph, mounts),
    )


def _size(fd: int, status: os.stat_result) -> int:
    """Bytes of an open block device or regular file; OSError for anything else or nothing."""
    if stat.S_ISBLK(status.st_mode):
        raw = fcntl.ioctl(fd, BLKGETSIZE64, bytes(8))
        size: int = struct.unpack("Q", raw)[0]
    elif stat.S_ISREG(status.st_mode):
        size = status.st_size
    else:
        raise OSError(0, "it is neither a block device nor a regular file")
    if size <= 0:
        raise OSError(0, "it is empty")
    return size


def _block_disk(
    path: str, name: str, graph: BlockGraph, mounts: Sequence[Mount], size: int
) -> DiskInfo:
    base = Path("/sys/class/block") / name
    device = _text(base / "dev")
    parts = [graph.nodes[one].name for one in graph.over(device) if graph.nodes[one].partition]
    content = _content_marks([f"/dev/{one}" for one in (name, *sorted(parts))])
    return DiskInfo(
        path=path,
        size=size,
        kind="disk",
        model=_text(base / "device/model"),
        identity=DiskIdentity(
            serial=_serial(base),
            wwn=_text(base / "wwid") or _text(base / "device/wwid"),
            partition_table=content.partition_table,
            filesystems=content.filesystems,
        ),
        mounted=_mounted((device,), graph, mounts),
    )


def _mounted(
    targets: Iterable[str], graph: BlockGraph, mounts: Sequence[Mount]
) -> tuple[Mounted, ...]:
    """The filesystems of our own namespace that lie on ``targets`` or on what stands on them."""
    reached: set[str] = set()
    pending = list(targets)
    while pending:
        device = pending.pop()
        if device not in reached:
            reached.add(device)
            # A loop device stands on a file of a filesystem here; that is content, not this disk.
            pending += [one for one in graph.over(device) if graph.nodes[one].file is None]
    return tuple(
        Mounted(mount=sayable(mount.point), kind=mount.kind, device=sayable(mount.source))
        for mount in mounts
        if not mount.reach and mount_devices(mount, graph) & reached
    )


def _serial(base: Path) -> str:
    """NVMe and virtio write it as text, SCSI as a page of vital product data (SPC-4, 7.8.17)."""
    for file in (base / "serial", base / "device/serial"):
        if text := _text(file):
            return text
    try:
        page = (base / "device/vpd_pg80").read_bytes()
    except OSError:
        return ""
    return page[4:].decode("ascii", "replace").strip("\0 ")


def _content_marks(paths: Sequence[str]) -> DiskIdentity:
    """The marks on the medium: the first path is the whole disk, the others its partitions."""
    tags = [_probe(path) for path in paths]
    found = {one["UUID"] for one in tags if "UUID" in one}
    table = tags[0].get("PTUUID", "") if tags else ""
    return DiskIdentity(partition_table=table, filesystems=tuple(sorted(found)))


def _probe(path: str) -> dict[str, str]:
    """What blkid reads from the medium: PTUUID, PTTYPE, UUID, TYPE, LABEL; {} for nothing."""
    try:
        done = subprocess.run(
            ["blkid", "-p", "-o", "export", path],
            capture_output=True,
            timeout=PROBE_SECONDS,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return parse_export(done.stdout[:PROBE_BYTES].decode("utf-8", "replace"))


def parse_export(text: str) -> dict[str, str]:
    """blkid's ``export`` format: ``NAME=value`` lines, the shell's characters behind ``\\``."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name: re.sub(r"\\(.)", r"\1", value) for name, found, value in pairs if found}


def _sysfs_size(name: str, sysfs: Path = Path("/sys/class/block")) -> int:
    text = _text(sysfs / name / "size")
    return int(text) * SECTOR if re.fullmatch("[0-9]{1,19}", text) else 0


def _text(path: Path) -> str:
    """A sysfs attribute; '' where the device has none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return ""


def inventory_report(config_disks: Sequence[str] = ()) -> dict[str, Any]:
    """What ``replicad inventory`` prints: the machine and its disks with what is on them."""
    disks = disks_of(config_disks)
    return {
        "host": platform.node(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "boot_id": _text(Path("/proc/sys/kernel/random/boot_id")),
        "disks": [{**msgspec.to_builtins(disk), "partitions": _partitions(disk)} for disk in disks],
    }


def _partitions(disk: DiskInfo) -> list[dict[str, Any]]:
    if disk.kind == "file":
        return []
    name = Path(disk.path).resolve().name
    graph = read_block_graph()
    device = _text(Path("/sys/class/block") / name / "dev")
    names = sorted(graph.nodes[one].name for one in graph.over(device))
    rows = []
    for part in names:
        if not graph.nodes[_text(Path("/sys/class/block") / part / "dev")].partition:
            continue
        tags = _probe(f"/dev/{part}")
        start = int(_text(Path("/sys/class/block") / part / "start") or 0) * SECTOR
        rows.append(
            {
                "path": f"/dev/{part}",
                "start": start,
                "size": _sysfs_size(part),
                "kind": tags.get("TYPE", ""),
                "uuid": tags.get("UUID", ""),
                "label": tags.get("LABEL", ""),
            }
        )
    return rows
