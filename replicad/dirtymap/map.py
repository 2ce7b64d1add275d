"""The dirty map: which granules of a disk the receiver does not yet durably hold.

Four bits per granule, in a file in ``/run`` that outlives the process but not the boot:

    D  dirty     must be sent
    S  suspect   not known to be equal: must be compared, or sent
    F  in flight taken, and no durable answer yet
    L  left out  nothing of use has been written to it since it was last of no use
                 (:mod:`replicad.unused`); means something only where the others are zero

A granule is *clean* when all are zero; nothing else is clean (promise 1).

The argument for kill -9 at any instruction. Memory of a mapped file keeps every store that the
process made, in order. Recovery does ``D |= F & ~S``, then ``F = 0``. So it is enough that at
every moment between two stores, and for every granule whose content the receiver may lack, one
of them is set. Each change orders its stores so (words are stored one by one, and the
argument is per granule, so it does not matter how much of a vector operation was done)::

    take data       F=1, D=0      D or F throughout; S is left as it is
    take compare    F=1           S stays, so nothing is lost even without F
    data durable    F=0, S=0      the receiver holds it: any bit may go in any order, because D
                                  was cleared before the read and is set by writes after it
    equal           F=0, S=0      likewise
    differs         D=1, F=0, S=0 D before the others go
    data lost       D=1, F=0      D or F throughout
    set apart       D=1, F=0, S=0 likewise; it was not sent, and "must be sent" says more than S
    compare lost    F=0           S stays
    mark            D=1, L=0      at any time, also for granules in flight
    suspect         S=1, L=0      at any time
    leave out       L=1, D=0, S=0 not what is in flight: what becomes of that is another's

``F & ~S`` rather than ``F``: a suspect granule needs no help from F, and a comparison that was
under way when the process died is made again instead of being sent whole.

Nothing that overlaps F may be taken (promise 3). A batch must be reported lost only after the
receiver has fenced off the connection that carried it: until then the old copy may still be
written, and a granule taken again could be overtaken by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from protocol.local import crash
from replicad.dirtymap.age import Age
from replicad.dirtymap.bitmap import (
    PAGE_WORDS,
    WORD_BITS,
    Bitmap,
    Words,
    count_bits,
    range_pieces,
    segments_mask,
)
from replicad.dirtymap.counts import Counts
from replicad.dirtymap.header import Header, distrust
from replicad.dirtymap.search import Found, compress, search, spread
from replicad.dirtymap.store import MapFile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from replicad.dirtymap.batch import Batch, Kind, Segments

COMPARE_BLOCK = 64 << 10
"""Bytes of the blocks that are compared first: digests of 64 KiB cost 16 bytes, 1 in 4,096."""


class NotInFlightError(ValueError):
    """A batch was answered that this map did not take, or that was answered already."""


class DirtyMap(Counts):
    """One disk's map. Every method is thread-safe; the lock is held for microseconds.

    ``now`` is seconds of any clock that only goes forward and survives a restart of the daemon
    (CLOCK_BOOTTIME); it is used for :attr:`oldest` alone.

    Attributes:
        unwritten: loses the bits of what the tracker marks: so a verification knows what was not
            written since it set them. In memory only.
    """

    def __init__(self, file: MapFile) -> None:
        super().__init__(file)
        self._outstanding: set[Batch] = set()
        self._age = Age()
        self.unwritten: Bitmap | None = None

    # --- life ---------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: str, header: Header) -> DirtyMap:
        """A new, empty, unseeded map in place of whatever is at ``path``.

        Mark or suspect what must be, then ``update(seeded=True)``. Raises OSError, and
        LocalFault (runtime directory full) where the file could not grow to its full size.
        """
        return cls(MapFile.create(path, header))

    @classmethod
    def open(cls, path: str, present: Header, now: float) -> DirtyMap:
        """The map that an earlier process left, recovered; see the module's argument.

        ``present`` describes what the caller works on now. Raises :class:`MapRefusedError` with the
        reason if there is no map, it is damaged, unseeded or of something else.
        """
        file = MapFile.open(path, lambda found: distrust(found, present))
        found = cls(file)
        found._recover(now)
        return found

    def _recover(self, now: float) -> None:
        """What was in flight is dirty, or still suspect. Idempotent, so it may be killed too."""
        for page in np.flatnonzero(self._flying.pages).tolist():
            place = slice(page * PAGE_WORDS, (page + 1) * PAGE_WORDS)
            flying = self._flying.read(place) & ~self._suspect.read(place)
            self._dirty.set(place, flying)
        crash.here("map.recovering")
        self._flying.zero()
        for page in np.flatnonzero(self._left.pages).tolist():
            place = slice(page * PAGE_WORDS, (page + 1) * PAGE_WORDS)
            self._left.clear(place, self._dirty.read(place) | self._suspect.read(place))
        if self._dirty.count:
            self._age.marked(now)

    def close(self) -> None:
        """Unmaps the file, which stays. Batches that are out are recovered by the next open."""
        with self.lock:
            self.vouch()
            self._file.close()

    @property
    def header(self) -> Header:
        """Whose map this is; change it with :meth:`update`."""
        return self._file.header

    def update(self, **changes: object) -> Header:
        """Changes fields of the header, crash-safely; returns the new header."""
        with self.lock:
            return self._file.update(**changes)

    # --- what is known ------------------------------------------------------------------------

    @property
    def oldest(self) -> float | None:
        """When the oldest dirt was marked, at the earliest; None if nothing is dirty."""
        return self._age.oldest

    def state(self, granule: int) -> tuple[bool, bool, bool]:
        """Dirty, suspect and in flight of one granule."""
        with self.lock:
            return self._dirty[granule], self._suspect[granule], self._flying[granule]

    def pass_began(self) -> None:
        """A sweep from granule 0 begins; used for :attr:`oldest` only."""
        with self.lock:
            self._age.pass_began()

    def pass_ended(self, *, complete: bool) -> None:
        """``complete``: all that was dirty when the pass began is acknowledged."""
        with self.lock:
            self._age.pass_ended(complete=complete)

    # --- what is learned ----------------------------------------------------------------------

    def mark(self, first_word: int, words: Words, now: float) -> int:
        """Merges drained tracker words; returns how many granules became dirty.

        Bits beyond the last granule (a tracker rounds up) are dropped: the disk has no such
        bytes, and a disk that has grown is another case (its size is checked by the reader).
        """
        end = min(first_word + words.size, -(-self.granules // WORD_BITS))
        words = words[: max(0, end - first_word)]
        place, mask = compress(first_word, words, self.granules)
        if not mask.size:
            return 0
        with self.lock:
            self._age.marked(now)
            if self.unwritten is not None:
                self.unwritten.clear(place, mask)
            new = self._dirty.set(place, mask)
            self._left.clear(place, mask)
            return new

    def mark_range(self, first: int, count: int, now: float) -> int:
        """Marks granules dirty, e.g. everything allocated before a full pass."""
        self._check_range(first, count)
        with self.lock:
            self._age.marked(now)
            return self._dirty.fill(first, count)

    def suspect_range(self, first: int, count: int) -> int:
        """Makes granules suspect: the next pass must compare them (promise 4).

        Those in flight become dirty too: what is under way may have been read before the write
        that went unnoticed, and its answer, which ends the suspicion, must not end the need.
        """
        self._check_range(first, count)
        with self.lock:
            self._mark_flying(first, count)
            new = self._suspect.fill(first, count)
            for place, mask in range_pieces(first, count):
                self._left.clear(place, mask)
            return new

    def _mark_flying(self, first: int, count: int) -> None:
        """Makes dirty what is in flight of a range."""
        for place, mask in range_pieces(first, count):
            where, flying = compress(place.start, self._flying.read(place) & mask, self.granules)
            if flying.size:
                self._dirty.set(where, flying)

    def leave_out(self, first: int, count: int) -> int:
        """Granules that are of no use need neither be sent nor compared; returns how many were to
        be. What is in flight stays as it is.

        The caller has found them to be of no use *since* it last marked what was written: a write
        that is marked between that finding and this call would be lost.
        """
        self._check_range(first, count)
        gone = 0
        with self.lock:
            for place, mask in range_pieces(first, count):
                lacking = (self._dirty.read(place) | self._suspect.read(place)) & mask
                lacking &= ~self._flying.read(place)
                where, bits = compress(place.start, lacking, self.granules)
                if bits.size:
                    gone += count_bits(bits)
                    self._left.set(where, bits)
                    self._dirty.clear(where, bits)
                    self._suspect.clear(where, bits)
            if not self._dirty.count and not self._flying.count:
                self._age.emptied()
        return gone

    def written_in_vain(self, first_word: int, words: Words) -> None:
        """Merges drained tracker words of what is of no use: nothing need be sent, and what the
        receiver holds is not what the disk holds."""
        place, mask = compress(first_word, words, self.granules)
        if mask.size:
            with self.lock:
                if self.unwritten is not None:
                    self.unwritten.clear(place, mask)
                self._left.set(place, mask)

    def bring_back(self, now: float) -> None:
        """What was left out is wanted after all."""
        with self.lock:
            for page in np.flatnonzero(self._left.pages).tolist():
                place = slice(page * PAGE_WORDS, (page + 1) * PAGE_WORDS)
                self._dirty.set(place, self._left.read(place))
            self._age.marked(now)
            self._left.zero()

    def covering(self, offset: int, length: int) -> tuple[int, int]:
        """The granules ``(first, count)`` that bytes ``offset``, ``length`` > 0 touch."""
        first = offset // self.granule
        return first, -(-(offset + length) // self.granule) - first

    def _check_range(self, first: int, count: int) -> None:
        if first < 0 or count <= 0 or first + count > self.granules:
            raise ValueError(f"granules {first}+{count} are not within 0+{self.granules}")

    def settled(self, place: slice) -> Words:
        """The granules of these words of the bitmaps that are clean: as far as anybody knows, the
        receiver durably holds what the disk has. A verification compares them, and only them."""
        with self.lock:
            bits = self._dirty.read(place) | self._suspect.read(place)
            bits |= self._flying.read(place) | self._left.read(place)
        clean = ~bits
        if place.stop * WORD_BITS > self.granules:
            at = max(0, self.granules // WORD_BITS - place.start)
            clean[at] &= np.uint64((1 << self.granules % WORD_BITS) - 1)
            clean[at + 1 :] = 0
        return clean

    # --- taking -------------------------------------------------------------------------------

    def take(
        self, kind: Kind, cursor: int, wanted: int, divide: Callable[[Found], Sequence[Batch]]
    ) -> Sequence[Batch]:
        """Finds about ``wanted`` granules from ``cursor`` on, lets ``divide`` make ascending
        batches of the first of them, and moves those to in flight, all in one locked step.

        ``divide`` must cover what it was given without gaps up to the end of its last batch.
        """
        with self.lock:
            pages, candidates = self._candidates(kind)
            found = search(pages, candidates, cursor, wanted, self.granules)
            if not found.at.size:
                return ()
            batches = divide(found)
            if not batches:
                return ()
            place, mask = found.below(batches[-1].end)
            self._flying.set(place, mask)
            crash.here("map.flying")
            if kind == "data":
                self._dirty.clear(place, mask)
            crash.here("map.taken")
            self._outstanding.update(batches)
            return batches

    def _candidates(self, kind: Kind) -> tuple[Bitmap, Callable[[slice], Words]]:
        """Where to look for something to take, and what there is in given words."""
        if kind == "data":
            return self._dirty, self._takeable
        return self._suspect, self._comparable

    def _takeable(self, place: slice) -> Words:
        return self._dirty.read(place) & ~self._flying.read(place)

    def _comparable(self, place: slice) -> Words:
        """Whole blocks that hold a suspect granule that will not be sent anyway, and none in
        flight: the digest of a block with a granule in flight would describe no instant."""
        per_block = max(1, COMPARE_BLOCK // self.granule)
        wanted = self._suspect.read(place) & ~self._dirty.read(place)
        blocks = spread(wanted, per_block) & ~spread(self._flying.read(place), per_block)
        if place.stop * WORD_BITS >= self.granules and (rest := self.granules % WORD_BITS):
            last = self.granules // WORD_BITS - place.start
            blocks[last] &= np.uint64((1 << rest) - 1)
        return blocks

    # --- answers ------------------------------------------------------------------------------

    def acked(self, batch: Batch) -> None:
        """The receiver durably holds what was sent of a data batch."""
        with self.lock:
            self._end(batch, "data")
            self._release(batch)

    def compared(self, batch: Batch, differing: Segments, now: float) -> None:
        """The receiver durably holds what a compare batch described, but for ``differing``.

        *Durably*: the receiver syncs what it hashed before it answers.
        """
        with self.lock:
            batch.check_within(differing)
            self._end(batch, "compare")
            if differing:
                place, mask = segments_mask(differing)
                self._age.marked(now)
                self._dirty.set(place, mask)
                crash.here("map.differs")
            self._release(batch)

    def lost(self, batch: Batch) -> None:
        """No answer will come, and the receiver has fenced off the batch's connection."""
        with self.lock:
            self._end(batch, batch.kind)
            if batch.kind == "data":
                self._dirty.set(batch.place, batch.mask)
            crash.here("map.lost")
            self._flying.clear(batch.place, batch.mask)

    def set_apart(self, batch: Batch, apart: Segments, now: float) -> Batch | None:
        """Some granules of a batch cannot be read: they must be sent another time. Before the
        batch is sent, or when only digests of it were.

        Args:
            apart: ascending runs within the batch's.

        Returns:
            What stays in flight, in place of ``batch``; None if nothing does.
        """
        with self.lock:
            batch.check_within(apart)
            self._end(batch, batch.kind)
            place, mask = segments_mask(apart)
            self._age.marked(now)
            self._dirty.set(place, mask)
            self._flying.clear(place, mask)
            self._suspect.clear(place, mask)
            rest = batch.without(apart)
            if rest is not None:
                self._outstanding.add(rest)
            return rest

    def _release(self, batch: Batch) -> None:
        """The receiver holds the batch. F goes first: a kill in between leaves S, which costs a
        comparison; the other way round it would leave F alone, which costs sending it all."""
        self._flying.clear(batch.place, batch.mask)
        crash.here("map.landed")
        self._suspect.clear(batch.place, batch.mask)
        if not self._dirty.count and not self._flying.count:
            self._age.emptied()

    def _end(self, batch: Batch, kind: Kind) -> None:
        if batch.kind != kind or batch not in self._outstanding:
            raise NotInFlightError(f"{batch} is not in flight as {kind}")
        self._outstanding.discard(batch)
