"""An intermediate disk that is a block device: opened only when nothing speaks against it.

It is opened by number, exclusively (O_EXCL makes the kernel refuse mounts, swap, volume
managers and other exclusive users from then on), and what was opened is compared with what
was checked, so no rename or link in between can swap it. Its content is never taken to be
zero: a device remembers what it held before.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from protocol.errors import TARGET_CHANGED, TARGET_IN_USE, TARGET_IO, TARGET_MISSING
from protocol.wire.jobs import DiskIdentity
from receiver.catalog.rows import TargetIdentity
from receiver.disk import safety, zeroing
from receiver.disk.base import IntermediateDisk
from receiver.disk.device import Device, Machine
from receiver.evidence import Mark

if TYPE_CHECKING:
    from collections.abc import Iterable

_ALIGNED = 4096
"""Zeroing is handed to the device in whole pages: its sectors are 512 or 4096 bytes."""

SYS_DEV_BLOCK = Path("/sys/dev/block")
WRITTEN_SECTORS, DISCARDED_SECTORS = 6, 13
"""Places in a device's ``stat``; discards are there since Linux 4.18."""

_ANY = DiskIdentity()


class BlockDisk(IntermediateDisk):
    """A block device, held exclusively. Make with :meth:`open`."""

    def __init__(self, descriptor: int, device: Device, size: int) -> None:
        super().__init__(descriptor, device.path, size, known_zero=False)
        self._device = device

    @classmethod
    def open(
        cls,
        path: str,
        size: int,
        *,
        job: str,
        others: Iterable[tuple[str, str]],
        storage: Path,
        identity: TargetIdentity | None = None,
        source: DiskIdentity = _ANY,
        source_path: str = "",
        machine: Machine | None = None,
    ) -> BlockDisk:
        """Check and open a device for a job.

        Args:
            path: any path of the device.
            size: bytes of the source's disk; the device may be larger.
            job: id of the job.
            others: (job id, path) of all device targets in the catalog; the job's own are ignored.
            storage: the receiver's storage directory.
            identity: what :meth:`identity` said before; None the first time.
            source: identity of the disk that is to be copied.
            source_path: its path, only when the source is this very machine.
            machine: where to look; the real one by default.

        Raises:
            LocalFault: TARGET_*: why it must not be written. Nothing has been written then.
        """
        machine = machine or Machine()
        device = machine.device(path)
        safety.refuse_all(
            device,
            machine,
            needed=size,
            job=job,
            others=others,
            storage=storage,
            source=source,
            source_path=source_path,
        )
        if identity is not None:
            safety.refuse_changed(device, identity.size, identity.marks)
        return cls(_open_exclusively(device), device, size)

    def identity(self) -> TargetIdentity:
        """What the catalog recognises it by."""
        return TargetIdentity(size=self._device.size, marks=dict(self._device.marks))

    def mark(self) -> Mark:
        """What the kernel counts (Documentation/block/stat.rst): sectors written and discarded
        since the device was attached. A partition has counters of its own."""
        place = SYS_DEV_BLOCK / f"{self._device.number[0]}:{self._device.number[1]}"
        whole = place.resolve().parent if (place / "partition").exists() else place
        try:
            counts = [int(each) for each in (place / "stat").read_text().split()]
            sequence = whole / "diskseq"
            attached = int(sequence.read_text()) if sequence.exists() else 0
        except (OSError, ValueError) as error:
            raise TARGET_IO.fault(path=self.path, detail=f"no counters: {error}") from error
        discarded = counts[DISCARDED_SECTORS] if len(counts) > DISCARDED_SECTORS else 0
        return Mark(attached=attached, sectors=counts[WRITTEN_SECTORS] + discarded)

    def allocated_extents(self) -> list[tuple[int, int]]:
        """All of it: a device does not say what it holds."""
        return [(0, self.size)]

    def _zero_by_kernel(self, offset: int, length: int) -> bool:
        start = -(-offset // _ALIGNED) * _ALIGNED
        end = (offset + length) // _ALIGNED * _ALIGNED
        if start >= end or not (
            zeroing.punch_hole(self._descriptor, start, end - start)
            or zeroing.zero_out(self._descriptor, start, end - start)
        ):
            return False
        self._write_zeros(offset, start - offset)
        self._write_zeros(end, offset + length - end)
        return True


def _open_exclusively(device: Device) -> int:
    try:
        descriptor = os.open(
            Path(device.path).resolve(), os.O_RDWR | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        )
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise TARGET_IN_USE.fault(
                path=device.path, detail="another process or the kernel holds it"
            ) from error
        raise TARGET_MISSING.fault(path=device.path, detail=error.strerror) from error
    status = os.fstat(descriptor)
    number = (os.major(status.st_rdev), os.minor(status.st_rdev))
    if not stat.S_ISBLK(status.st_mode) or number != device.number:
        os.close(descriptor)
        raise TARGET_CHANGED.fault(path=device.path, detail="the path now leads elsewhere")
    return descriptor
