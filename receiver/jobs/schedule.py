"""When something is due: the next sync, the start of a job, its end.

The idea: syncs lie on a grid anchored at the first one, so that a slow sync or a receiver
that was off does not shift all later ones; what was missed meanwhile is made up for once.
All instants are Unix seconds and passed in.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protocol.wire.jobs import JobState


def next_sync(anchor: float, every: float, now: float) -> float:
    """The first instant ``anchor + k * every`` (k > 0, a whole number) that is after ``now``.

    ``anchor`` is when the last sync was due. If several were missed, that last due time has
    passed, the sync runs once now, and this gives the following point of the grid.
    """
    if every <= 0:
        raise ValueError(f"every must be above 0, not {every}")
    steps = max(1, math.floor((now - anchor) / every) + 1)
    due = anchor + steps * every
    # The division may round up to the point that has just been reached.
    return due if due > now else due + every


def is_due(when: float | None, now: float) -> bool:
    """Whether a planned instant has come; None is never."""
    return when is not None and now >= when


EXPIRING: frozenset[JobState] = frozenset(
    {"ready", "preparing", "syncing", "waiting", "paused", "error"}
)
"""States from which a job expires. A checkpoint or image that is being made is finished first."""


def has_expired(state: JobState, valid_until: float | None, now: float) -> bool:
    """Whether the job must become ``expired`` now."""
    return state in EXPIRING and is_due(valid_until, now)
