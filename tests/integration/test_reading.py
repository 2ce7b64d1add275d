"""Reading a disk whose filesystem is written: what is read is what the disk holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from protocol.link.buffers import Buffer
from replicad.reader import DiskReader
from tests.support.loops import MIB, flush, loop_device, mounted

pytestmark = pytest.mark.root
SIZE = 32 * MIB


def test_what_a_filesystem_wrote_is_read_although_it_was_read_before(tmp_path: Path) -> None:
    """A filesystem does not write through the page cache of the device under it: a read of the
    device through that cache gives what was there when it was first read."""
    image = tmp_path / "image"
    with loop_device(image, SIZE) as device, mounted(device, tmp_path / "mount", "ext4") as mount:
        reader = DiskReader(device)
        into = Buffer(SIZE)
        try:
            reader.read([(0, SIZE)], into.view)
            (mount / "file").write_bytes(os.urandom(4 * MIB))
            flush(mount)
            reader.read([(0, SIZE)], into.view)
            held = image.read_bytes()
            differ = [
                at
                for at in range(0, SIZE, 4096)
                if into.view[at : at + 4096] != held[at : at + 4096]
            ]
            assert not differ, f"{len(differ)} stale blocks"
        finally:
            reader.close()
            into.free()
