"""The tracker: which granules of which disks were written, learned from the kernel.

Programs in the kernel mark; this process only fetches. Everything that matters is pinned in bpffs,
so marking goes on while no process runs, and the next one takes over. A drain

1. hands over what an interrupted predecessor left in the quiet bitmap of each disk,
2. makes the other bitmap active for all disks, waits once until no program marks the old ones
(quiet.py),
3. hands over each old one to the caller, who makes it durable, and only then clears it.

So being killed anywhere loses nothing: a bit is in the kernel until the caller has it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from protocol.local import crash
from replicad.tracker import disk as block
from replicad.tracker import load, pins
from replicad.tracker.disk import SECTOR
from replicad.tracker.errors import CannotTrack, TrackerUnavailable
from replicad.tracker.layout import FLAG_STACKED, HOOK_REQUEST, HOOKS
from replicad.tracker.libbpf import Libbpf, LibbpfError
from replicad.tracker.slots import SlotTable

REALTIME = Path("/sys/kernel/realtime")
CONSISTENT_READS = 3
"""Attempts to read two counters of which one may be ahead of the other for the length of an
interrupt.
"""

Sink = Callable[["TrackedDisk", int, NDArray[np.uint64]], None]
Handed = Callable[["TrackedDisk", int], None]


@dataclass(frozen=True)
class TrackedDisk:
    """A disk whose writes are being recorded."""

    path: str
    major: int
    minor: int
    size: int
    """Bytes."""
    granule: int
    """Bytes per bit."""
    token: str
    """Changes whenever recording began anew: tracker replaced, disk resized or exchanged, untracked
    meanwhile.
    """


@dataclass(frozen=True)
class DiskDrain:
    """What a drain says about one disk besides its bits."""

    misses: int
    """Writes since the token was minted that may not have been recorded; cumulative. An increase is
    a gap.
    """


class EbpfTracker:
    """Tracks whole disks with the programs in ``bpf/tracker.bpf.c``. Methods may be called from any
    thread.
    """

    name = "ebpf"

    def __init__(self, library: Libbpf, attached: load.Attached, pin_dir: Path) -> None:
        """Use open()."""
        self._library = library
        self._attached = attached
        self._pin_dir = pin_dir
        self._table = SlotTable(library, attached)
        self._lock = threading.Lock()
        self._paths: dict[str, str] = {}
        self._settled = False
        self._realtime = block.read_number(REALTIME) == 1

    @classmethod
    def open(cls, pin_dir: Path, runtime_dir: Path) -> EbpfTracker:
        """Takes over the pins in pin_dir, or loads, attaches and pins the programs.

        ``runtime_dir`` is recorded as the owner; when it is gone, collect_garbage() removes the
        pins. Raises TrackerUnavailable.
        """
        try:
            library = Libbpf()
        except LibbpfError as error:
            raise TrackerUnavailable(f"{error.strerror} {error.log}".strip()) from error
        attached = load.open_pins(library, pin_dir, runtime_dir)
        try:
            tracker = cls(library, attached, pin_dir)
            tracker._misses(bio_based=True)
            tracker._table.repair()
        except (LibbpfError, OSError) as error:
            pins.remove(pin_dir)  # programs that nobody can use shall not cost anything
            attached.close()
            raise TrackerUnavailable(f"the tracker's maps cannot be used: {error}") from error
        return tracker

    @property
    def adopted(self) -> bool:
        """Whether a predecessor's programs were taken over."""
        return self._attached.adopted

    def track(self, path: str) -> TrackedDisk:
        """Begins or continues recording the writes to a whole disk.

        A disk of which number, kind, size and medium are the same keeps its token and its bits;
        otherwise it begins anew. What was written before this returns is not recorded. Raises
        CannotTrack.
        """
        device = block.inspect(path)
        with self._lock:
            identity = self._table.find(device.major, device.minor)
            if identity is not None:
                slot = self._table.slots[identity]
                if (
                    slot.sectors * SECTOR != device.size
                    or slot.diskseq != device.diskseq
                    or bool(slot.flags & FLAG_STACKED) != device.bio_based
                    or slot.changed
                ):
                    self._table.give_back(identity)
                    identity = None
            if identity is None:
                self._prepare(device)
                identity = self._table.take(device, self._misses(device.bio_based))
            disk = self._describe(identity, path)
            self._paths[disk.token] = path
            return disk

    def untrack(self, disk: TrackedDisk) -> None:
        """Ends recording of a disk and frees its bitmaps; nothing happens if its token is no longer
        current.
        """
        with self._lock:
            identity = self._current(disk)
            if identity is not None:
                self._table.give_back(identity)
                self._paths.pop(disk.token, None)

    def tracked(self) -> list[TrackedDisk]:
        """Returns the disks whose writes are being recorded, those of a predecessor included."""
        with self._lock:
            return [self._describe(identity) for identity in self._table.used()]

    def drain(
        self, disks: Sequence[TrackedDisk], sink: Sink, handed: Handed | None = None
    ) -> dict[str, DiskDrain]:
        """Hands over what was written to the disks, all at one instant: every write that had ended
        before the call is in it, or in an earlier drain.

        ``sink(disk, first_word, words)``: bit i of words[w] is granule (first_word + w) * 64 + i.
        It is called only for parts that hold something, and may be given the same granule more than
        once. Bits leave the kernel after every call for that disk returned; if one raises, the
        exception comes out of here and this disk's bits, and those of the disks after it, come
        again with the next drain. Returns the misses by path.

        ``handed(disk, number)``: sink has been given all that one bitmap of a disk held, for the
        numberth time since the token was minted. Called before the kernel notes the number and
        forgets the bits, so a record with a smaller number than :meth:`handed` is one of before.

        Raises CannotTrack if a disk's token is not current. One caller at a time.
        """
        with self._lock:
            places = [(disk, self._require(disk)) for disk in disks]
            table = self._table
            if not self._settled:
                table.quiescence.wait()
                self._settled = True
            for disk, identity in places:
                self._hand_over(disk, identity, sink, handed)
            self._settled = False
            table.quiescence.order()  # the cleared words before the flip
            for _, identity in places:
                table.slots[identity].active ^= 1
            crash.here("drain.flipped")
            table.quiescence.wait()
            self._settled = True
            crash.here("drain.quiet")
            misses = {kind: self._misses(kind) for kind in (False, True)}
            counted = {disk.path: DiskDrain(self._misses_of(i, misses)) for disk, i in places}
            for disk, identity in places:
                self._hand_over(disk, identity, sink, handed)
            return counted

    def misses(self, disk: TrackedDisk) -> int:
        """Returns what a drain would count as missed for this disk, without taking any bits.

        Raises CannotTrack if its token is not current.
        """
        with self._lock:
            misses = {kind: self._misses(kind) for kind in (False, True)}
            return self._misses_of(self._require(disk), misses)

    def handed(self, disk: TrackedDisk) -> int:
        """Returns how often bits of this disk were handed over since its token was minted.

        Raises CannotTrack if its token is not current.
        """
        with self._lock:
            return int(self._table.slots[self._require(disk)].handed)

    def close(self) -> None:
        """Lets go; tracking goes on in the kernel."""
        self._table.close()
        self._attached.close()

    def destroy(self) -> None:
        """Ends tracking of all disks: detaches the programs, unpins, frees the memory."""
        pins.remove(self._pin_dir)
        self.close()

    def _hand_over(
        self, disk: TrackedDisk, identity: int, sink: Sink, handed: Handed | None
    ) -> None:
        slot = self._table.slots[identity]
        quiet = 1 - (slot.active & 1)

        def number() -> None:
            if handed is not None:
                handed(disk, slot.handed + 1)
            slot.handed += 1

        self._table.bitmaps(identity)[quiet].hand_over(
            lambda first, words: sink(disk, first, words), number
        )

    def _describe(self, identity: int, path: str | None = None) -> TrackedDisk:
        slot = self._table.slots[identity]
        major, minor = slot.dev >> 20, slot.dev & 0xFFFFF
        token = f"{self._attached.instance.hex()}-{slot.token:016x}"
        size = slot.sectors * SECTOR
        path = path or self._paths.get(token) or _device_path(major, minor)
        return TrackedDisk(path, major, minor, size, SECTOR << slot.shift, token)

    def _current(self, disk: TrackedDisk) -> int | None:
        identity = self._table.find(disk.major, disk.minor)
        return (
            identity
            if identity is not None and self._describe(identity).token == disk.token
            else None
        )

    def _require(self, disk: TrackedDisk) -> int:
        identity = self._current(disk)
        if identity is None:
            raise CannotTrack(f"{disk.path} is no longer tracked under this token")
        return identity

    def _prepare(self, device: block.BlockDevice) -> None:
        """Attaches what a bio-based disk needs besides."""
        if not device.bio_based:
            return
        try:
            self._attached.for_bio_based_disks(self._library)
        except LibbpfError as error:
            raise CannotTrack(f"{device.path}: {load.explain(error)}") from error

    def _misses(self, bio_based: bool) -> int:
        """Returns how many events that matter to such disks, of whatever disk, went unhandled since
        the programs were attached.

        A request-based disk has what it needs from the completion of its requests.
        """
        if not bio_based:
            return self._missed_by(HOOK_REQUEST)
        state = self._table.state
        total = int(state.insert_failures) + int(state.long_requests)
        return total + sum(self._missed_by(hook) for hook in range(HOOKS))

    def _missed_by(self, hook: int) -> int:
        """Events on which both programs of a hook were skipped.

        The understudy's count is read first: between the two reads it can only fall behind, so that
        each reading is what was missed until then, or more; the smallest of a few is taken.
        """
        readings = []
        for _ in range(CONSISTENT_READS):
            rescued = int(self._table.state.rescued[hook])
            skipped = self._library.recursion_misses(self._attached.programs[hook])
            impossible = rescued > skipped  # the understudy runs first, or half an event migrated
            readings.append(skipped if impossible or self._realtime else skipped - rescued)
            if not readings[-1]:
                break
        return min(readings)

    def _misses_of(self, identity: int, missed: Mapping[bool, int]) -> int:
        """``missed``: what _misses() says of request-based and of bio-based disks."""
        slot = self._table.slots[identity]
        now = block.size_and_sequence(slot.dev >> 20, slot.dev & 0xFFFFF)
        if now != (slot.sectors * SECTOR, slot.diskseq):
            slot.changed = 1  # stays a gap until track() begins anew
        own = int(slot.passthrough) + int(slot.lost) + int(slot.unmatched) + int(slot.changed)
        return missed[bool(slot.flags & FLAG_STACKED)] - int(slot.misses_before) + own


def _device_path(major: int, minor: int) -> str:
    try:
        return f"/dev/{os.path.basename(os.readlink(block.SYS_DEV_BLOCK / f'{major}:{minor}'))}"
    except OSError:
        return f"/dev/block/{major}:{minor}"
