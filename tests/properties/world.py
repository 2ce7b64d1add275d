"""A simulated source disk, tracker, network and receiver around the real map, planner and window.

Small on purpose: 70 granules of two halves (a read may be torn between them), three connections.
The methods named after promises are what the mutation test replaces by wrong ones.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from replicad.dirtymap import Batch, DirtyMap, Header
from replicad.dirtymap.bitmap import Bitmap, Words, range_mask
from replicad.inflight import InFlight, Window
from replicad.planner import BatchLimits, Sweep, take_everything

GRANULE = 4096
GRANULES = 70
SIZE = GRANULES * GRANULE - 1000
HEADER = Header(job="job-1", disk="/dev/sim", size=SIZE, granule=GRANULE, boot="boot", token="t")
DATA = BatchLimits(batch_bytes=4 * GRANULE, segments=3)
COMPARE = BatchLimits(batch_bytes=16 * GRANULE, segments=2)

SWAP = range(60, 66)

Content = tuple[int, int]
Contents = dict[int, Content]


class Killed(BaseException):
    """The process is gone. Not an Exception: nothing may handle it."""


@dataclass(eq=False)
class Frame:
    sequence: int
    batch: Batch
    contents: Contents
    differing: list[int] = field(default_factory=list)


@dataclass(eq=False)
class Line:
    """One connection: frames on their way, frames written but not acknowledged, acks."""

    number: int
    sequence: int = 0
    frames: deque[Frame] = field(default_factory=deque)
    written: deque[Frame] = field(default_factory=deque)
    acks: deque[list[Frame]] = field(default_factory=deque)
    cut: bool = False


class Receiver:
    """Holds a disk; a write is in its cache until synced, and a crash may lose any of those."""

    def __init__(self, contents: list[Content]) -> None:
        self.stable = list(contents)
        self.cache: Contents = {}

    def visible(self, granule: int) -> Content:
        return self.cache.get(granule, self.stable[granule])

    def take_in(self, frame: Frame) -> None:
        if frame.batch.kind == "data":
            self.cache.update(frame.contents)
            return
        frame.differing = [g for g, c in frame.contents.items() if self.visible(g) != c]

    def sync(self) -> None:
        for granule, content in self.cache.items():
            self.stable[granule] = content
        self.cache.clear()

    def crash(self, chance: random.Random) -> None:
        for granule, new in self.cache.items():
            old = self.stable[granule]
            self.stable[granule] = (
                chance.choice((old[0], new[0])),
                chance.choice((old[1], new[1])),
            )
        self.cache.clear()


def covered(batch: Batch) -> list[int]:
    return [g for first, count in batch.segments for g in range(first, first + count)]


def runs(granules: list[int]) -> tuple[tuple[int, int], ...]:
    """Each granule as a run of its own is enough for the map."""
    return tuple((g, 1) for g in sorted(granules))


def bits_of(bitmap: Bitmap) -> list[int]:
    used = bitmap.words[: -(-GRANULES // 64)].view(np.uint8)
    bits: list[int] = np.unpackbits(used, bitorder="little")[:GRANULES].tolist()
    return bits


class KillSwitch:
    """Counts stores to the bitmaps; when armed, the process dies at one, half done."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.chance = random.Random(0)

    def store(self, bitmap: Bitmap, before: Words) -> None:
        """Called after a store; ``before`` is what the words were."""
        if (before == bitmap.words).all() or self.left is None:
            return
        if self.left > 0:
            self.left -= 1
            return
        undone = np.array([self.chance.random() < 0.5 for _ in range(bitmap.words.size)])
        bitmap.words[undone] = before[undone]
        self.left = None
        raise Killed


def watch_stores(bitmap: Bitmap, switch: KillSwitch) -> None:
    """Lets ``switch`` see every store that this bitmap makes."""
    for name in ("set", "clear", "zero"):
        original = getattr(bitmap, name)

        def stored(*arguments: object, _original: object = original) -> object:
            if switch.left is None:
                return _original(*arguments)  # type: ignore[operator]
            before = bitmap.words.copy()
            result = _original(*arguments)  # type: ignore[operator]
            switch.store(bitmap, before)
            return result

        setattr(bitmap, name, stored)


