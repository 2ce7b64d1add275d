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
VERIFY_UNTRACKED = Kind(
    "RPL-6007",
    "verify_untracked",
    "disk {path} cannot be verified: its writes are not tracked ({detail}), so damage cannot be"
    " told from what is written meanwhile",
    "Take a checkpoint instead: on this disk each sync and checkpoint compares everything and"
    " repairs what differs.",
    Exit.REFUSED,
)
VERIFY_DIFFERS = Kind(
    "RPL-6008",
    "verify_differs",
    "a verification found that the copies of job {job} differ from its source and has not repaired"
    " them: {size} in {count} ranges ({where})",
    "Run 'receiver job verify {job} --repair', or take a checkpoint: either sends them. Then look"
    " for the cause: the receiver's disk (SMART), its memory, or somebody who wrote to the copy.",
)
VERIFY_SUPERSEDED = Kind(
    "RPL-6009",
    "verify_superseded",
    "the verification was not finished: {detail}",
    "Ask for it again.",
)
