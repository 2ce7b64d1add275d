"""How long written data waits for others before all of it is brought to stable storage. Pure.

A sync of a fast disk takes less than a millisecond, one of a hard disk with other users a fifth of
a second. Waiting for a group longer than the sync takes makes the source wait for answers that it
could have; waiting less makes a slow disk do nothing but sync. So a group may form for a few times
as long as syncs have taken lately, and syncing takes a bounded share of the time. (A database that
groups its commits asks the same question: PostgreSQL's ``commit_delay``.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

FIRST_SECONDS: Final = 0.05
"""Before a sync has been seen."""

LEAST_SECONDS: Final = 0.03
MOST_SECONDS: Final = 0.4
"""The source's window is answered in time even where the disk is slow: 64 MiB at 100 MB/s."""

TIMES: Final = 4.0
"""A group forms this many times as long as a sync takes: then a fifth of the time goes to syncs."""

WEIGHT: Final = 0.2
"""Of the newest sync in what they take lately: one that is late changes little, five do."""


class Groups:
    """Of all sessions of a receiver, which have one processor and often one storage to sync to.

    Attributes:
        forming: sessions of which a group forms now.
        fixed: seconds for which each forms, whatever is measured; 0 for none.
    """

    def __init__(self, fixed: float = 0.0) -> None:
        self.forming = 0
        self.fixed = fixed


class Grouping:
    """Of one session.

    Args:
        groups: those of all sessions, its own among them.

    Attributes:
        sync_seconds: what a sync has taken lately; 0 before the first.
    """

    def __init__(self, groups: Groups | None = None) -> None:
        self.sync_seconds = 0.0
        self._alone = FIRST_SECONDS
        self._groups = groups or Groups()

    @property
    def seconds(self) -> float:
        """How long a group may form now: the longer, the more sessions there are to be synced, so
        that syncing all of them takes no larger part of the time than syncing one, as far as
        MOST_SECONDS lets it. Where they have different storages, some wait longer than need be."""
        measured = min(MOST_SECONDS, self._alone * max(1, self._groups.forming))
        return self._groups.fixed or measured

    @contextlib.contextmanager
    def forming(self) -> Iterator[None]:
        """A group forms, within the block."""
        self._groups.forming += 1
        try:
            yield
        finally:
            self._groups.forming -= 1

    def synced(self, took: float) -> None:
        """A sync has taken so many seconds."""
        before = self.sync_seconds or took
        self.sync_seconds = before + WEIGHT * (took - before)
        self._alone = min(MOST_SECONDS, max(LEAST_SECONDS, TIMES * self.sync_seconds))
