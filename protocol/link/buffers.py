"""Buffers that are made once: page-aligned, touched, and lent again and again.

Fresh memory costs a page fault per 4 KiB, which is more than everything else that is done to an
extent (measured: AES-256-GCM of 1 MiB runs at 8.8 GB/s into memory that exists, at 0.66 into
memory that does not). So the steady state allocates nothing of extent size. Anonymous mappings
are page-aligned, as O_DIRECT wants it.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = mmap.PAGESIZE
_HUGE = 2 << 20

MADV_POPULATE_WRITE = 23
"""linux/mman.h; Python's mmap does not name it."""


class CannotLockError(MemoryError):
    """Memory cannot be locked; ``str()`` says how much was asked for and what limits it."""


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.munlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Buffer:
    """Page-aligned memory of a fixed size, every page of which exists.

    Attributes:
        view: all of it, writable. The one memoryview that is ever made; slices are cheap.
        size: bytes.
    """

    def __init__(self, size: int) -> None:
        """``size``: bytes, rounded up to whole pages."""
        self.size = -(-size // PAGE) * PAGE
        self._map = mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if self.size >= _HUGE:
            # Refused by kernels built without transparent huge pages; nothing depends on it.
            with contextlib.suppress(OSError):
                self._map.madvise(mmap.MADV_HUGEPAGE)
        self.view = memoryview(self._map)
        self._locked = False
        # Half of what a fault for each page takes, and without the interpreter's lock, as memset.
        if _libc.madvise(self.address, self.size, MADV_POPULATE_WRITE):  # Linux 5.14
            ctypes.memset(self.address, 0, self.size)

    @property
    def address(self) -> int:
        """Where it lies in memory, for calls that take a pointer."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def lock(self) -> None:
        """Keeps it in RAM (mlock). Raises :class:`CannotLockError`."""
        if _libc.mlock(self.address, self.size):
            detail = os.strerror(ctypes.get_errno())
            raise CannotLockError(
                f"{self.size} bytes of memory cannot be locked: {detail} (see RLIMIT_MEMLOCK)"
            )
        self._locked = True

    def free(self) -> None:
        """Unlocks and unmaps; while someone still holds a slice, that is put off to its end.

        The traceback of a fault holds what its frames held, and must not turn into another fault.
        """
        if self._locked:
            _libc.munlock(self.address, self.size)
            self._locked = False
        self.view.release()
        with contextlib.suppress(BufferError):
            self._map.close()


class BufferPool:
    """At most ``count`` buffers of ``size`` bytes, made when first needed. Thread-safe."""

    def __init__(self, count: int, size: int, *, locked: bool = False) -> None:
        self.count = count
        self.size = size
        self._locked = locked
        self._idle: list[Buffer] = []
        self._made = 0
        self._changed = threading.Condition()
        self._closed = False

    @property
    def leased(self) -> int:
        """Buffers that are lent out now."""
        return self._made - len(self._idle)

    @contextlib.contextmanager
    def lease(self, timeout: float | None = None) -> Iterator[Buffer]:
        """Lends a buffer for a ``with`` block; see :meth:`borrow`."""
        buffer = self.borrow(timeout)
        try:
            yield buffer
        finally:
            self.give_back(buffer)

    def borrow(self, timeout: float | None = None) -> Buffer:
        """A buffer, whose content is whatever its last user left. Waits for one that is idle.

        Raises TimeoutError after ``timeout`` seconds, ValueError if the pool is closed, and
        :class:`CannotLockError` or OSError when a new buffer cannot be made.
        """
        with self._changed:
            self._changed.wait_for(self._can_lend, timeout)
            if self._closed:
                raise ValueError("the buffer pool is closed")
            if self._idle:
                return self._idle.pop()
            if self._made == self.count:
                raise TimeoutError(f"all {self.count} buffers were in use for {timeout:g} s")
            self._made += 1
        try:
            return self._make()
        except BaseException:
            with self._changed:
                self._made -= 1
                self._changed.notify()
            raise

    def _can_lend(self) -> bool:
        return self._closed or bool(self._idle) or self._made < self.count

    def _make(self) -> Buffer:
        buffer = Buffer(self.size)
        if self._locked:
            try:
                buffer.lock()
            except CannotLockError:
                buffer.free()
                raise
        return buffer

    def give_back(self, buffer: Buffer) -> None:
        """Returns a borrowed buffer. The most recently used is lent first: it is in the cache."""
        with self._changed:
            if self._closed:
                self._made -= 1
                buffer.free()
                return
            self._idle.append(buffer)
            self._changed.notify()

    def close(self) -> None:
        """Frees idle buffers now and lent ones when they come back; wakes who waits."""
        with self._changed:
            self._closed = True
            self._made -= len(self._idle)
            while self._idle:
                self._idle.pop().free()
            self._changed.notify_all()


class LockedArena:
    """Memory for the final set of a checkpoint: in RAM for sure, so no page fault while frozen.

    ``with LockedArena(bytes) as arena: arena.view[...]``. Raises :class:`CannotLockError` when
    the kernel does not let it be locked, MemoryError when there is none.
    """

    def __init__(self, size: int) -> None:
        try:
            self._buffer = Buffer(max(size, 1))
        except OSError as error:
            raise MemoryError(f"no memory for {size} bytes: {error.strerror}") from error
        try:
            self._buffer.lock()
        except CannotLockError:
            self._buffer.free()
            raise
        self._freed = False
        self.size = size
        self.view = self._buffer.view[:size]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.free()

    def free(self) -> None:
        """Unlocks and unmaps; may be called again. What is still held ends later."""
        if not self._freed:
            self.view.release()
            self._buffer.free()
            self._freed = True
