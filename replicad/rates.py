"""How fast new dirt comes, and how fast it can be carried away. Pure: clocks are passed in.

What counts as written is not what the disk was told to write. A granule that is rewritten a
hundred times between two passes is sent once, so it is counted once: the *unique* granules of
the time that the shortest pass takes. Live migration of virtual machines measures the same (the
pages dirtied in a round, and the writable working set: Clark et al., "Live Migration of Virtual
Machines", NSDI 2005). A longer time would be no better: once the line is too slow passes grow
until everything that is written at all is dirty, and what is newly dirty in such a pass is
exactly what was sent in it. It would always look as if the line were just fast enough.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

HORIZON_SECONDS = 2.0
"""A granule that is written several times within this time counts once: the time between the
starts of two delta passes when nothing holds them up (``engine.session.DELTA_SECONDS``)."""

LONGEST_SECONDS = 5 * HORIZON_SECONDS
"""A period without a drain for so long says nothing about the shortest pass."""

WRITE_WINDOW_SECONDS = 16.0
"""Over which the write rate is averaged: three rounds of the kernel's writeback (5 s each)."""

LEAST_PERIODS = 2
"""One period alone may be a burst."""

SEND_WINDOW_SECONDS = 10.0
"""Of sending, over which its rate is averaged."""

LEAST_SECONDS = 1.0
LEAST_BYTES = 8 << 20
"""A stretch of sending says something about the rate when it lasted or carried so much: shorter
ones measure how long an answer takes."""

MOST_ZEROS = 0.25
"""Zeros travel as a few bytes; a stretch with more of them says nothing about other content."""

FOLD_WORDS = 1 << 20
"""Words of a bitmap that are kept before those of the same place are put together."""


class Unique:
    """The union of drained parts of one disk's bitmap, as large as what was written."""

    def __init__(self) -> None:
        self._places: list[NDArray[np.int64]] = []
        self._words: list[NDArray[np.uint64]] = []
        self._held = 0
        self._fold_at = FOLD_WORDS

    def add(self, first_word: int, words: NDArray[np.uint64]) -> None:
        """Bit i of words[w] is granule (first_word + w) * 64 + i."""
        places = np.flatnonzero(words)
        self._places.append(places + first_word)
        self._words.append(words[places])
        self._held += places.size
        if self._held > self._fold_at:
            self._fold()
            self._fold_at = max(FOLD_WORDS, 2 * self._held)

    def count(self) -> int:
        """Granules that were written at least once."""
        if not self._held:
            return 0
        self._fold()
        return int(np.bitwise_count(self._words[0]).sum())

    def _fold(self) -> None:
        places, words = np.concatenate(self._places), np.concatenate(self._words)
        order = np.argsort(places, kind="stable")
        places = places[order]
        starts = np.flatnonzero(np.diff(places, prepend=-1))
        self._places = [places[starts]]
        self._words = [np.bitwise_or.reduceat(words[order], starts)]
        self._held = starts.size


class _Period(NamedTuple):
    end: float
    seconds: float
    bytes: int


class WriteMeter:
    """Unique bytes written per second, over all disks of a job.

    Fed by whoever drains the tracker, in that thread; ``rate`` may be read in any.

    Attributes:
        rate: bytes per second; None before it is known.
    """

    def __init__(self) -> None:
        self.rate: float | None = None
        self._unique: dict[tuple[str, int], Unique] = {}
        self._begun: float | None = None
        self._periods: deque[_Period] = deque()

    def add(self, disk: str, granule: int, first_word: int, words: NDArray[np.uint64]) -> None:
        """A part of a drain; ``granule`` is in bytes."""
        self._unique.setdefault((disk, granule), Unique()).add(first_word, words)

    def drained(self, now: float) -> None:
        """A drain of all disks is complete, at ``now`` (monotonic seconds)."""
        if self._begun is None:
            # What the first drain brings may have gathered for hours.
            self._begin(now)
        elif now - self._begun >= HORIZON_SECONDS:
            self._end(now, now - self._begun)
            self._begin(now)

    def _begin(self, now: float) -> None:
        self._begun = now
        self._unique = {}

    def _end(self, now: float, seconds: float) -> None:
        if seconds > LONGEST_SECONDS:
            return
        fresh = sum(unique.count() * granule for (_, granule), unique in self._unique.items())
        periods = self._periods
        periods.append(_Period(now, seconds, fresh))
        while periods[0].end <= now - WRITE_WINDOW_SECONDS:
            periods.popleft()
        if len(periods) >= LEAST_PERIODS:
            self.rate = sum(p.bytes for p in periods) / sum(p.seconds for p in periods)


