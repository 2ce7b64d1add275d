"""Freeze and checkpoint: 6xxx."""

from __future__ import annotations

from protocol.errors.fault import Exit, Kind

DISK_BUSY_UNMOUNTED = Kind(
    "RPL-6001",
    "disk_busy_unmounted",
    "disk {path} has no mounted filesystem to freeze and is being written ({detail})",
    "Stop what writes to it while the checkpoint is taken, or mount its filesystem on the source.",
    Exit.REFUSED,
)
FREEZE_FAILED = Kind(
    "RPL-6002",
    "freeze_failed",
    "filesystem {mount} could not be frozen: {detail}",
    "Check 'replicad check' for filesystems that cannot be frozen.",
)
FREEZE_OVERRUN = Kind(
    "RPL-6003",
    "freeze_overrun",
    "the freeze was ended by the watchdog after {seconds:.3f} s: {detail}",
    "Raise --freeze-budget, or take the checkpoint at a quieter time.",
)
FREEZE_TOO_LONG = Kind(
    "RPL-6004",
    "freeze_too_long",
    "a freeze now would take {forecast:.2f} s, the budget is {budget:.2f} s: {detail}",
    "Raise --freeze-budget or the bandwidth, or take the checkpoint at a quieter time.",
)
HOOK_FAILED = Kind(
    "RPL-6005",
    "hook_failed",
    "hook {hook} failed: {detail}",
    "Run it by hand with the environment that docs/operations.md names.",
)
CHECKPOINT_SUPERSEDED = Kind(
    "RPL-6006",
    "checkpoint_superseded",
    "the checkpoint was not taken: {detail}",
    "Ask for it again.",
)
