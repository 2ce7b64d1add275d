"""A disk, its tracker, a copy and a verification of it, small enough for hypothesis.

The dirty map and everything of :mod:`replicad.verification` are real. Writes take their time: one
is queued, lands later, and is marked when it has ended (and, on some disks, when it is queued), so
a read may see what no completion has told of yet. Methods named after a precaution are what the
mutants leave out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np

from replicad.dirtymap import Batch, DirtyMap, Header, Segments
from replicad.dirtymap.bitmap import Bitmap
from replicad.planner import Sweep as DataSweep
from replicad.verification import DiskFindings, Round, Sweep

GRANULE = 4096
GRANULES = 150
SIZE = GRANULES * GRANULE - 1000
HEADER = Header(job="job-1", disk="/dev/sim", size=SIZE, granule=GRANULE, boot="b", token="t")
ROTTEN = -1
BATCH = 16
"""Granules, at most: so that a round has several."""


def granules_of(segments: Segments) -> list[int]:
    return [g for first, count in segments for g in range(first, first + count)]


def bits_of(bits: Bitmap) -> set[int]:
    return {granule for granule in range(bits.granules) if bits[granule]}


def runs_of(granules: list[int]) -> Segments:
    runs: list[tuple[int, int]] = []
    for granule in granules:
        if runs and sum(runs[-1]) == granule:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((granule, 1))
    return tuple(runs)


@dataclass(eq=False)
class Write:
    """A write on its way."""

    granules: range
    version: int
    landed: bool = False


@dataclass(eq=False)
class Look:
    """A slice: batches with what the source read and what the receiver has."""

    kind: Round
    sweep: Sweep
    batches: list[tuple[Batch, dict[int, int], dict[int, int]]] = field(default_factory=list)


class World:
    """Attributes: ``marks_queued``: a write is marked when it is queued as well."""

    marks_queued = False

    def __init__(self, path: Path) -> None:
        self.map = DirtyMap.create(str(path), HEADER)
        self.map.update(seeded=True)
        self.disk = [1] * GRANULES
        self.copy = [1] * GRANULES
        self.tracked: set[int] = set()
        self.writes: list[Write] = []
        self.version = 1
        self.look: Look | None = None
        self.begin()

    def begin(self) -> None:
        """A new verification."""
        self.findings = DiskFindings("/dev/sim", SIZE, GRANULE)
        self.map.unwritten = self.findings.candidates
        self.stage: Round = "sweep"
        self.before = {g for g in range(GRANULES) if self.copy[g] == ROTTEN}
        self.marked: set[int] = set()
        self.awaited: list[Write] = []

    # --- the server ---------------------------------------------------------------------------

    def queue(self, first: int, count: int) -> None:
        self.version += 1
        write = Write(range(first, min(first + count, GRANULES)), self.version)
        self.writes.append(write)
        if self.marks_queued:
            self.tracked |= set(write.granules)

    def land(self, write: Write) -> None:
        write.landed = True
        for granule in write.granules:
            self.disk[granule] = write.version

    def end(self, write: Write) -> None:
        if not write.landed:
            self.land(write)
        self.writes.remove(write)
        self.tracked |= set(write.granules)

    def damage(self, granule: int) -> None:
        self.copy[granule] = ROTTEN

    # --- replication --------------------------------------------------------------------------

    def drain(self) -> None:
        words = np.zeros(-(-GRANULES // 64), dtype=np.uint64)
        for granule in self.tracked:
            words[granule // 64] |= np.uint64(1 << granule % 64)
        self.marked |= self.tracked
        self.map.mark(0, words, 0.0)
        self.tracked.clear()

    def send(self) -> None:
        """A whole pass. Never while a slice is under way: a session does one after the other."""
        assert self.look is None
        sweep = DataSweep(self.map, 0, "data")
        while batch := sweep.take():
            for granule in granules_of(batch.segments):
                self.copy[granule] = self.disk[granule]
                self.before.discard(granule)
            self.map.acked(batch)

    # --- verification -------------------------------------------------------------------------

    def start_look(self, at_most: int) -> None:
        where = self.findings.where(self.stage, self.map.settled)
        cursor = self.findings.cursors.get(self.stage, 0)
        with mock.patch("replicad.verification.BATCH_BYTES", BATCH * GRANULE):
            look = Look(self.stage, Sweep(0, GRANULES, GRANULE, where, cursor))
        while len(look.batches) < at_most and (batch := look.sweep.take()) is not None:
            held = {g: self.disk[g] for g in granules_of(batch.segments)}
            look.batches.append((batch, held, {}))
        self.look = look

    def read_again(self) -> None:
        """The source reads now, and not when the batch was taken."""
        assert self.look is not None
        for _, held, _ in self.look.batches:
            held.update((g, self.disk[g]) for g in held)

    def answer(self) -> None:
        """The receiver has hashed; what was written meanwhile is drained; it is judged."""
        look, self.look = self.look, None
        assert look is not None
        self.drain_before_judging()
        for batch, held, _ in look.batches:
            differing = runs_of([g for g in held if held[g] != self.copy[g]])
            if differing and look.kind in {"sweep", "recheck"}:
                self.awaited = list(self.writes)
            before = self.accused(look.kind)
            self.judge(look.kind, batch, differing)
            for granule in self.accused(look.kind) - before:
                assert self.copy[granule] == ROTTEN, f"a false alarm: granule {granule}"
        self.findings.cursors[look.kind] = look.sweep.cursor
        if look.sweep.cursor >= GRANULES:
            self.next_stage(look.kind)

    def accused(self, kind: Round) -> set[int]:
        """What is called damage, or damage that is left, once a round has seen it."""
        return bits_of(self.findings.open if kind == "certain" else self.findings.found)

    def drain_before_judging(self) -> None:
        self.drain()

    def judge(self, kind: Round, batch: Batch, differing: Segments) -> None:
        self.findings.judge(kind, batch, differing, self.map.settled, 0.0)

    def next_stage(self, kind: Round) -> None:
        if kind != "sweep":
            self.findings.ended(kind)
        if kind == "sweep":
            self.stage = "confirm"
        elif kind == "confirm":
            self.stage = "recheck"
            self.findings.begin_recheck(0.0)
        elif kind == "recheck":
            self.stage = "certain"
            self.findings.begin_certain(0.0)
        else:
            self.complete()
            self.begin()

    def complete(self) -> None:
        """The end of a verification: what was damaged before it and not written since, is found."""
        dirty = {granule for granule in self.before if any(self.map.state(granule))}
        missed = self.before - self.marked - dirty - bits_of(self.findings.found)
        assert not missed, f"damage that was not found: {sorted(missed)}"

    @property
    def calm(self) -> bool:
        """Whether every write that was on its way when something differed has ended."""
        return not any(write in self.awaited for write in self.writes)

    def check(self) -> None:
        """Promise 1, for what was not damaged behind its back."""
        under_way = {g for write in self.writes for g in write.granules}
        for granule in range(GRANULES):
            if any(self.map.state(granule)) or granule in self.tracked | under_way:
                continue
            assert self.copy[granule] in {self.disk[granule], ROTTEN}, granule
