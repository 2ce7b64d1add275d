"""One slice of a verification: what is taken of the disks in one go, and the answers to it.

Taken by sender threads (under the feed's lock), answered on the loop; nothing of it counts before
all of it has been answered and the tracker drained, which is :mod:`replicad.engine.verify`'s part.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from replicad.comparison import differing_granules
from replicad.dirtymap import Batch, Segments
from replicad.feed import Work
from replicad.jobdisk import JobDisk
from replicad.verification import DiskFindings, Sweep


@dataclass(slots=True, eq=False)
class Slice:
    """At most ``budget`` bytes of disk, fewer when something else is wanted.

    Attributes:
        taken: bytes so far. ``answers``: which granules of each batch differ.
        sweeps: where each disk's sweep has come to.
    """

    budget: int
    wanted_else: Callable[[], bool]
    left: deque[tuple[JobDisk, DiskFindings, Sweep]] = field(default_factory=deque)
    answers: list[tuple[JobDisk, DiskFindings, Batch, Segments]] = field(default_factory=list)
    sweeps: list[tuple[DiskFindings, Sweep]] = field(default_factory=list)
    taken: int = 0

    def add(self, disk: JobDisk, findings: DiskFindings, sweep: Sweep) -> None:
        """A disk takes part."""
        self.left.append((disk, findings, sweep))
        self.sweeps.append((findings, sweep))

    def refill(self) -> Sequence[Work]:
        """What sender threads are driven with: of each disk in turn."""
        while self.left and self.taken < self.budget and not self.wanted_else():
            disk, findings, sweep = self.left[0]
            batch = sweep.take()
            if batch is None:
                self.left.popleft()
                continue
            self.left.rotate(-1)
            ranges = batch.ranges(disk.granule, disk.size)
            work = Work(disk, batch, "coarse", ranges)

            def answered(
                work: Work, found: Sequence[tuple[int, int]], to: DiskFindings = findings
            ) -> None:
                runs = differing_granules(work.batch, found, work.disk.granule) if found else ()
                self.answers.append((work.disk, to, work.batch, runs))

            work.verdict = answered
            self.taken += work.size
            return [work]
        return ()
