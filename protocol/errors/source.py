"""The source's disks and tracking: 5xxx."""

from __future__ import annotations

from protocol.errors.fault import Exit, Kind

SOURCE_DISK_MISSING = Kind(
    "RPL-5001",
    "source_disk_missing",
    "disk {path} of the source cannot be opened: {detail}",
    "Check that the disk is there; then 'receiver job retry'.",
)
SOURCE_DISK_RESIZED = Kind(
    "RPL-5002",
    "source_disk_resized",
    "disk {path} shrank from {before} to {after} bytes",
    "Restore the size, or cancel the job and create a new one.",
    Exit.REFUSED,
)
SOURCE_DISK_CHANGED = Kind(
    "RPL-5003",
    "source_disk_changed",
    "{path} is not the disk that this job copies: {detail}",
    "Put the right disk back; or have this one copied from now on: "
    "'receiver job set ID accept={path}', then 'receiver job retry'.",
    Exit.REFUSED,
)
SOURCE_DISK_READ = Kind(
    "RPL-5004",
    "source_disk_read",
    "reading {path} at bytes {offset}-{end} failed: {detail}",
    "Check the disk (dmesg, SMART). It is tried again by itself, and at 'receiver job retry'.",
)
SOURCE_DISK_FORBIDDEN = Kind(
    "RPL-5005",
    "source_disk_forbidden",
    "disk {path} is not among the disks that the source's configuration allows",
    "Add it to 'disks' in replicad.toml on the source if it may be copied.",
    Exit.REFUSED,
)
RUNTIME_ON_DISK = Kind(
    "RPL-5006",
    "runtime_on_disk",
    "the runtime directory {path} lies on {disk}, which this job copies and freezes",
    "Set [runtime] directory to a place in memory, such as /run/replicad.",
    Exit.REFUSED,
)
RUNTIME_FULL = Kind(
    "RPL-5007",
    "runtime_full",
    "{path} needs up to {needed} bytes, but its filesystem has {free} free",
    "Make room there, or set [runtime] directory to a larger place in memory.",
)
SOURCE_DISK_GREW = Kind(
    "RPL-5008",
    "source_disk_grew",
    "disk {path} grew from {before} to {after} bytes",
    "Nothing to do: the new part is taken in, and the next pass compares.",
)
SOURCE_DISK_AMBIGUOUS = Kind(
    "RPL-5011",
    "source_disk_ambiguous",
    "disk {path} of the job may be any of {candidates}: they bear the same marks",
    "Detach the clone, give it other identifiers, or leave it out of 'disks' in replicad.toml; "
    "then 'receiver job retry'.",
    Exit.REFUSED,
)
SOURCE_DISK_MOVED = Kind(
    "RPL-5012",
    "source_disk_moved",
    "another disk than before is at {path} now",
    "Nothing to do: the job's disk is looked for by its marks, and refused if it is not there.",
)
TRACKER_UNAVAILABLE = Kind(
    "RPL-5101",
    "tracker_unavailable",
    "writes cannot be tracked on this machine: {detail}",
    "Each sync compares both sides instead; see docs/operations.md for what the tracker needs.",
)
