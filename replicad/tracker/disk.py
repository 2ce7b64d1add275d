"""What sysfs says about a block device: is it a whole disk, how large, which medium, bio-based or
not.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from replicad.tracker.errors import CannotTrack

SECTOR = 512
"""Bytes; the unit of sysfs and of the block layer's events, whatever the device's own sector size.
"""
SYS_DEV_BLOCK = Path("/sys/dev/block")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class BlockDevice:
    """One whole disk as it is now."""

    path: str
    major: int
    minor: int
    size: int
    """Bytes."""
    diskseq: int
    """Changes whenever the medium or backing file does; 0 before Linux 5.15."""
    bio_based: bool
    """It has no request queue: dm, md, zram, the head of an NVMe multipath."""


def boot_id() -> str:
    """Returns the kernel's random identity of this boot."""
    return BOOT_ID.read_text().strip()


def attachment(path: str) -> str:
    """Names a disk as it is attached now: another one, or the same one attached again, has
    another. Only within a boot. '' where the kernel does not say (before Linux 5.15), or when
    there is nothing.
    """
    try:
        status = os.stat(path)
    except OSError:
        return ""
    if stat.S_ISREG(status.st_mode):
        return f"file {status.st_dev}:{status.st_ino}"
    if not stat.S_ISBLK(status.st_mode):
        return ""
    major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    _, sequence = size_and_sequence(major, minor)
    return f"disk {major}:{minor}:{sequence}" if sequence else ""


def boot_time() -> float:
    """When the kernel was booted, as Unix seconds (proc_stat(5), btime)."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0


def read_number(path: Path) -> int:
    """Returns the number in a sysfs file, 0 if the file or the device is gone."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def size_and_sequence(major: int, minor: int) -> tuple[int, int]:
    """Returns the size in bytes and the diskseq of a device, zeros if it is gone."""
    directory = SYS_DEV_BLOCK / f"{major}:{minor}"
    return read_number(directory / "size") * SECTOR, read_number(directory / "diskseq")


def writes_under_way(major: int, minor: int) -> bool | None:
    """Whether a disk has writes that have not ended (sysfs-block, inflight); None where the kernel
    does not say: the disk is gone, or its I/O is not counted (queue/iostats).

    Of a request-based disk those are counted that its driver has (blk_mq_check_in_driver()): not
    what waits to be tried again, nor the moment between the driver's end and the request's.
    """
    directory = SYS_DEV_BLOCK / f"{major}:{minor}"
    try:
        there = int((directory / "inflight").read_text().split()[1]) > 0
    except (OSError, IndexError, ValueError):
        return None
    if there:
        return True
    # Some bio-based drivers count whatever is said here (dm before 6.6), others do not count then
    # (NVMe multipath heads).
    return False if read_number(directory / "queue/iostats") else None


def has_requests(major: int, minor: int) -> bool:
    """Whether a disk is request-based, and so has a request queue."""
    return (SYS_DEV_BLOCK / f"{major}:{minor}" / "mq").is_dir()


def inspect(path: str) -> BlockDevice:
    """Returns the whole disk at a path. Raises CannotTrack if it is none, with the reason."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise CannotTrack(f"{path} cannot be looked at: {error.strerror}") from error
    if not stat.S_ISBLK(status.st_mode):
        raise CannotTrack(f"{path} is not a block device, so the kernel reports no writes to it")
    major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    directory = SYS_DEV_BLOCK / f"{major}:{minor}"
    if (directory / "partition").exists():
        whole = directory.resolve().parent.name
        raise CannotTrack(f"{path} is a partition; name the whole disk, /dev/{whole}")
    size, diskseq = size_and_sequence(major, minor)
    if not size:
        raise CannotTrack(f"{path} has no medium (its size is 0)")
    bio_based = not has_requests(major, minor)
    if read_number(directory / "queue/dax"):
        raise CannotTrack(f"{path} is memory that programs may write to directly (DAX), unseen")
    if bio_based and _zoned(directory / "queue/zoned"):
        raise CannotTrack(
            f"{path} has zones and no request queue: appends do not say where they go"
        )
    return BlockDevice(path, major, minor, size, diskseq, bio_based)


def _zoned(path: Path) -> bool:
    try:
        return path.read_text().strip() != "none"
    except OSError:
        return False
