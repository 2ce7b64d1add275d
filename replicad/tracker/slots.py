"""The table of tracked disks in the kernel: taking a slot, giving it back, repairing after a kill.

A slot is published in steps that a kill may interrupt anywhere: bitmaps, description, then the
index by which programs find it. What is not in the index is not tracked, and repair() frees it.
"""

from __future__ import annotations

import ctypes
import os
import secrets
from collections.abc import Callable, Iterator

import numpy as np

from protocol.local import crash
from replicad.tracker import bitmap
from replicad.tracker.disk import SECTOR, BlockDevice
from replicad.tracker.errors import CannotTrack
from replicad.tracker.layout import (
    FLAG_STACKED,
    MAX_SLOTS,
    Cpu,
    Place,
    Slot,
    State,
    Write,
    reference,
)
from replicad.tracker.libbpf import Libbpf, LibbpfError
from replicad.tracker.load import Attached
from replicad.tracker.quiet import Quiescence
from replicad.tracker.window import KernelBitmap, map_whole

USABLE_SLOTS = MAX_SLOTS - 1
"""The last one's place in the map of maps is for waiting (see quiet.py)."""


def device_number(major: int, minor: int) -> int:
    """Returns the number by which the kernel program knows a disk."""
    return major << 20 | minor


class SlotTable:
    """Maps the shared tables; every method that changes a slot returns after no program uses the
    old one.
    """

    def __init__(self, library: Libbpf, attached: Attached) -> None:
        self._library = library
        self._maps = attached.maps
        cpus = library.map_shape(self._maps["cpus"])[1]
        self._mappings = [
            map_whole(self._maps["slots"], MAX_SLOTS * ctypes.sizeof(Slot)),
            map_whole(self._maps["state"], ctypes.sizeof(State)),
            map_whole(self._maps["cpus"], cpus * ctypes.sizeof(Cpu)),
        ]
        self.slots = (Slot * MAX_SLOTS).from_buffer(self._mappings[0])
        self.state = State.from_buffer(self._mappings[1])
        words_per_place = ctypes.sizeof(Place) // 8
        self._readers = np.frombuffer(self._mappings[2], np.uint64)[::words_per_place]
        self._dummy = library.create_words("rpl_wait", 1)
        self._bitmaps: dict[int, tuple[KernelBitmap, KernelBitmap]] = {}
        self.quiescence = Quiescence(self._readers, self._grace_period)

    def close(self) -> None:
        """Lets go of the mappings and the bitmaps' descriptors."""
        for identity in list(self._bitmaps):
            self._forget(identity)
        os.close(self._dummy)
        del self.slots, self.state, self._readers, self.quiescence
        self._mappings.clear()

    def _grace_period(self) -> None:
        place = ctypes.c_uint32(2 * USABLE_SLOTS)
        self._library.update(self._maps["bitmaps"], place, ctypes.c_uint32(self._dummy))

    def used(self) -> Iterator[int]:
        """Yields the slots that have an owner."""
        return (identity for identity in range(USABLE_SLOTS) if self.slots[identity].generation)

    def find(self, major: int, minor: int) -> int | None:
        """Returns the slot of a disk."""
        dev = device_number(major, minor)
        return next((identity for identity in self.used() if self.slots[identity].dev == dev), None)

    def take(self, device: BlockDevice, misses: int) -> int:
        """Begins tracking a disk in a free slot and returns it. Raises CannotTrack if there is
        none, or no memory.
        """
        identity = next((i for i in range(USABLE_SLOTS) if not self.slots[i].generation), None)
        if identity is None:
            raise CannotTrack(f"{device.path}: {USABLE_SLOTS} disks are being tracked already")
        granule = bitmap.granule_for(device.size)
        geometry = bitmap.Geometry.of(-(-device.size // granule))
        self._create_bitmaps(identity, geometry, device)
        slot = self.slots[identity]
        generation = secrets.randbits(32) or 1
        ctypes.memset(ctypes.addressof(slot), 0, ctypes.sizeof(slot))
        slot.sectors = device.size // SECTOR
        slot.shift = (granule // SECTOR).bit_length() - 1
        slot.dev = device_number(device.major, device.minor)
        for number, level in enumerate(geometry.levels):
            slot.base[number] = level.first
        slot.summary = geometry.summary.first
        slot.flags = FLAG_STACKED if device.bio_based else 0
        slot.token = secrets.randbits(64)
        slot.diskseq = device.diskseq
        slot.misses_before = misses
        self.quiescence.order()  # a program that remembers this slot sees the rest, or no owner
        slot.generation = generation
        if device.bio_based:
            self.state.stacked += 1
        crash.here("slot.described")
        self.quiescence.order()
        ref = reference(generation, device.bio_based, identity)
        self._library.update(
            self._maps["index_of"], ctypes.c_uint32(slot.dev), ctypes.c_uint64(ref)
        )
        self.quiescence.wait()
        return identity

    def _create_bitmaps(
        self, identity: int, geometry: bitmap.Geometry, device: BlockDevice
    ) -> None:
        fds: list[int] = []
        try:
            for side in (0, 1):
                fds.append(self._library.create_words(f"rpl_{identity}_{side}", geometry.words))
                key = ctypes.c_uint32(2 * identity + side)
                self._library.update(self._maps["bitmaps"], key, ctypes.c_uint32(fds[-1]))
        except LibbpfError as error:
            for fd in fds:
                os.close(fd)
            raise CannotTrack(f"{device.path}: {error.strerror}") from error
        self._bitmaps[identity] = (KernelBitmap(fds[0], geometry), KernelBitmap(fds[1], geometry))

    def bitmaps(self, identity: int) -> tuple[KernelBitmap, KernelBitmap]:
        """Returns the two bitmaps of a slot, opening them if a predecessor made them."""
        if identity not in self._bitmaps:
            slot = self.slots[identity]
            per_granule = 1 << slot.shift
            geometry = bitmap.Geometry.of(-(-slot.sectors // per_granule))
            fds = []
            for side in (0, 1):
                number = ctypes.c_uint32()
                self._library.lookup(
                    self._maps["bitmaps"], ctypes.c_uint32(2 * identity + side), number
                )
                fds.append(self._library.map_by_id(number.value))
            self._bitmaps[identity] = (
                KernelBitmap(fds[0], geometry),
                KernelBitmap(fds[1], geometry),
            )
        return self._bitmaps[identity]

    def give_back(self, identity: int) -> None:
        """Ends tracking in a slot and frees its memory."""
        slot = self.slots[identity]
        key, published, ref = ctypes.c_uint32(slot.dev), ctypes.c_uint64(), self._ref(identity)
        if self._library.lookup(self._maps["index_of"], key, published) and published.value == ref:
            self._library.delete(self._maps["index_of"], key)
        stacked = bool(slot.flags & FLAG_STACKED)
        slot.generation = 0
        crash.here("slot.unpublished")
        self.quiescence.wait()
        self._forget(identity)
        for side in (0, 1):  # this waits for RCU, so no program is about to remember a write
            self._library.delete(self._maps["bitmaps"], ctypes.c_uint32(2 * identity + side))
        if stacked:
            self._forget_writes(lambda owner: owner == ref)
            self.state.stacked = sum(1 for i in self.used() if self.slots[i].flags & FLAG_STACKED)

    def _ref(self, identity: int) -> int:
        slot = self.slots[identity]
        return reference(slot.generation, bool(slot.flags & FLAG_STACKED), identity)

    def _forget(self, identity: int) -> None:
        for one in self._bitmaps.pop(identity, ()):
            os.close(one.fd)

    def _forget_writes(self, whose: Callable[[int], bool]) -> None:
        """Drops the writes in flight of the refs that are meant, so that their memory is there for
        others, and nobody finds them under the address of another disk's write.
        """
        table = self._maps["in_flight"]
        write_ref = (ctypes.c_uint64 * (ctypes.sizeof(Write) // 8))()
        key, following, stale = None, ctypes.c_uint64(), []
        while self._library.next_key(table, key, following):
            key = ctypes.c_uint64(following.value)
            if self._library.lookup(table, key, write_ref) and whose(write_ref[0]):
                stale.append(key)
        for key in stale:
            self._library.delete(table, key)

    def repair(self) -> None:
        """Frees what a killed predecessor had begun or not finished freeing."""
        for identity in range(USABLE_SLOTS):
            slot = self.slots[identity]
            ref, number = ctypes.c_uint64(), ctypes.c_uint32()
            sides = [ctypes.c_uint32(2 * identity + side) for side in (0, 1)]
            published = self._library.lookup(self._maps["index_of"], ctypes.c_uint32(slot.dev), ref)
            if slot.generation and published and ref.value == self._ref(identity):
                continue
            if slot.generation or any(
                self._library.lookup(self._maps["bitmaps"], key, number) for key in sides
            ):
                self.give_back(identity)
        self.state.stacked = sum(1 for i in self.used() if self.slots[i].flags & FLAG_STACKED)
        refs = {self._ref(identity) for identity in self.used()}
        self._forget_writes(lambda owner: owner not in refs)
