"""Fixtures of the receiver's tests."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import loops


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[Callable[[int], str]]:
    """Makes loop devices of a size in bytes; they are gone after the test."""
    count = itertools.count()
    with contextlib.ExitStack() as stack:

        def make(size: int) -> str:
            return stack.enter_context(loops.loop_device(tmp_path / f"loop{next(count)}", size))

        yield make
