"""Preserving checkpoints: reflinked copies of the intermediate disks, and which to let go.

The idea: on xfs and btrfs a file can share another's blocks (``FICLONE``, ioctl_ficlone(2)),
so a copy of a terabyte takes milliseconds and only what changes later takes space. Where
the storage cannot do that, nothing is preserved and the sentence says so: a copy that takes
hours while the source's writes pile up is not what "checkpoint" promises.

A snapshot is a directory, ``<storage>/snapshots/<job>/<epoch>/``, with one file a disk. It
appears by one rename when it is whole and durable, and disappears by one rename before it is
taken apart, so what has a number for a name is complete. Call before the epoch is committed
in the catalog: the catalog is the truth, and what it does not name is an orphan (:func:`sweep`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from protocol.errors import RECEIVER_FULL, TARGET_IO
from protocol.identity import sync_directory
from protocol.local import crash
from receiver.disk.base import free_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

DIRECTORY = "snapshots"
FICLONE = 0x40049409
"""_IOW(0x94, 9, int), linux/fs.h."""

_PARTIAL = ".part"
_DOOMED = ".drop"
_CANNOT = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS})


@dataclass(frozen=True, slots=True)
class Preserved:
    """What became of a checkpoint's content.

    Attributes:
        path: the snapshot's directory; None when it is not preserved.
        sentence: the same for people.
    """

    path: Path | None
    sentence: str


def preserve(storage: Path, job: str, epoch: int, disks: Sequence[Path]) -> Preserved:
    """Keep what a job's intermediate disks hold now, all of them or none.

    The disks must have been synced and nobody may write to them meanwhile.

    Args:
        storage: the receiver's storage directory.
        job: id of the job.
        epoch: the checkpoint's number, not committed in the catalog yet. A directory of that
            name is left over from a commit that a crash prevented, and is replaced.
        disks: paths of the intermediate disks, raw files or devices.

    Raises:
        LocalFault: RECEIVER_FULL or TARGET_IO; nothing is left behind.
    """
    devices = [str(path) for path in disks if path.is_block_device()]
    if devices:
        return _not_preserved(f"{', '.join(devices)} is a block device")
    home = _home(storage, job)
    partial, final = home / f"{epoch}{_PARTIAL}", home / str(epoch)
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in (partial, final):
            _remove(leftover)
        partial.mkdir(mode=0o700)
        for path in disks:
            _clone(path, partial / path.name)
        sync_directory(partial)
        crash.here("snapshot.partial")
        partial.rename(final)
        crash.here("snapshot.named")
        for directory in (home, home.parent, storage):
            sync_directory(directory)
    except OSError as error:
        _discard_quietly(partial)
        if error.errno in _CANNOT:
            return _not_preserved(f"the filesystem of {storage} cannot reflink")
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise RECEIVER_FULL.fault(path=final, free=free_bytes(str(storage))) from error
        raise TARGET_IO.fault(path=final, detail=error.strerror) from error
    return Preserved(final, f"preserved in {final}")


def can_preserve(storage: Path) -> bool:
    """Whether the storage's filesystem can reflink, tried with two small files.

    Raises:
        OSError: it cannot even be written.
    """
    home = storage / DIRECTORY
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    original, copy = home / ".try", home / ".try-clone"
    try:
        original.write_bytes(bytes(4096))
        _clone(original, copy)
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    finally:
        original.unlink(missing_ok=True)
        copy.unlink(missing_ok=True)
    return True


def epochs_to_drop(preserved: Collection[int], keep: int, held: Collection[int] = ()) -> list[int]:
    """Which snapshots to let go, oldest first, so that ``keep`` remain.

    The newest one always stays, and so do ``held`` ones (held, or being imaged or drilled),
    which do not count against ``keep``.
    """
    free = sorted(set(preserved) - set(held))
    newest = max(preserved, default=None)
    kept = set(free[-max(keep, 1) :]) | {newest}
    return [epoch for epoch in free if epoch not in kept]


def let_go_sentence(keep: int) -> str:
    """What the catalog says of a checkpoint whose snapshot is kept no more."""
    return f"let go: {keep} are kept"


def drop(storage: Path, job: str, epoch: int) -> None:
    """Remove a snapshot; one that is not there is none.

    Raises:
        LocalFault: TARGET_IO.
    """
    try:
        _remove(_home(storage, job) / str(epoch))
    except OSError as error:
        raise TARGET_IO.fault(path=_home(storage, job), detail=error.strerror) from error


def forget(storage: Path, job: str) -> None:
    """Remove all snapshots of a job, committed or not: the job is being deleted.

    Raises:
        LocalFault: TARGET_IO.
    """
    home = _home(storage, job)
    try:
        sweep(storage, job, ())
        with contextlib.suppress(OSError):  # not there, or something of a person's is in it
            home.rmdir()
    except OSError as error:
        raise TARGET_IO.fault(path=home, detail=error.strerror) from error


def sweep(storage: Path, job: str, committed: Collection[int]) -> list[str]:
    """At start: remove what a crash left of a job: half-made, half-removed, never committed.

    Returns:
        The names that were removed.
    """
    home = _home(storage, job)
    if not home.is_dir():
        return []
    wanted = {str(epoch) for epoch in committed}
    orphans = [entry for entry in sorted(home.iterdir()) if _is_ours(entry, wanted)]
    for entry in orphans:
        _remove(entry)
    return [entry.name for entry in orphans]


def _is_ours(entry: Path, wanted: Collection[str]) -> bool:
    """Whether an entry is a leftover of this module: other things in there are not touched."""
    stem = entry.name.removesuffix(_PARTIAL).removesuffix(_DOOMED)
    return stem.isdecimal() and entry.name not in wanted


def _home(storage: Path, job: str) -> Path:
    if not job or "/" in job or job.startswith("."):
        raise ValueError(f"{job!r} is not a job id")
    return storage / DIRECTORY / job


def _clone(path: Path, to: Path) -> None:
    """Share ``path``'s blocks with the new file ``to``, durably and read-only."""
    source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        clone = os.open(to, flags, 0o400)
        try:
            fcntl.ioctl(clone, FICLONE, source)
            os.fsync(clone)
        finally:
            os.close(clone)
    finally:
        os.close(source)


def _remove(directory: Path) -> None:
    """Take a directory away by one rename, then take it apart."""
    if not directory.is_dir() or directory.is_symlink():
        return
    doomed = directory
    if not directory.name.endswith(_DOOMED):
        doomed = directory.with_name(directory.name.removesuffix(_PARTIAL) + _DOOMED)
        if doomed.is_dir():
            shutil.rmtree(doomed)
        directory.rename(doomed)
        sync_directory(directory.parent)
        crash.here("snapshot.doomed")
    shutil.rmtree(doomed)


def _discard_quietly(partial: Path) -> None:
    with contextlib.suppress(OSError):  # the first error is the one to tell; sweep() tries again
        shutil.rmtree(partial)


def _not_preserved(reason: str) -> Preserved:
    return Preserved(None, f"not preserved: {reason}")
