"""What earlier jobs left on this machine: dirty maps, and tracking that nobody drains.

A job can end while no source runs, so what remains of it is looked for when the receiver has
said which job there is now.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from protocol.local import crash, log
from replicad.engine.kept import SUFFIX
from replicad.recovery import peek
from replicad.tracker import EbpfTracker, NoTracker

_log = log.get("job")


def remove_leftovers(
    directory: Path, tracker: EbpfTracker | NoTracker, job: str, disks: Sequence[str]
) -> None:
    """Remove the files of all jobs but ``job`` and stop tracking all disks but ``disks``.

    In a worker thread. ``job`` may be '' and ``disks`` empty: then all goes.
    """
    for pattern in ("*.map", "*.map.new", f"*{SUFFIX}", f"*{SUFFIX}.new"):
        for path in directory.glob(pattern):
            if job and path.name.startswith((f"{job}-", f"{job}.")):
                continue
            path.unlink(missing_ok=True)
            crash.here("leftover.removed")
            _log.info("leftover.removed", file=path.name)
    if not isinstance(tracker, EbpfTracker):
        return
    # A disk of the job may have another name today.
    tokens = {header.token for header in peek(directory, job)} if job else set()
    wanted = set(_numbers(disks))
    for tracked in tracker.tracked():
        if tracked.token not in tokens and (tracked.major, tracked.minor) not in wanted:
            tracker.untrack(tracked)
            _log.info("leftover.untracked", disk=tracked.path)


def _numbers(disks: Sequence[str]) -> list[tuple[int, int]]:
    found = []
    for path in disks:
        # A disk that is not there now has nothing that could be kept.
        with contextlib.suppress(OSError):
            device = os.stat(path).st_rdev
            found.append((os.major(device), os.minor(device)))
    return found
