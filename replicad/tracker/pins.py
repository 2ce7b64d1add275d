"""Where the tracker lives between processes: names in bpffs.

A pin keeps a map, program or link alive when the process that made it ends. One directory per
daemon, named after its runtime directory, so that several daemons run side by side. ``meta`` is
pinned last and removed first: a directory without it is a start that was killed half-way, and worth
nothing.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import time
from pathlib import Path

from protocol.local import crash
from replicad.tracker.errors import TrackerUnavailable
from replicad.tracker.layout import Meta
from replicad.tracker.libbpf import Libbpf, LibbpfError

BPFFS = Path("/sys/fs/bpf")
BPF_FS_MAGIC = 0xCAFE4A11
PREFIX = "replicad-"
LOCK_PATIENCE = 2.0
"""Seconds to wait for another process to let go of the pins: a killed predecessor that is still
exiting.
"""


def pin_directory(runtime_dir: Path) -> Path:
    """Returns the directory in bpffs for the daemon with this runtime directory."""
    digest = hashlib.sha256(os.fsencode(os.path.abspath(runtime_dir))).hexdigest()
    return BPFFS / f"{PREFIX}{digest[:8]}"


def ensure_bpffs(directory: Path = BPFFS) -> None:
    """Mounts bpffs if nothing is mounted there. Raises TrackerUnavailable if it cannot be used."""
    if _is_bpffs(directory):
        return
    if directory != BPFFS:
        raise TrackerUnavailable(f"{directory} is not on a BPF filesystem")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(directory), b"bpf", 0, b"mode=0700"):
        reason = os.strerror(ctypes.get_errno())
        raise TrackerUnavailable(f"the BPF filesystem cannot be mounted on {directory}: {reason}")


def _is_bpffs(directory: Path) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = (ctypes.c_long * 32)()  # struct statfs; its first member is f_type
    return (
        libc.statfs(os.fsencode(directory), buffer) == 0 and buffer[0] & 0xFFFF_FFFF == BPF_FS_MAGIC
    )


def lock(directory: Path, create: bool, patience: float = LOCK_PATIENCE) -> int:
    """Makes this process the only one that drains; returns a descriptor that holds the lock.

    Two drains at a time would clear what the other has not handed on. The lock ends with the
    process. Raises TrackerUnavailable if another one holds it for longer than patience,
    FileNotFoundError if there are no pins.
    """
    end = time.monotonic() + patience
    while True:
        if create:
            directory.mkdir(mode=0o700, exist_ok=True)
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            if create:
                continue  # collected between the two calls
            raise
        if _lock_current(fd, directory):
            return fd
        os.close(fd)
        if time.monotonic() > end:
            raise TrackerUnavailable(f"another process uses the tracker in {directory}")
        time.sleep(0.02)


def _lock_current(fd: int, directory: Path) -> bool:
    """Locks an open directory; False if another process has it, or it is no longer the one of that
    name.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(fd).st_ino == directory.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def remove(directory: Path) -> None:
    """Unpins everything in a directory that the caller has locked, and the directory.

    Without pins the kernel detaches the programs and frees the maps as soon as no descriptor is
    open.
    """
    (directory / "meta").unlink(missing_ok=True)
    crash.here("tracker.half_removed")
    for pin in directory.iterdir():
        pin.unlink()
    directory.rmdir()


def read_meta(library: Libbpf, directory: Path) -> Meta | None:
    """Returns whose pins these are, None if the directory has none or another layout's."""
    path = directory / "meta"
    if not path.exists():
        return None
    fd = library.get(path)
    try:
        value = Meta()
        if library.map_shape(fd) != (ctypes.sizeof(Meta), 1):
            return None
        return value if library.lookup(fd, ctypes.c_uint32(0), value) else None
    finally:
        os.close(fd)


def collect_garbage() -> list[Path]:
    """Removes the pins of daemons whose runtime directory is gone, and of starts that were killed;
    returns them.

    A directory that a process has locked is in use and stays, and so does one that is another
    user's. Pins of a layout that this version does not know stay.
    """
    if not _is_bpffs(BPFFS):
        return []
    try:
        library = Libbpf()
    except LibbpfError:
        return []
    removed = []
    for directory in sorted(BPFFS.glob(f"{PREFIX}*")):
        if not directory.is_dir():
            continue
        try:
            held = lock(directory, create=False, patience=0)
        except (TrackerUnavailable, FileNotFoundError, PermissionError):
            continue
        try:
            meta = read_meta(library, directory)
            half_made = not (directory / "meta").exists()
            if half_made or (meta is not None and not os.path.isdir(meta.path)):
                remove(directory)
                removed.append(directory)
        except LibbpfError:
            continue
        finally:
            os.close(held)
    return removed
