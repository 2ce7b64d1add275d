"""A disk that misbehaves for the kernel: a filesystem with one file, served by this process.

The errors are real: what a program gets comes from the kernel, through a loop device or without.
The filesystem speaks the kernel's own protocol on /dev/fuse (fuse(4), include/uapi/linux/fuse.h),
so no library is needed. The content is in another file, where a test can look past the faults.

    with bad_disk(tmp_path, SIZE) as disk, attached(disk) as device:
        disk.cannot_read(at, length)

Faults: ``cannot_read`` gives EIO until the place is written (a disk then replaces the sector) or
``heal``; ``write_error`` is an errno for writes, or those at ``bad_writes``; ``sync_error`` one for
fsync; ``delay`` is seconds for each read, write and sync.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.loops import run

_HEADER = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_ATTR = struct.Struct("<6Q10I")
_MAX = 1 << 20
_ROOT, _FILE = 1, 2
_NAME = b"disk.img"

_LOOKUP, _FORGET, _GETATTR, _SETATTR, _OPEN, _READ, _WRITE = 1, 2, 3, 4, 14, 15, 16
_STATFS, _RELEASE, _FSYNC, _FLUSH, _INIT = 17, 18, 20, 25, 26
_OPENDIR, _READDIR, _RELEASEDIR, _INTERRUPT, _DESTROY, _BATCH_FORGET = 27, 28, 29, 36, 38, 42
_FATTR_SIZE = 8
_DIRECT_IO = 1
_INIT_FLAGS = 1 | 1 << 5 | 1 << 15 | 1 << 22  # async reads, big writes, async direct I/O, max_pages

_libc = ctypes.CDLL(None, use_errno=True)


class BadDisk:
    """The file and its faults; attributes may be changed at any time.

    Attributes:
        path: the file in the bad filesystem.
        behind: the file that really holds the content.
        reads, writes, syncs: how many were asked for, those that failed included.
        tried: how often each bad place was read.
    """

    def __init__(self, mount: Path, behind: Path) -> None:
        self.path = mount / _NAME.decode()
        self.behind = behind
        self.write_error = self.sync_error = 0
        self.bad_writes: list[tuple[int, int]] = []
        self.delay = 0.0
        self.reads = self.writes = self.syncs = 0
        self.tried = 0
        self._bad: list[tuple[int, int]] = []
        self._file = os.open(behind, os.O_RDWR)
        self._fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)

    def cannot_read(self, offset: int, length: int) -> None:
        """From now on a read that touches these bytes fails."""
        self._bad = [*self._bad, (offset, offset + length)]

    def heal(self) -> None:
        """Every fault is gone."""
        self._bad, self.bad_writes = [], []
        self.write_error = self.sync_error = 0
        self.delay = 0.0

    # --- the kernel's questions -----------------------------------------------------------------

    def serve(self) -> None:
        """Answer until the filesystem is unmounted. Several threads may do it."""
        buffer = bytearray(_MAX + (64 << 10))
        while True:
            try:
                count = os.readv(self._fuse, [buffer])
            except OSError as error:
                if error.errno in {errno.EINTR, errno.ENOENT, errno.EAGAIN}:
                    continue
                return  # ENODEV: unmounted
            _, opcode, unique, node, *_ = _HEADER.unpack_from(buffer)
            if opcode in {_FORGET, _BATCH_FORGET, _INTERRUPT}:
                continue
            try:
                answer, code = self._answer(opcode, node, memoryview(buffer)[40:count]), 0
            except OSError as error:
                answer, code = b"", -(error.errno or errno.EIO)
            with contextlib.suppress(OSError):  # interrupted, or unmounted meanwhile
                os.writev(self._fuse, [_OUT.pack(16 + len(answer), code, unique), answer])

    def _answer(self, opcode: int, node: int, body: memoryview) -> bytes:
        if opcode in {_READ, _WRITE, _FSYNC}:
            return self._transfer(opcode, body)
        if opcode == _INIT:
            ready = (7, 31, _MAX, _INIT_FLAGS, 16, 12, _MAX, 1, _MAX // 4096, 0, 0)
            return struct.pack("<IIIIHHIIHHI28x", *ready)
        if opcode == _LOOKUP:
            if bytes(body).rstrip(b"\0") != _NAME:
                raise OSError(errno.ENOENT, "no such file")
            return struct.pack("<QQQQII", _FILE, 0, 0, 0, 0, 0) + self._attributes(_FILE)
        if opcode == _SETATTR:
            (valid,) = struct.unpack_from("<I", body)
            if valid & _FATTR_SIZE:
                os.ftruncate(self._file, struct.unpack_from("<Q", body, 16)[0])
        if opcode in {_GETATTR, _SETATTR}:
            return struct.pack("<QII", 0, 0, 0) + self._attributes(node)
        if opcode in {_OPEN, _OPENDIR}:
            return struct.pack("<QIi", 0, _DIRECT_IO if opcode == _OPEN else 0, 0)
        if opcode == _STATFS:
            return struct.pack("<5Q4I24x", 1 << 20, 1 << 19, 1 << 19, 9, 9, 4096, 255, 4096, 0)
        if opcode in {_RELEASE, _RELEASEDIR, _FLUSH, _READDIR, _DESTROY}:
            return b""
        raise OSError(errno.ENOSYS, "not here")

    def _transfer(self, opcode: int, body: memoryview) -> bytes:
        """What the faults are about."""
        time.sleep(self.delay)
        if opcode == _FSYNC:
            self.syncs += 1
            self._fail(self.sync_error)
            return b""
        offset, size = struct.unpack_from("<8xQI", body)
        if opcode == _READ:
            return self._read(offset, size)
        return self._write(offset, body[40 : 40 + size])

    def _attributes(self, node: int) -> bytes:
        status = os.fstat(self._file)
        size = status.st_size if node == _FILE else 0
        mode = 0o100600 if node == _FILE else 0o040755
        at, part = divmod(status.st_mtime_ns, 1_000_000_000)
        rest = (part, part, part, mode, 1, 0, 0, 0, 4096, 0)
        return _ATTR.pack(node, size, size // 512, at, at, at, *rest)

    def _read(self, offset: int, size: int) -> bytes:
        self.reads += 1
        if any(offset < end and start < offset + size for start, end in self._bad):
            self.tried += 1
            raise OSError(errno.EIO, "a bad sector")
        return os.pread(self._file, size, offset)

    def _write(self, offset: int, content: memoryview) -> bytes:
        self.writes += 1
        end = offset + len(content)
        hit = any(offset < high and low < end for low, high in self.bad_writes)
        self._fail(self.write_error if hit or not self.bad_writes else 0)
        # A disk replaces a sector that is written as a whole.
        self._bad = [bad for bad in self._bad if not (offset <= bad[0] and bad[1] <= end)]
        return struct.pack("<II", os.pwrite(self._file, content, offset), 0)

    @staticmethod
    def _fail(code: int) -> None:
        if code:
            raise OSError(code, os.strerror(code))

    def close(self) -> None:
        os.close(self._fuse)
        os.close(self._file)


@contextlib.contextmanager
def bad_disk(directory: Path, size: int, name: str = "bad") -> Iterator[BadDisk]:
    """A mounted bad disk of ``size`` bytes, without a fault yet."""
    mount, behind = directory / name, directory / f"{name}.behind"
    mount.mkdir()
    with behind.open("xb") as file:
        file.truncate(size)
    disk = BadDisk(mount, behind)
    options = f"fd={disk._fuse},rootmode=40000,user_id=0,group_id=0,allow_other"
    if _libc.mount(b"baddisk", bytes(mount), b"fuse", 0, options.encode()):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    threads = [threading.Thread(target=disk.serve, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield disk
    finally:
        disk.heal()
        run("umount", "-l", mount)
        for thread in threads:
            thread.join(10)
        disk.close()


@contextlib.contextmanager
def attached(disk: BadDisk) -> Iterator[str]:
    """A loop device on a bad disk."""
    device = run("losetup", "--find", "--show", "--direct-io=on", disk.path)
    try:
        yield device
    finally:
        disk.heal()
        run("losetup", "--detach", device)
