"""Intermediate disks: where a source's content lands.

``base`` is the interface and what all kinds share, ``raw`` the sparse file, ``block`` the
block device, ``device`` and ``safety`` what must be true of a device before its first byte
is written, ``zeroing`` the kernel's ways to make zeros.
"""

from __future__ import annotations

from receiver.disk.base import IntermediateDisk
from receiver.disk.block import BlockDisk
from receiver.disk.raw import RawDisk

__all__ = ["BlockDisk", "IntermediateDisk", "RawDisk"]