class World:
    map_class: type[DirtyMap] = DirtyMap

    def __init__(self, path: Path, dirty: set[int], suspect: set[int]) -> None:
        self.path = str(path)
        self.version = 1
        self.disk: list[Content] = [(1, 1)] * GRANULES
        self.tracked: set[int] = set()
        self.unused: set[int] = set()  # and not written since it was last of use
        self.swapping = False
        lacking = dirty | {granule for granule in suspect if granule % 2}
        self.receiver = Receiver([(0, 0) if g in lacking else (1, 1) for g in range(GRANULES)])
        self.switch = KillSwitch()
        self.dirtied = len(dirty)
        self.sent = 0
        made = self.map_class.create(self.path, HEADER)
        for granule in dirty:
            made.mark_range(granule, 1, 0.0)
        for granule in suspect:
            made.suspect_range(granule, 1)
        made.update(seeded=True)
        made.close()
        self.start_source()

    # --- the source process -------------------------------------------------------------------

    def start_source(self) -> None:
        self.map = self.map_class.open(self.path, HEADER, 0.0)
        self.bitmaps = self.map._file.bitmaps
        for bitmap in self.bitmaps:
            watch_stores(bitmap, self.switch)
        self.window = InFlight(Window(batches=50, bytes=1 << 30))
        self.sweeps: dict[str, Sweep] = {}
        self.reading: list[tuple[Batch, dict[int, int]]] = []
        self.lines = {n: Line(n) for n in range(3)}
        self.next_line = 3

    def stop_source(self) -> None:
        """kill -9, and the next session's fence: what was on the way is dropped."""
        self.switch.left = None
        self.dirtied += sum(bits_of(self.bitmaps[2]))
        self.map.close()
        self.start_source()

    def write(self, first: int, count: int, half: int | None = None) -> None:
        self.version += 1
        for granule in range(first, min(first + count, GRANULES)):
            old = self.disk[granule]
            new = (self.version, self.version)
            if half is not None:
                new = (self.version, old[1]) if half == 0 else (old[0], self.version)
            self.disk[granule] = new
            self.tracked.add(granule)
            if not (self.swapping and granule in SWAP):
                self.unused.discard(granule)

    def drain(self) -> None:
        words = np.zeros(-(-GRANULES // 64), dtype=np.uint64)
        for granule in self.tracked:
            words[granule // 64] |= np.uint64(1 << granule % 64)
        self.dirtied += len(self.tracked)
        if self.swapping:
            place, mask = range_mask(SWAP.start, len(SWAP))
            self.map.written_in_vain(place.start, words[place] & mask)
            words[place] &= ~mask
        self.map.mark(0, words, 0.0)
        self.tracked.clear()

    def free(self, first: int, count: int) -> None:
        """Files are deleted."""
        self.unused.update(range(first, min(first + count, GRANULES)))

    def swap(self) -> None:
        """Swapping begins or ends."""
        self.swapping = not self.swapping
        if self.swapping:
            self.unused.update(SWAP)

    def leave_out(self, first: int, count: int) -> None:
        """What is of no use is asked for and left out; meanwhile some of it is written."""
        asked = sorted(self.unused)
        self.write(first, count)
        self.meanwhile()
        for granule in asked:
            self.map.leave_out(granule, 1)

    def meanwhile(self) -> None:
        """Between the question and its consequence nothing is drained."""

    def bring_back(self) -> None:
        self.dirtied += sum(bits_of(self.bitmaps[3]))
        self.map.bring_back(0.0)

    def take(self, kind: str, at_most: int) -> None:
        sweep = self.sweeps.get(kind)
        if sweep is None or sweep.done:
            limits = DATA if kind == "data" else COMPARE
            sweep = self.sweeps[kind] = Sweep(self.map, 0, kind, limits)  # type: ignore[arg-type]
        for batch in sweep.take_many(at_most):
            self.taken(batch)

    def taken(self, batch: Batch) -> None:
        if batch.kind == "data":
            self.sent += batch.granules
        self.reading.append((batch, {g: self.disk[g][0] for g in covered(batch)}))

    def reread(self, which: int) -> None:
        """The first halves are read now, not when the batch was taken."""
        batch, _ = self.reading[which]
        self.reading[which] = (batch, {g: self.disk[g][0] for g in covered(batch)})

    def send(self, which: int, line: Line) -> None:
        batch, halves = self.reading.pop(which)
        contents = {g: (first, self.disk[g][1]) for g, first in halves.items()}
        line.sequence += 1
        assert self.window.reserve(1, GRANULE, 0)
        self.window.add(line.number, line.sequence, batch, GRANULE, GRANULE, 0.0)
        line.frames.append(Frame(line.sequence, batch, contents))

    # --- the network and the receiver ---------------------------------------------------------

    def deliver(self, line: Line) -> None:
        frame = line.frames.popleft()
        self.receiver.take_in(frame)
        line.written.append(frame)

    def acknowledge(self, line: Line) -> None:
        """Promise 2: sync, then speak."""
        self.receiver.sync()
        self.speak(line)

    def speak(self, line: Line) -> None:
        if line.written:
            line.acks.append(list(line.written))
            line.written.clear()

    def hear(self, line: Line) -> None:
        frames = {frame.sequence: frame for frame in line.acks.popleft()}
        released = self.window.acked(line.number, max(frames))
        assert list(released) == [frame.batch for frame in frames.values()]
        for frame in frames.values():
            if frame.batch.kind == "data":
                self.map.acked(frame.batch)
            else:
                self.dirtied += len(frame.differing)
                self.map.compared(frame.batch, runs(frame.differing), 0.0)

    def cut(self, line: Line) -> None:
        """The source sees a broken connection; the receiver may still hold frames of it."""
        line.cut = True
        line.acks.clear()

    def fence(self, line: Line) -> None:
        """The receiver drops what is left of a connection; only now is it lost."""
        line.frames.clear()
        self.report_lost(line)
        del self.lines[line.number]
        self.lines[self.next_line] = Line(self.next_line)
        self.next_line += 1

    def report_lost(self, line: Line) -> None:
        for batch in self.window.lost(line.number):
            self.dirtied += batch.granules
            self.map.lost(batch)

    def crash_receiver(self, chance: random.Random) -> None:
        self.receiver.crash(chance)
        for line in list(self.lines.values()):
            self.cut(line)
            self.fence(line)

    # --- the end of things --------------------------------------------------------------------

    def settle(self, chance: random.Random) -> None:
        """Everything that was taken arrives and is acknowledged, in some order."""
        for line in list(self.lines.values()):
            if line.cut:
                self.fence(line)
        while self.reading:
            self.send(0, chance.choice(list(self.lines.values())))
        while busy := [line for line in self.lines.values() if line.frames]:
            self.deliver(chance.choice(busy))
        for line in list(self.lines.values()):
            self.acknowledge(line)
            while line.acks:
                self.hear(line)

    def checkpoint(self, chance: random.Random) -> None:
        self.settle(chance)
        for _ in range(2 * GRANULES):
            if not self.map.suspect_granules:
                break
            self.take("data", 100)
            self.take("compare", 100)
            self.settle(chance)
        frozen = list(self.disk)
        self.drain()
        for batch in take_everything(self.map, 0, DATA):
            self.taken(batch)
        self.settle(chance)
        assert self.map.clean
        left = bits_of(self.bitmaps[3])
        wrong = [g for g in range(GRANULES) if self.receiver.stable[g] != frozen[g] and not left[g]]
        assert not wrong, "the checkpoint is not the frozen disk"

    # --- what must always hold ----------------------------------------------------------------

    def check(self) -> None:
        dirty, suspect, flying, left = (bits_of(b) for b in self.bitmaps)
        for granule in range(GRANULES):
            if dirty[granule] or suspect[granule] or flying[granule] or granule in self.tracked:
                continue
            if left[granule]:
                assert granule in self.unused, f"promise 1: granule {granule} is left out but used"
                continue
            held, real = self.receiver.stable[granule], self.disk[granule]
            assert held == real, f"promise 1: granule {granule} is clean but {held} != {real}"
        counts = (self.map.dirty_granules, self.map.suspect_granules, self.map.flying_granules)
        assert counts == (sum(dirty), sum(suspect), sum(flying)), "a count is wrong"
        self.check_alone()
        assert self.sent <= self.dirtied, "more was sent than was ever dirty"

    def check_alone(self) -> None:
        """Promise 3: no granule is in two unanswered frames, wherever they are."""
        batches = [frame.batch for line in self.lines.values() for frame in line.frames]
        batches += [batch for batch, _ in self.reading]
        seen = [granule for batch in batches for granule in covered(batch)]
        assert len(seen) == len(set(seen)), "promise 3: a granule is on its way twice"
