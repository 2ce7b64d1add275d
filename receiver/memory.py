"""What the receiver remembers of a job beside the catalog: one small file among the job's disks.

It lies where the intermediate disks are, so that who puts them back puts it back with them, and
it is brought to stable storage with every group of writes, before the source hears of them. So
it is never older than what a source was told; see :mod:`receiver.evidence` for what follows.

Layout of ``<storage>/disks/<job>/memory``: two slots of 128 KiB, written in turn (a torn write
leaves the other one): magic (8 bytes), length (u32), sequence (u64), xxh3-64 (u64) of length,
sequence and text, then the text, JSON of :class:`receiver.evidence.State`. Then a page of
leases, one u64 for each disk: Unix nanoseconds until which our own writes may have changed it.
Integers are little endian. All of it is allocated when it is made: a full disk cannot stop it.
"""

from __future__ import annotations

import os
import stat
import struct
import threading
from typing import TYPE_CHECKING, Self

import msgspec
import xxhash

from protocol.errors import TARGET_CHANGED, TARGET_IO, LocalFault
from protocol.local import crash
from receiver.disk import files
from receiver.disk.device import BOOT_ID
from receiver.evidence import NS, Left, Machine, Past, State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SLOT_BYTES = 128 << 10
LEASES_AT = 2 * SLOT_BYTES
FILE_BYTES = LEASES_AT + 4096

SESSIONS = 8
"""Sessions that are remembered. A source names its last one, or one before: those that came after
it and carried nothing, or are the proof that it was put back."""

_MAGIC = b"RPLMEM\x00\x01"
_HEAD = struct.Struct("<8sIQQ")
_LEASE = struct.Struct("<Q")


class Memory:
    """The open file of a job. Methods are thread-safe.

    Attributes:
        state: what it held when it was opened, or what was written last; None: nothing.
    """

    def __init__(self, descriptor: int, path: str) -> None:
        """Use :meth:`open`."""
        self._descriptor = descriptor
        self.path = path
        self._lock = threading.Lock()
        self._sequence, self.state = _newest(descriptor)
        self._closed = False

    @classmethod
    def open(cls, storage: Path, job: str) -> Self:
        """The file of a job, which is made if there is none.

        Raises:
            LocalFault: TARGET_IO, or TARGET_CHANGED: something else is in its place.
        """
        path = storage / files.DIRECTORY / job / files.MEMORY
        try:
            with files.job_directory(storage, job, create=True) as directory:
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                descriptor = os.open(files.MEMORY, flags, 0o600, dir_fd=directory)
                try:
                    _prepare(descriptor, directory, path)
                    return cls(descriptor, str(path))
                except BaseException:
                    os.close(descriptor)
                    raise
        except OSError as error:
            raise TARGET_IO.fault(path=path, detail=error.strerror or str(error)) from error

    def begin(self, session: str, source_boot: str, job: str) -> None:
        """A session opens. From now on no disk is left as it was. Durable when it returns.

        Raises:
            LocalFault: TARGET_IO.
        """
        past = self.state.sessions if self.state is not None else ()
        kept = (*past, Past(id=session, boot=source_boot))[-SESSIONS:]
        self._write(State(job=job, sessions=kept, boot=machine().boot, left=None))

    def note(self, acked: Mapping[int, int]) -> None:
        """So many frames of each connection of the newest session are durable, or will be before
        anybody is told. Durable when it returns.

        Raises:
            LocalFault: TARGET_IO.
        """
        state = self.state
        assert state is not None  # begin() was called
        vector = tuple(acked.get(index, 0) for index in range(max(acked, default=-1) + 1))
        newest = msgspec.structs.replace(state.sessions[-1], acked=vector)
        self._write(msgspec.structs.replace(state, sessions=(*state.sessions[:-1], newest)))

    def end(self, left: Sequence[Left]) -> None:
        """The session has closed, and this is how it left its disks. Durable when it returns.

        Raises:
            LocalFault: TARGET_IO.
        """
        assert self.state is not None
        self._write(msgspec.structs.replace(self.state, boot=machine().boot, left=tuple(left)))

    def lease(self, number: int) -> int:
        """Until when our own writes may have changed a disk, Unix nanoseconds; 0: none was."""
        data = os.pread(self._descriptor, _LEASE.size, LEASES_AT + number * _LEASE.size)
        (until,) = _LEASE.unpack(data.ljust(_LEASE.size, b"\0"))
        return int(until)

    def extend(self, number: int, until: int) -> None:
        """Our own writes may change a disk until then. For the page cache: it outlives us, and
        what does not outlive the machine is judged by when that was booted."""
        offset = LEASES_AT + number * _LEASE.size
        try:
            os.pwrite(self._descriptor, _LEASE.pack(until), offset)
        except OSError as error:
            raise self._fault(error) from error

    def close(self) -> None:
        """Close the file. May be called twice."""
        if not self._closed:
            self._closed = True
            os.close(self._descriptor)

    def _write(self, state: State) -> None:
        text = msgspec.json.encode(state)
        with self._lock:
            sequence = self._sequence + 1
            try:
                slot = _slot(text, sequence)
                os.pwrite(self._descriptor, slot, sequence % 2 * SLOT_BYTES)
                crash.here("memory.written")
                os.fdatasync(self._descriptor)
            except OSError as error:
                raise self._fault(error) from error
            self._sequence, self.state = sequence, state

    def _fault(self, error: OSError) -> LocalFault:
        return TARGET_IO.fault(path=self.path, detail=error.strerror or str(error))


def machine() -> Machine:
    """Where we run, and since when (proc_stat(5), btime)."""
    booted = 0
    with open("/proc/stat", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("btime "):
                booted = int(line.split()[1]) * NS
    return Machine(boot=BOOT_ID.read_text().strip(), booted=booted)


def _prepare(descriptor: int, directory: int, path: Path) -> None:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise TARGET_CHANGED.fault(path=path, detail="it is not a regular file of its own")
    if status.st_size != FILE_BYTES:
        # New, or cut off: then there is nothing in it that could be believed.
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, bytes(FILE_BYTES), 0)
        os.fsync(descriptor)
        os.fsync(directory)


def _slot(text: bytes, sequence: int) -> bytes:
    if len(text) > SLOT_BYTES - _HEAD.size:
        raise ValueError(f"{len(text)} bytes do not fit the slot")
    check = xxhash.xxh3_64_intdigest(_sum_of(text, sequence))
    return _HEAD.pack(_MAGIC, len(text), sequence, check) + text


def _sum_of(text: bytes, sequence: int) -> bytes:
    return struct.pack("<IQ", len(text), sequence) + text


def _newest(descriptor: int) -> tuple[int, State | None]:
    """The newer of the slots that are whole."""
    newest: tuple[int, State | None] = (0, None)
    for at in (0, SLOT_BYTES):
        slot = os.pread(descriptor, SLOT_BYTES, at)
        magic, length, sequence, check = _HEAD.unpack_from(slot)
        text = slot[_HEAD.size : _HEAD.size + length]
        if magic != _MAGIC or check != xxhash.xxh3_64_intdigest(_sum_of(text, sequence)):
            continue
        try:
            state = msgspec.json.decode(text, type=State)
        except msgspec.DecodeError:
            continue  # of a newer release: nothing that we can believe
        if sequence > newest[0]:
            newest = (sequence, state)
    return newest
