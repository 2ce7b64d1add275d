"""What is copied is what a question says: seeded, of the right mixture, changed where it must."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

from bench.images import BLOCK, MIB, mixed_image, random_image, scatter, touch

SIZE = 20 * MIB


def blocks(path: Path) -> np.ndarray:
    return np.fromfile(path, np.uint8).reshape(-1, BLOCK)


def packed(path: Path) -> int:
    done = subprocess.run(["zstd", "-1", "-c", path], capture_output=True, check=True)
    return len(done.stdout)


def test_the_same_seed_is_the_same_image(tmp_path: Path) -> None:
    one, two, other = (tmp_path / name for name in "abc")
    random_image(one, MIB)
    random_image(two, MIB)
    random_image(other, MIB, seed=2)
    assert one.read_bytes() == two.read_bytes() != other.read_bytes()


def test_a_random_image_cannot_be_compressed(tmp_path: Path) -> None:
    random_image(tmp_path / "a", 4 * MIB)
    assert packed(tmp_path / "a") >= 4 * MIB


def test_a_mixed_image_is_a_mixture(tmp_path: Path) -> None:
    mixed_image(tmp_path / "a", SIZE)
    content = np.fromfile(tmp_path / "a", np.uint8).reshape(-1, MIB)
    zero = ~content.any(axis=1)
    text = (content < 128).all(axis=1) & ~zero
    assert len(content) == 20
    assert zero.sum() == 8
    assert text.sum() == 6
    (tmp_path / "text").write_bytes(content[text].tobytes())
    packed = subprocess.run(
        ["zstd", "-1", "-c", tmp_path / "text"], capture_output=True, check=True
    )
    assert 2 < 6 * MIB / len(packed.stdout) < 6


def test_touched_is_zero_and_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * MIB)
    touch(path, 2 * MIB + BLOCK)
    assert path.read_bytes() == bytes(2 * MIB + BLOCK)
    assert path.stat().st_blocks * 512 >= 2 * MIB


def test_as_many_blocks_change_as_it_says(tmp_path: Path) -> None:
    path = tmp_path / "a"
    random_image(path, SIZE)
    before = blocks(path)
    changed = scatter(path, SIZE, 0.01, seed=3)
    assert changed == SIZE // BLOCK // 100 * BLOCK
    assert (before != blocks(path)).any(axis=1).sum() * BLOCK == changed
