"""Where a disk cannot be read now: a fact about the disk, not the end of a session.

The idea: what could not be read stays dirty in the map, so nothing can forget it, and is held back
here, so that passes do not run into it again and again: a sick disk takes seconds for each try.
It is tried again on its own, with growing pauses; what reads again is no longer held back, and
the next pass sends it. Until then every checkpoint is refused.

Ranges are bytes ``(offset, length)`` of whole granules (the last one may be cut short where the
disk ends), ascending and disjoint. Pure but for the lock: the caller brings the time.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from protocol.errors import SOURCE_DISK_READ, LocalFault
from protocol.local import log
from protocol.wire.jobs import ByteRange
from protocol.wire.limits import UNREADABLE_MAX

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Range = tuple[int, int]

FIRST_SECONDS = 5.0
"""Before what could not be read is tried again: a link that was reset, a path that failed over."""

MOST_SECONDS = 120.0
"""Between later tries, at most. Each may keep a sick disk busy for seconds."""

WRITTEN_SECONDS = 1.0
"""After a write there: a disk replaces a bad sector when it is written."""

LOOKED_AT = 64
"""Ranges in which writes are looked for at each drain."""

_WORD = 64

Tell = Callable[[str, Range, str], None]

_log = log.get("disk")


def logged(path: str) -> Tell:
    """Tells the log: once for each range, not once for each pass."""

    def tell(change: str, where: Range, reason: str) -> None:
        offset, length = where
        said = {"disk": path, "offset": offset, "end": offset + length, "because": reason}
        if change == "lost":
            _log.warning("disk.unreadable", code=SOURCE_DISK_READ.code, **said)
        else:
            _log.info("disk.readable", **said)

    return tell


def joined(ranges: Iterable[Range]) -> list[Range]:
    """Ascending and disjoint: what touches or overlaps is one range."""
    found: list[Range] = []
    for offset, length in sorted(ranges):
        if found and offset <= sum(found[-1]):
            start, before = found[-1]
            found[-1] = (start, max(before, offset + length - start))
        else:
            found.append((offset, length))
    return found


def without(ranges: Sequence[Range], apart: Sequence[Range]) -> list[Range]:
    """What remains of ``ranges``; both ascend and are disjoint."""
    left: list[Range] = []
    for offset, length in ranges:
        at, end = offset, offset + length
        for start, stop in _overlapping(apart, at, end):
            if at < start:
                left.append((at, start - at))
            at = max(at, stop)
        if at < end:
            left.append((at, end - at))
    return left


def common(ranges: Sequence[Range], others: Sequence[Range]) -> list[Range]:
    """What is in both; both ascend and are disjoint."""
    return [
        (max(offset, start), min(offset + length, stop) - max(offset, start))
        for offset, length in ranges
        for start, stop in _overlapping(others, offset, offset + length)
    ]


def _overlapping(ranges: Sequence[Range], low: int, high: int) -> Iterable[tuple[int, int]]:
    """(start, end) of those ranges that overlap [low, high)."""
    at = max(0, bisect_right(ranges, (low, 0)) - 1)
    while at < len(ranges) and ranges[at][0] < high:
        offset, length = ranges[at]
        if offset + length > low:
            yield offset, offset + length
        at += 1


class Unreadable:
    """The ranges of one disk that cannot be read. Thread-safe.

    Args:
        tell: called once for each range that becomes unreadable (``lost``) or readable
            (``found``), with the kernel's reason.

    Attributes:
        counted: how many ranges were found to be unreadable so far.
        passed_over: bytes that the present pass has left out.
    """

    def __init__(self, path: str, tell: Tell | None = None) -> None:
        self.counted = 0
        self.passed_over = 0
        self._path = path
        self._tell = tell or (lambda *_: None)
        self._lock = threading.Lock()
        self._ranges: tuple[Range, ...] = ()
        self._reason = ""
        self._first = 0
        self._wait = FIRST_SECONDS
        self._due = 0.0
        self._tried = 0.0

    def __bool__(self) -> bool:
        return bool(self._ranges)

    @property
    def ranges(self) -> tuple[Range, ...]:
        """All of them."""
        return self._ranges

    @property
    def bytes(self) -> int:
        """Their sum."""
        return sum(length for _, length in self._ranges)

    def named(self) -> tuple[ByteRange, ...]:
        """The first of them, as a report names them."""
        return tuple(
            ByteRange(offset=offset, length=length)
            for offset, length in self._ranges[:UNREADABLE_MAX]
        )

    def within(self, ranges: Sequence[Range]) -> list[Range]:
        """What of ``ranges`` is held back."""
        return common(ranges, self._ranges)

    def fault(self) -> LocalFault:
        """RPL-5004 for the first of them, which says how many more there are."""
        offset, length = self._ranges[0]
        more = len(self._ranges) - 1
        rest = f" (and in {more} more place{'s' if more > 1 else ''})" if more else ""
        return SOURCE_DISK_READ.fault(
            path=self._path, offset=offset, end=offset + length, detail=f"{self._reason}{rest}"
        )

    # --- what is learned ----------------------------------------------------------------------

    def add(self, offset: int, length: int, reason: str, now: float) -> None:
        """A granule could not be read. To be tried again before long."""
        with self._lock:
            if common([(offset, length)], self._ranges) == [(offset, length)]:
                return
            if not self._ranges:
                self._wait, self._due = FIRST_SECONDS, now + FIRST_SECONDS
            before = len(self._ranges)
            self._ranges = tuple(joined([*self._ranges, (offset, length)]))
            self._reason = reason
            fresh = len(self._ranges) > before
            self.counted += fresh
        if fresh:
            self._tell("lost", (offset, length), reason)

    def written(self, first_word: int, words: NDArray[np.uint64], granule: int) -> None:
        """Drained tracker words: a write where it cannot be read may have mended it."""
        for offset, length in self._ranges[:LOOKED_AT]:
            first, last = offset // granule, (offset + length - 1) // granule
            low = max(0, first // _WORD - first_word)
            high = min(words.size, last // _WORD - first_word + 1)
            for at in range(low, high):
                base = (first_word + at) * _WORD
                mask = (1 << min(_WORD, last + 1 - base)) - (1 << max(0, first - base))
                if int(words[at]) & mask:
                    with self._lock:
                        self._wait = FIRST_SECONDS
                        self._due = min(self._due, self._tried + WRITTEN_SECONDS)
                    return

    def pass_over(self, size: int) -> None:
        """So many bytes more are left out of the present pass."""
        with self._lock:
            self.passed_over += size

    # --- trying again -------------------------------------------------------------------------

    def hurry(self) -> None:
        """Somebody asks: try again now."""
        with self._lock:
            self._wait, self._due = FIRST_SECONDS, 0.0

    def is_due(self, now: float) -> bool:
        """Whether it is time to try again."""
        return bool(self._ranges) and now >= self._due

    def to_try(self) -> list[Range]:
        """All ranges, those first that the last try did not come to."""
        late = [each for each in self._ranges if each[0] >= self._first]
        return [*late, *(each for each in self._ranges if each[0] < self._first)]

    def tried(
        self,
        known: Iterable[Range],
        bad: Iterable[Range],
        untried: Iterable[Range],
        now: float,
    ) -> None:
        """What became of ``known``, which were tried: the rest of it can be read again."""
        known, untried = joined(known), joined(untried)
        with self._lock:
            still = joined([*bad, *untried])
            healed = without(known, still)
            self._ranges = tuple(joined([*without(self._ranges, known), *still]))
            self._first = untried[0][0] if untried else 0
            self._wait = FIRST_SECONDS if healed else min(2 * self._wait, MOST_SECONDS)
            self._due = now if healed else now + self._wait
            self._tried = now
        for each in healed:
            self._tell("found", each, self._reason)
