"""The tracker by itself, without a daemon: one disk, tracked for as long as a block runs."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from replicad.tracker import EbpfTracker, TrackedDisk, pin_directory


@contextlib.contextmanager
def tracking(directory: Path, device: str) -> Iterator[Callable[[], int]]:
    """Track a disk; yields a drain that returns how many granules were marked.

    At the end programs, maps and pins are gone.
    """
    runtime = Path(tempfile.mkdtemp(prefix="tracker-", dir=directory))
    tracker = EbpfTracker.open(pin_directory(runtime), runtime)
    try:
        disk = tracker.track(device)

        def drain() -> int:
            found = 0

            def sink(_: TrackedDisk, __: int, words: NDArray[np.uint64]) -> None:
                nonlocal found
                found += int(np.bitwise_count(words).sum())

            missed = tracker.drain([disk], sink)[device].misses
            assert missed == 0, f"{missed} writes were missed"
            return found

        yield drain
    finally:
        tracker.destroy()
        runtime.rmdir()
