"""A comparison that cannot say "different" would prove nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from demo.compare import GRANULE, PIECE, SHOWN, compare

if TYPE_CHECKING:
    from pathlib import Path

SIZE = PIECE + 3 * GRANULE


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    content = os.urandom(SIZE)
    for name in ("copy", "reference"):
        (tmp_path / name).write_bytes(content)
    return tmp_path / "copy", tmp_path / "reference"


def change(path: Path, *offsets: int) -> None:
    with open(path, "r+b") as file:
        for offset in offsets:
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes([byte[0] ^ 1]))


def test_equal_files_are_identical(pair: tuple[Path, Path]) -> None:
    found = compare(*pair)
    assert found.identical
    assert str(found) == "identical"


@pytest.mark.parametrize("at", [0, GRANULE - 1, PIECE - 1, PIECE, SIZE - 1])
def test_one_bit_anywhere_is_found_at_its_granule(pair: tuple[Path, Path], at: int) -> None:
    change(pair[0], at)
    found = compare(*pair)
    assert found.offsets == (at // GRANULE * GRANULE,)
    assert str(found) == f"DIFFERENT at bytes {at // GRANULE * GRANULE}"


def test_only_the_first_differences_are_listed(pair: tuple[Path, Path]) -> None:
    change(pair[0], *range(0, SIZE, GRANULE))
    assert compare(*pair).offsets == tuple(range(0, SHOWN * GRANULE, GRANULE))


def test_a_copy_of_another_size_is_different(pair: tuple[Path, Path]) -> None:
    os.truncate(pair[0], SIZE + GRANULE)
    found = compare(*pair)
    assert not found.identical
    assert str(SIZE + GRANULE) in str(found)
