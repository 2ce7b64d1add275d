"""A job's files under the storage directory: reached, locked, marked and deleted safely.

Every step to a file is taken relative to a directory that is already open and with
O_NOFOLLOW, so that no link placed inside the storage leads elsewhere; what is found is judged
by its open descriptor, not by a name that may change meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from typing import TYPE_CHECKING

from protocol.errors import TARGET_CHANGED, TARGET_IN_USE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from receiver.catalog.rows import TargetIdentity

DIRECTORY = "disks"
MEMORY = "memory"
"""The file in which the receiver remembers the job's sessions; see receiver/memory.py."""

MARK = "user.replicad.generation"
UNTRUSTED = "?"

_JOB = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_NO_XATTR = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM})


def data_extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of the data in a file; moves the descriptor's file position."""
    offset = 0
    while offset < size:
        try:
            start = os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        if start >= size:
            return
        offset = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        yield start, offset - start


def delete_files(storage: Path, job: str, made: list[tuple[str, int]]) -> list[str]:
    """Delete a job's files, and only those: name and inode must be what the catalog has.

    Args:
        storage: the receiver's storage directory.
        job: id of the job.
        made: (name, inode) of each file that the job made.

    Returns:
        The names of what was left because it is not what the job made.
    """
    left = []
    try:
        with job_directory(storage, job, create=False) as directory:
            for name, inode in made:
                try:
                    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if not stat.S_ISREG(status.st_mode) or status.st_ino != inode:
                    left.append(name)
                    continue
                os.unlink(name, dir_fd=directory)
            if not left:
                with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                    os.unlink(MEMORY, dir_fd=directory)
    except FileNotFoundError:
        return []
    with contextlib.suppress(OSError):  # somebody else's file is in it: the directory stays
        (storage / DIRECTORY / job).rmdir()
    return left


@contextlib.contextmanager
def job_directory(storage: Path, job: str, *, create: bool) -> Iterator[int]:
    """A descriptor of ``<storage>/disks/<job>``, reached without following a link.

    Raises:
        FileNotFoundError: it is not there, and is not to be made.
        LocalFault: TARGET_CHANGED: something else is in its place.
        ValueError: ``job`` is no id.
    """
    if _JOB.fullmatch(job) is None:
        raise ValueError(f"{job!r} is not a job id")
    with contextlib.ExitStack() as opened:
        at = os.open(storage, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, at)
        for name in (DIRECTORY, job):
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=at)
                # Also when it is there: who made it may have died before this.
                os.fsync(at)
            at = _enter(storage, name, at)
            opened.callback(os.close, at)
        yield at


def _enter(storage: Path, name: str, at: int) -> int:
    try:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=at)
    except NotADirectoryError:  # also for a link: O_NOFOLLOW with O_DIRECTORY says ENOTDIR
        path = storage / DIRECTORY if name == DIRECTORY else storage / DIRECTORY / name
        raise TARGET_CHANGED.fault(path=path, detail="it is not a directory") from None


def lock(descriptor: int, path: Path) -> None:
    """Hold the file against another receiver; the kernel lets go when we die (flock(2))."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise TARGET_IN_USE.fault(path=path, detail="another process has locked it") from None


def set_mark(descriptor: int, job: str, generation: str) -> None:
    """Write job and generation into the file's attribute, where the filesystem has them."""
    try:
        os.setxattr(descriptor, MARK, f"{job}:{generation}".encode())
    except OSError as error:
        if error.errno not in _NO_XATTR:
            raise


def read_mark(descriptor: int) -> str | None:
    """The mark, or None where the filesystem has no attributes; ``''`` when it has been lost."""
    try:
        return os.getxattr(descriptor, MARK).decode(errors="replace")
    except OSError as error:
        if error.errno in _NO_XATTR:
            return None
        if error.errno == errno.ENODATA:
            return ""
        raise


def danger(descriptor: int, size: int, identity: TargetIdentity, job: str) -> str:
    """Why an open file must not be written, whatever it holds; empty when nothing forbids it."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file"
    if status.st_nlink != 1:
        return f"it has {status.st_nlink} names (hard links)"
    if status.st_size != size or identity.size != size:
        return f"it has {status.st_size} bytes instead of {size}"
    mark = read_mark(descriptor)
    if mark and not mark.startswith(f"{job}:"):
        return f"it bears the mark of job {mark.partition(':')[0]}"
    return ""


def doubt(descriptor: int, identity: TargetIdentity, job: str, generation: str) -> str:
    """Why an open file cannot be believed to hold what the catalog says; empty when it can.

    An old copy that was put back has another inode; it may have lost its mark or bear it.
    """
    if os.fstat(descriptor).st_ino != identity.inode:
        return "another file was put in place of the intermediate disk"
    mark = read_mark(descriptor)
    if mark is None or mark == f"{job}:{generation}":
        return ""
    if mark == f"{job}:{UNTRUSTED}":
        return "the intermediate disk was marked as doubtful: a sync failed or was interrupted"
    if not mark:
        return "the intermediate disk has lost its mark"
    return "the intermediate disk holds another generation"


def remove_leftover(directory: int, name: str) -> bool:
    """Remove a file without data, which a crash can leave between its making and the catalog.

    Returns:
        Whether it was removed. A file that another process has locked is not.
    """
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except OSError:
        return False  # absent, or no file of ours: making it will say so
    try:
        status = os.fstat(descriptor)
        plain = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
        if not plain or not is_all_hole(descriptor):
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=directory)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def is_all_hole(descriptor: int) -> bool:
    """Whether not one byte was ever written (or all of it was punched): read from the file
    itself, so it is true whatever the catalog remembers."""
    return is_hole(descriptor, 0, os.fstat(descriptor).st_size)


def is_hole(descriptor: int, offset: int, length: int) -> bool:
    """Whether the filesystem has no data in a range of a file."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA) >= offset + length
    except OSError as error:
        return error.errno == errno.ENXIO


def sweep_orphans(storage: Path, known: Mapping[str, Collection[str]]) -> list[str]:
    """Remove what a crash left of a job before the catalog knew of it: files without data.

    A file goes only if the catalog does not name it, it is a regular file with one name and
    not one byte of data, and nobody holds it. All else is left for a person to judge.

    Args:
        storage: the receiver's storage directory.
        known: names of the files of each job in the catalog.

    Returns:
        What was removed, as ``<job>/<name>``.
    """
    home = storage / DIRECTORY
    if not home.is_dir() or home.is_symlink():
        return []
    removed = []
    for entry in sorted(home.iterdir()):
        if entry.is_symlink() or not entry.is_dir() or _JOB.fullmatch(entry.name) is None:
            continue
        with job_directory(storage, entry.name, create=False) as directory:
            strange = set(os.listdir(directory)) - set(known.get(entry.name, ()))
            removed += [
                f"{entry.name}/{name}"
                for name in sorted(strange)
                if name.endswith(".raw") and remove_leftover(directory, name)
            ]
        if entry.name not in known:
            with contextlib.suppress(OSError):  # something is in it: the directory stays
                entry.rmdir()
    return removed
