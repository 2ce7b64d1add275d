"""Reading a source disk: exact bytes, exact errors."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from protocol.errors import LocalFault
from protocol.link.buffers import Buffer
from replicad.reader import ATTEMPTS, DiskReader

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ODD = 20 * 4096 + 777


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(ODD))
    return path


def test_near_far_and_odd_ranges_come_one_behind_the_other(image: Path) -> None:
    ranges = [(0, 4096), (8192, 8192), (15 * 4096, 4096), (19 * 4096, 4096 + 777)]
    reader, buffer = DiskReader(str(image), gap=8192), Buffer(1 << 20)
    total = reader.read(ranges, buffer.view)
    content = image.read_bytes()
    assert bytes(buffer.view[:total]) == b"".join(content[o : o + n] for o, n in ranges)
    reader.close()


def test_a_bad_granule_is_named_exactly(image: Path) -> None:
    tried = []

    def preadv(fd: int, views: Sequence[memoryview], offset: int) -> int:
        length = sum(len(view) for view in views)
        if offset <= 3 * 4096 < offset + length:
            tried.append(offset)
            raise OSError(errno.EIO, "Input/output error")
        return os.preadv(fd, views, offset)

    reader, buffer = DiskReader(str(image), preadv=preadv), Buffer(1 << 20)
    with pytest.raises(LocalFault, match=r"bytes 12288-16384") as caught:
        reader.read([(0, 10 * 4096)], buffer.view)
    assert caught.value.code == "RPL-5004"
    assert tried == [0] + [3 * 4096] * ATTEMPTS
    reader.close()


@pytest.mark.parametrize("number", [errno.ENXIO, errno.ENODEV])
def test_a_disk_that_vanished_is_missing(image: Path, number: int) -> None:
    def preadv(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    reader, buffer = DiskReader(str(image), preadv=preadv), Buffer(1 << 20)
    with pytest.raises(LocalFault) as caught:
        reader.read([(0, 4096)], buffer.view)
    assert caught.value.code == "RPL-5001"
    reader.close()


def test_a_shrunken_disk_is_resized(image: Path) -> None:
    reader, buffer = DiskReader(str(image)), Buffer(1 << 20)
    os.truncate(image, 4096)
    with pytest.raises(LocalFault) as caught:
        reader.read([(0, 16384)], buffer.view)
    assert caught.value.code == "RPL-5002"
    reader.close()


def test_holes_are_known(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 20)
        file.seek(512 << 10)
        file.write(b"x" * 4096)
    reader = DiskReader(str(path))
    assert list(reader.data_ranges()) == [(512 << 10, 4096)]
    reader.close()
