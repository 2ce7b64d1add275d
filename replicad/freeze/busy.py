"""Does anything write to a disk past the filesystems that a freeze stops?

A checkpoint of a disk, or of a partition, without a mounted filesystem can only be right if
nobody writes to it: a database on a raw partition, a virtual machine, a mkfs that runs. Nobody
can be made to wait there, so it is only looked at, and a checkpoint refused when somebody may.

What can be seen has limits: memory maps whose file was closed are not looked at, and processes with
more capabilities than ours only with CAP_SYS_PTRACE. The tracker has the last word: a granule that
becomes dirty while the rest is read says that somebody did write.

Swap is not a reason: what is in a swap area means nothing after a boot.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

from protocol.errors import SOURCE_DISK_MISSING
from replicad.freeze.blockgraph import BlockGraph, number, read_block_graph
from replicad.freeze.mounts import Mount, mount_devices, read_mounts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SCAN_SECONDS = 5.0
"""For looking through everybody's open files (some microseconds each)."""


def is_busy_unmounted(disk: str | Path) -> str | None:
    """Why a checkpoint of ``disk`` could be torn although all its filesystems are frozen.

    None: everything on it is a mounted filesystem or swap, or nobody has it open for writing.

    Raises:
        LocalFault: ``source_disk_missing``.
    """
    mounts = read_mounts()
    graph = read_block_graph(mounts)
    path = Path(disk)
    targets = graph.targets(path)
    try:
        status = path.stat()
    except OSError as error:
        raise SOURCE_DISK_MISSING.fault(path=path, detail=error.strerror) from error
    exposed = exposed_devices(targets, graph, mounts, read_swaps())
    for device in sorted(exposed):
        if reason := _held(device, graph):
            return reason
    files = set()
    if stat.S_ISREG(status.st_mode):
        files.add((status.st_dev, status.st_ino))
    return _open_for_writing(exposed, files)


def exposed_devices(
    targets: Iterable[str], graph: BlockGraph, mounts: Iterable[Mount], swaps: frozenset[str]
) -> frozenset[str]:
    """The devices on ``targets``, themselves included, that hold no mounted filesystem or swap.

    Pure. A device whose every user is accounted for (the disk of mounted partitions, the physical
    volume of mounted logical ones) still belongs to the result: it can be written as a whole.
    """
    used = set(swaps)
    for mount in mounts:
        used |= mount_devices(mount, graph)
    return frozenset(device for device in _tree(targets, graph) if device not in used)


def _tree(targets: Iterable[str], graph: BlockGraph) -> Iterator[str]:
    seen: set[str] = set()
    pending = list(targets)
    while pending:
        device = pending.pop()
        if device not in seen:
            seen.add(device)
            yield device
            # A loop device's file is written through the filesystem that holds it.
            pending += [one for one in graph.over(device) if graph.nodes[one].file is None]


def read_swaps(proc: Path = Path("/proc")) -> frozenset[str]:
    """The devices that are swapped on."""
    found = set()
    for line in (proc / "swaps").read_text().splitlines()[1:]:
        path = Path(line.split(None, 1)[0].encode().decode("unicode_escape"))
        try:
            status = path.stat()
        except OSError:
            # Of another namespace: then the device shows up as held, which is the safe answer.
            continue
        if stat.S_ISBLK(status.st_mode):
            found.add(number(status.st_rdev))
    return frozenset(found)


def _held(device: str, graph: BlockGraph) -> str | None:
    """An unmounted device that the kernel, or a careful program, has claimed for itself.

    O_EXCL without O_CREAT on a block device fails with EBUSY then (open(2)). A device with
    users above it is claimed by those, and they are looked at themselves.
    """
    if graph.over(device):
        return None
    path = f"/dev/{graph.nodes[device].name}"
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return f"{path} is held by another program or driver"
    return None


def _open_for_writing(devices: frozenset[str], files: set[tuple[int, int]]) -> str | None:
    """The first process that has one of the devices or files open for writing."""
    until = time.monotonic() + SCAN_SECONDS
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if time.monotonic() > until:
            return f"its users could not be established within {SCAN_SECONDS:g} s"
        process = f"/proc/{pid}"
        try:
            fds = os.listdir(f"{process}/fd")
        except OSError:
            # It has ended, or has more capabilities than we: that needs CAP_SYS_PTRACE.
            continue
        if any(_writes(process, fd, devices, files) for fd in fds):
            return f"process {pid} ({_name(process)}) has it open for writing"
    return None


def _writes(process: str, fd: str, devices: frozenset[str], files: set[tuple[int, int]]) -> bool:
    try:
        status = Path(f"{process}/fd/{fd}").stat()
        wanted = (
            number(status.st_rdev) in devices
            if stat.S_ISBLK(status.st_mode)
            else (status.st_dev, status.st_ino) in files
        )
        if not wanted:
            return False
        info = Path(f"{process}/fdinfo/{fd}").read_text()
    except OSError:
        return False
    flags = next(line for line in info.splitlines() if line.startswith("flags:"))
    return int(flags.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY


def _name(process: str) -> str:
    try:
        return Path(f"{process}/comm").read_text().strip()
    except OSError:
        return "?"
