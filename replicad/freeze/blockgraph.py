"""What every block device of this machine stands on, as sysfs tells it.

A partition stands on its disk, a dm or md device on its ``slaves``, a loop device on the
filesystem that holds its backing file, and the devices of one btrfs on each other. With these
edges the question "what lies on this disk" is a walk over a small graph. The graph is a value,
read once; the walk is pure.

Source: Documentation/ABI (sysfs-block, sysfs-fs-btrfs), loop(4).
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from protocol.errors import SOURCE_DISK_MISSING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from replicad.freeze.mounts import Mount

LOOP_GET_STATUS64 = 0x4C05
LOOP_INFO64_BYTES = 232
BTRFS_IOC_FS_INFO = 0x8400941F
BTRFS_FS_INFO_BYTES = 1024
_FSID = slice(16, 32)


@dataclass(frozen=True, slots=True)
class Node:
    """A block device. ``under`` are the devices (``major:minor``, a superblock's for a file)
    that it stands on; ``file`` is (device, inode) of a loop device's backing file."""

    name: str
    device: str
    under: tuple[str, ...] = ()
    partition: bool = False
    file: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class BlockGraph:
    """All block devices by ``major:minor``; ``pools`` are sets of devices that form one
    filesystem; ``paths`` says which device a mount's source names."""

    nodes: Mapping[str, Node]
    pools: tuple[frozenset[str], ...] = ()
    paths: Mapping[str, str] = field(default_factory=dict)

    def under(self, device: str) -> tuple[str, ...]:
        """What a device stands on directly."""
        node = self.nodes.get(device)
        return node.under if node else ()

    def over(self, device: str) -> tuple[str, ...]:
        """What stands on a device directly, its partitions first."""
        users = [node for node in self.nodes.values() if device in node.under]
        return tuple(node.device for node in sorted(users, key=lambda node: not node.partition))

    def by_path(self, path: str) -> str | None:
        """The device that a mount's source names, None when it names none."""
        return self.paths.get(path)

    def targets(self, disk: Path) -> tuple[str, ...]:
        """The devices that a disk of a job is: itself, or the loop devices of an image file.

        Raises:
            LocalFault: ``source_disk_missing``.
        """
        try:
            status = disk.stat()
        except OSError as error:
            raise SOURCE_DISK_MISSING.fault(path=disk, detail=error.strerror) from error
        if stat.S_ISBLK(status.st_mode):
            return (number(status.st_rdev),)
        wanted = (number(status.st_dev), status.st_ino)
        return tuple(node.device for node in self.nodes.values() if node.file == wanted)


def number(device: int) -> str:
    """A ``dev_t`` as sysfs and mountinfo write it."""
    return f"{os.major(device)}:{os.minor(device)}"


def read_block_graph(mounts: Iterable[Mount] = (), sysfs: Path = Path("/sys")) -> BlockGraph:
    """The block devices of this machine; ``mounts`` place backing files and name sources."""
    mounts = list(mounts)
    superblocks = {mount.id: mount.device for mount in mounts}
    nodes: dict[str, Node] = {}
    for entry in sorted((sysfs / "class/block").iterdir()):
        node = _read_node(entry, superblocks)
        if node is not None:
            nodes[node.device] = node
    pools = {
        pool.parent.name: frozenset(_devices(pool.iterdir()))
        for pool in sorted((sysfs / "fs/btrfs").glob("*/devices"))
    }
    return BlockGraph(nodes, tuple(pools.values()), _read_paths(mounts, pools))


def _read_node(entry: Path, superblocks: Mapping[int, str]) -> Node | None:
    """None: the device went away while we looked."""
    try:
        device = (entry / "dev").read_text().strip()
        partition = (entry / "partition").exists()
        under = list(_devices((entry / "slaves").iterdir())) if not partition else []
        if partition:
            under.append((entry.resolve().parent / "dev").read_text().strip())
    except OSError:
        return None
    file = None
    if (entry / "loop/backing_file").exists():
        file, superblock = _read_loop(entry, superblocks)
        under += [superblock] if superblock else []
    return Node(entry.name, device, tuple(under), partition, file)


def _devices(entries: Iterable[Path]) -> Iterable[str]:
    for entry in entries:
        if (entry / "dev").exists():
            yield (entry / "dev").read_text().strip()


def _read_loop(
    entry: Path, superblocks: Mapping[int, str]
) -> tuple[tuple[str, int] | None, str | None]:
    """(backing file, superblock that holds it) of a loop device, None where it cannot be said.

    The ioctl names the file by device and inode even when its path is hidden or deleted. For
    btrfs that device is a subvolume's and no superblock's, so the path is asked for its mount.
    """
    file: tuple[str, int] | None = None
    try:
        fd = os.open(f"/dev/{entry.name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            info = fcntl.ioctl(fd, LOOP_GET_STATUS64, bytes(LOOP_INFO64_BYTES))
        finally:
            os.close(fd)
        encoded, inode = struct.unpack_from("QQ", info)
        major, minor = (encoded >> 8) & 0xFFF, (encoded & 0xFF) | ((encoded >> 12) & 0xFFF00)
        file = (f"{major}:{minor}", inode)
    except OSError:
        # Detached meanwhile, or no permission: the path below may still tell.
        file = None
    try:
        path = (entry / "loop/backing_file").read_text().rstrip("\n")
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return file, file[0] if file else None
    try:
        status = os.fstat(fd)
        found = (number(status.st_dev), status.st_ino)
        if file is not None and found != file:
            return file, file[0]
        return found, superblocks.get(mount_id(fd), found[0])
    finally:
        os.close(fd)


def mount_id(fd: int) -> int:
    """The id of the mount through which ``fd`` was opened (see proc(5), fdinfo)."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "mnt_id":
            return int(value)
    raise OSError(f"no mnt_id in fdinfo of descriptor {fd}")


def _read_paths(mounts: Iterable[Mount], pools: Mapping[str, frozenset[str]]) -> dict[str, str]:
    """Which device each mount's source is. ``/dev/root`` of a btrfs is found by its fsid."""
    paths: dict[str, str] = {}
    for mount in mounts:
        options = (option.partition("=") for option in mount.options.split(","))
        extra = [value for key, _, value in options if key in ("logdev", "rtdev")]
        sources = mount.source.split(":") if mount.source.startswith("/") else []
        for source in sources + extra:
            device = _block_device(source)
            if device is not None:
                paths[source] = device
        if mount.kind == "btrfs" and mount.source not in paths:
            members = sorted(pools.get(_btrfs_fsid(mount.path) or "", ()))
            if members:
                paths[mount.source] = members[0]
    return paths


def _block_device(path: str) -> str | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return number(status.st_rdev) if stat.S_ISBLK(status.st_mode) else None


def _btrfs_fsid(path: str) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            raw = fcntl.ioctl(fd, BTRFS_IOC_FS_INFO, bytes(BTRFS_FS_INFO_BYTES))[_FSID].hex()
        finally:
            os.close(fd)
    except OSError:
        return None
    return "-".join((raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:]))
