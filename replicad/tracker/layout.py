"""The maps that the kernel program and this package share, as ctypes structures.

Mirrors ``bpf/tracker.bpf.c``; opening the pins compares the sizes with what the kernel holds. Raise
LAYOUT whenever an older program's maps would be misread, or must not go on running: a daemon that
finds pins of another layout replaces them, and every disk gets a new token.
"""

from __future__ import annotations

import ctypes

LAYOUT = 4
MAX_SLOTS = 128
LEVELS = 6
HOOK_QUEUE, HOOK_REQUEST, HOOK_BIO = range(3)
HOOKS = 3
RECORDS = 4
SEEN = 2
REF_STACKED = 1 << 31
PATH_MAX = 4096
FLAG_STACKED = 1


class Slot(ctypes.Structure):
    """One tracked disk. The kernel writes only the counters; while there is an owner
    (``generation``), what it reads is not changed. ``handed``: how often something was handed over;
    nobody but us reads it.
    """

    _fields_ = (
        ("generation", ctypes.c_uint32),
        ("active", ctypes.c_uint32),
        ("sectors", ctypes.c_uint64),
        ("shift", ctypes.c_uint32),
        ("dev", ctypes.c_uint32),
        ("base", ctypes.c_uint32 * LEVELS),
        ("summary", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("token", ctypes.c_uint64),
        ("diskseq", ctypes.c_uint64),
        ("misses_before", ctypes.c_uint64),
        ("changed", ctypes.c_uint64),
        ("handed", ctypes.c_uint64),
        ("user_reserved", ctypes.c_uint64 * 4),
        ("passthrough", ctypes.c_uint64),
        ("lost", ctypes.c_uint64),
        ("unmatched", ctypes.c_uint64),
        ("counters_reserved", ctypes.c_uint64 * 5),
    )


class State(ctypes.Structure):
    """Counters of all disks together."""

    _fields_ = (
        ("stacked", ctypes.c_uint64),
        ("insert_failures", ctypes.c_uint64),
        ("long_requests", ctypes.c_uint64),
        ("rescued", ctypes.c_uint64 * HOOKS),
        ("reserved", ctypes.c_uint64 * 10),
    )


class Place(ctypes.Structure):
    """What the programs of one hook keep on one CPU; of it only ``readers``, how many of them are
    marking now, is looked at here.
    """

    _fields_ = (
        ("readers", ctypes.c_uint64),
        ("seen", ctypes.c_uint64 * SEEN),
        ("reserved", ctypes.c_uint64),
        ("done", ctypes.c_uint64 * RECORDS),
    )


class Cpu(ctypes.Structure):
    """One possible CPU."""

    _fields_ = (("places", Place * HOOKS),)


class Write(ctypes.Structure):
    """A write to a bio-based disk that has not landed."""

    _fields_ = (
        ("ref", ctypes.c_uint64),
        ("sector", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("pending", ctypes.c_uint64),
        ("own", ctypes.c_uint64),
    )


class Meta(ctypes.Structure):
    """Whose pins these are."""

    _fields_ = (
        ("instance", ctypes.c_uint8 * 16),
        ("object", ctypes.c_uint8 * 32),
        ("layout", ctypes.c_uint32),
        ("path_length", ctypes.c_uint32),
        ("path", ctypes.c_char * PATH_MAX),
    )


def reference(generation: int, stacked: bool, slot: int) -> int:
    """Returns what the kernel program knows a tracked disk by."""
    return generation << 32 | (REF_STACKED if stacked else 0) | slot


VALUE_SIZES = {
    "slots": ctypes.sizeof(Slot),
    "index_of": 8,
    "bitmaps": 4,
    "state": ctypes.sizeof(State),
    "cpus": ctypes.sizeof(Cpu),
    "in_flight": ctypes.sizeof(Write),
    "meta": ctypes.sizeof(Meta),
}
"""Bytes per value of every pinned map."""