class Sent(NamedTuple):
    """What a transfer has carried so far. ``logical`` bytes were durably answered, ``zeros`` of
    them were zero; ``wire`` bytes were sent; ``compared`` batches only had their digests sent."""

    logical: int = 0
    zeros: int = 0
    wire: int = 0
    compared: int = 0

    def since(self, before: Sent) -> Sent:
        """The difference."""
        return Sent(*(now - then for now, then in zip(self, before, strict=True)))


class SendMeter:
    """Durable bytes of content per second while there is something to send, and what of them
    travels. It outlives transfers, so a new session begins with what the last one knew."""

    def __init__(self) -> None:
        # Never changed, only replaced: sender threads ask what the loop measures.
        self._stretches: tuple[tuple[float, Sent], ...] = ()
        self._at: float | None = None
        self._before = self._sweep = Sent()
        self._limit = 0
        self._mixed = False
        self._ratio = 1.0

    def begin(self, now: float, sent: Sent) -> None:
        """There is something to send, from ``now`` (monotonic seconds) on."""
        self._at, self._before, self._sweep = now, sent, sent
        self._mixed = False

    def sample(self, now: float, sent: Sent) -> None:
        """It still goes on: called now and then, so that a long pass is not a blind one."""
        if self._at is not None and (self._mixed or now - self._at >= LEAST_SECONDS):
            if not self._mixed:
                self._take(now - self._at, sent.since(self._before))
            self._at, self._before, self._mixed = now, sent, False

    def end(self, now: float, sent: Sent) -> None:
        """All of it has been answered, or the transfer has failed."""
        if self._at is not None:
            seconds, carried = now - self._at, sent.since(self._before)
            tells = seconds >= LEAST_SECONDS or carried.logical >= LEAST_BYTES
            if tells and not self._mixed:
                self._take(seconds, carried)
            # Only now is all that was sent answered, too.
            whole = sent.since(self._sweep)
            content = whole.logical - whole.zeros
            if _tells(whole) and content >= LEAST_BYTES:
                self._ratio = whole.wire / content
        self._at = None

    def _take(self, seconds: float, carried: Sent) -> None:
        if not _tells(carried):
            return
        stretches = (*self._stretches, (seconds, carried))
        while sum(s for s, _ in stretches[1:]) >= SEND_WINDOW_SECONDS:
            stretches = stretches[1:]
        self._stretches = stretches

    def set_limit(self, limit: int) -> None:
        """The bandwidth limit (bytes per second on the wire, 0: none). What was measured under a
        lower one says nothing about what is possible now."""
        if limit != self._limit:
            if self._limit and (limit > self._limit or not limit):
                self._stretches = ()
                self._mixed = True  # what has been sent since the last sample was sent under both
            self._limit = limit

    @property
    def wire_ratio(self) -> float:
        """Bytes on the wire for each byte of content: compression, and what frames cost."""
        return self._ratio

    @property
    def measured(self) -> float | None:
        """Bytes of content per second as measured; None before anything said so."""
        stretches = self._stretches
        seconds = sum(seconds for seconds, _ in stretches)
        content = sum(c.logical - c.zeros for _, c in stretches)
        return content / seconds if seconds > 0 else None

    @property
    def capacity(self) -> float | None:
        """Bytes of content per second that can be sent, at most what the limit allows; None
        when nobody can say."""
        measured = self.measured
        if not self._limit:
            return measured
        allowed = self._limit / self._ratio
        return allowed if measured is None else min(measured, allowed)


def _tells(carried: Sent) -> bool:
    """Whether it says something about content: no comparison, and not mostly zeros."""
    return not carried.compared and carried.zeros <= MOST_ZEROS * carried.logical
