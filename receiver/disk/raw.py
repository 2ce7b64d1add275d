"""An intermediate disk that is a sparse file: holes for zeros, reflinks for snapshots.

Where it is: ``<storage>/disks/<job>/<number>-<name>.raw``. Every step to it is taken relative
to a directory that is already open and with O_NOFOLLOW, so no link placed inside the storage
can lead elsewhere, whatever names a source sends.

How it is recognised again: by its inode and size (in the catalog) and, where the filesystem
has extended attributes, by ``user.replicad.generation``, which holds job and generation. What
must not be written is refused: another job's file, another size, another kind of thing, a file
with a second name. What is at its place and may be written, but is not known to hold what the
catalog says, opens as not ``trusted``: an old copy that was put back (another inode), a file
without its mark or of another generation. ``?`` for the generation says that the content is this
job's, but cannot be vouched for: a sync failed, or another generation was being minted when the
power went. ``doubt`` says it in words.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from typing import TYPE_CHECKING

from protocol.errors import (
    RECEIVER_FULL,
    TARGET_CHANGED,
    TARGET_IN_USE,
    TARGET_IO,
    TARGET_MISSING,
)
from receiver.catalog.rows import TargetIdentity
from receiver.disk import files, zeroing
from receiver.disk.base import IntermediateDisk, free_bytes
from receiver.evidence import Mark

if TYPE_CHECKING:
    from pathlib import Path

FREE_BYTES_MIN = 16 << 20
"""16 MiB that must be free before a disk is begun, and are left free when it is written (a small
filesystem leaves a sixteenth): the catalog shares the filesystem and must be able to record that
there is no more room. Without that the job could not even be put into error."""

_FAILED = "a sync of the intermediate disk failed"

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def file_name(number: int, source_path: str) -> str:
    """The name of an intermediate disk: its number makes it unique, the rest is for people.

    ``source_path`` is the source's word: everything outside ``A-Z a-z 0-9 . _ -`` becomes
    one ``-`` and 64 characters are kept.
    """
    name = _UNSAFE.sub("-", source_path.removeprefix("/dev/")).strip(".-")[:64]
    return f"{number}-{name or 'disk'}.raw"


class RawDisk(IntermediateDisk):
    """A sparse file. Make it with :meth:`create`, take it up again with :meth:`open`.

    Attributes:
        job: id of the job whose it is.
    """

    def __init__(
        self, descriptor: int, path: str, size: int, *, job: str, known_zero: bool, doubt: str = ""
    ) -> None:
        super().__init__(descriptor, path, size, known_zero=known_zero)
        self.job = job
        self.doubt = doubt
        # The kernel lets one writer at a time into a file, and has the others spin meanwhile: of a
        # first copy into a new file that took 19 % of both processors (perf). Who waits here
        # sleeps.
        self._writing = threading.Lock()

    @property
    def trusted(self) -> bool:
        """Whether its content is that of its generation. If not, mint another: call
        :meth:`distrust`, tell the catalog, then :meth:`set_generation`."""
        return not self.doubt

    @classmethod
    def create(
        cls, storage: Path, job: str, *, number: int, source_path: str, size: int, generation: str
    ) -> RawDisk:
        """A new file of ``size`` bytes, all zeros, locked for this process.

        A file of that name that holds data is not ours to replace; one without (left by a
        crash before the catalog knew of it) is.

        Raises:
            LocalFault: TARGET_IN_USE (it exists), RECEIVER_FULL, TARGET_IO.
        """
        name = file_name(number, source_path)
        path = storage / files.DIRECTORY / job / name
        try:
            with files.job_directory(storage, job, create=True) as directory:
                if free_bytes(directory) < FREE_BYTES_MIN:
                    raise RECEIVER_FULL.fault(path=path, free=free_bytes(directory))
                files.remove_leftover(directory, name)
                descriptor = _make(directory, path, job, size, generation)
        except FileExistsError:
            raise TARGET_IN_USE.fault(path=path, detail="the file exists already") from None
        except OSError as error:
            raise TARGET_IO.fault(path=path, detail=error.strerror) from error
        return cls(descriptor, str(path), size, job=job, known_zero=True)

    @classmethod
    def open(
        cls,
        storage: Path,
        job: str,
        name: str,
        *,
        size: int,
        generation: str,
        identity: TargetIdentity,
    ) -> RawDisk:
        """Take up a file that this job made, or what is in its place and may be written.

        Args:
            storage: the receiver's storage directory.
            job: id of the job that made it.
            name: the file's name in the job's directory.
            size: bytes of the source's disk.
            generation: what the catalog says that it holds.
            identity: what :meth:`identity` said when it was made.

        Raises:
            LocalFault: TARGET_MISSING, TARGET_IN_USE, TARGET_CHANGED.
        """
        path = storage / files.DIRECTORY / job / name
        if "/" in name or name in {"", ".", ".."}:
            raise TARGET_CHANGED.fault(path=path, detail="its name leads out of its directory")
        try:
            with files.job_directory(storage, job, create=False) as directory:
                flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                descriptor = os.open(name, flags, dir_fd=directory)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise TARGET_CHANGED.fault(path=path, detail="it is a link") from error
            raise TARGET_MISSING.fault(path=path, detail=error.strerror) from error
        try:
            files.lock(descriptor, path)
            if detail := files.danger(descriptor, size, identity, job):
                raise TARGET_CHANGED.fault(path=path, detail=detail)
            return cls(
                descriptor,
                str(path),
                size,
                job=job,
                known_zero=files.is_all_hole(descriptor),
                doubt=files.doubt(descriptor, identity, job, generation),
            )
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def extend(
        cls,
        storage: Path,
        job: str,
        name: str,
        *,
        size: int,
        to: int,
        generation: str,
        identity: TargetIdentity,
    ) -> TargetIdentity:
        """Make a file that this job made larger, durably; what is added are zeros.

        Args:
            size: bytes that it had, and has unless this was begun before.
            to: bytes that it will have.

        Returns:
            What the catalog recognises it by from now on.

        Raises:
            LocalFault: as :meth:`open`; TARGET_IO, RECEIVER_FULL.
        """
        path = storage / files.DIRECTORY / job / name
        extended = TargetIdentity(size=to, inode=identity.inode)
        with contextlib.suppress(FileNotFoundError):  # opening it says so, in its own words
            if path.stat().st_size == to:
                size, identity = to, extended
        with (
            cls.open(
                storage, job, name, size=size, generation=generation, identity=identity
            ) as disk,
            disk._calls,
        ):
            os.ftruncate(disk._descriptor, to)
            os.fsync(disk._descriptor)
        return extended

    def _check_room(self) -> None:
        filesystem = os.fstatvfs(self._descriptor)
        total, free = filesystem.f_blocks, filesystem.f_bavail
        if free * filesystem.f_frsize < FREE_BYTES_MIN and free * 16 < total:
            raise RECEIVER_FULL.fault(path=self.path, free=free * filesystem.f_frsize)

    def identity(self) -> TargetIdentity:
        """What the catalog recognises it by."""
        status = os.fstat(self._descriptor)
        return TargetIdentity(size=status.st_size, inode=status.st_ino)

    def mark(self) -> Mark:
        """Its time of change, which nobody can set."""
        with self._calls:
            return Mark(changed=os.fstat(self._descriptor).st_ctime_ns)

    def distrust(self) -> None:
        """Mark the content as not to be vouched for, durably.

        Raises:
            LocalFault: TARGET_IO.
        """
        self.set_generation(files.UNTRUSTED)

    def set_generation(self, generation: str) -> None:
        """Mark the file with another generation, durably. Call after the catalog knows it.

        Raises:
            LocalFault: TARGET_IO.
        """
        with self._calls:
            files.set_mark(self._descriptor, self.job, generation)
            os.fsync(self._descriptor)
        self.doubt = "" if generation != files.UNTRUSTED else self.doubt or _FAILED

    def allocated_extents(self) -> list[tuple[int, int]]:
        """The file's data as the filesystem knows it (lseek(2), SEEK_DATA and SEEK_HOLE)."""
        with self._calls:
            return list(files.data_extents(self._descriptor, self.size))

    def _zero_by_kernel(self, offset: int, length: int) -> bool:
        return zeroing.punch_hole(self._descriptor, offset, length)

    def _is_hole(self, offset: int, length: int) -> bool:
        return files.is_hole(self._descriptor, offset, length)

    def _distrust(self) -> None:
        super()._distrust()
        self.doubt = self.doubt or _FAILED
        with contextlib.suppress(OSError):  # the fault is raised either way, and names the disk
            files.set_mark(self._descriptor, self.job, files.UNTRUSTED)


def _make(directory: int, path: Path, job: str, size: int, generation: str) -> int:
    """A new file in an open directory: locked, sized, marked, and durable with its name."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path.name, flags, 0o600, dir_fd=directory)
    try:
        files.lock(descriptor, path)
        os.ftruncate(descriptor, size)
        files.set_mark(descriptor, job, generation)
        os.fsync(descriptor)
        os.fsync(directory)
    except BaseException:
        os.close(descriptor)
        os.unlink(path.name, dir_fd=directory)
        raise
    return descriptor
