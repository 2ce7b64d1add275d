"""The kernel's ways to make a range read as zeros without sending zeros through memory.

* ``fallocate(2)`` with ``PUNCH_HOLE | KEEP_SIZE`` frees the blocks of a file; of a block device
  it zeroes, and may free, where the device guarantees zeros (block/fops.c);
* ``BLKZEROOUT`` (block/ioctl.c) has a block device write zeros, without freeing.

Both drop the page cache of the range.

Python has neither, so both are called through libc, which releases the GIL for the call.
Each says False when the kernel or filesystem cannot, and the caller writes zeros instead.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

KEEP_SIZE = 0x01
PUNCH_HOLE = 0x02
BLKZEROOUT = 0x127F

_CANNOT = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOTTY, errno.EPERM})
"""What "not here" looks like: no such call, not for this filesystem, range not aligned."""

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fallocate.restype = ctypes.c_int


def punch_hole(descriptor: int, offset: int, length: int) -> bool:
    """Make a hole in a file or device; False if there can be none.

    Raises:
        OSError: any other failure.
    """
    while _fallocate(descriptor, PUNCH_HOLE | KEEP_SIZE, offset, length) != 0:
        code = ctypes.get_errno()
        if code in _CANNOT:
            return False
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
    return True


def zero_out(descriptor: int, offset: int, length: int) -> bool:
    """Have a block device zero a range; False if it is not aligned or the device cannot.

    Raises:
        OSError: any other failure.
    """
    try:
        fcntl.ioctl(descriptor, BLKZEROOUT, struct.pack("QQ", offset, length))
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    return True
