"""The receiver's disks and jobs: 4xxx."""

from __future__ import annotations

from protocol.errors.fault import Exit, Kind

UNKNOWN_SOURCE = Kind(
    "RPL-4001",
    "unknown_source",
    "there is no source named {name}",
    "See 'receiver source list'; enrol it with an activation code first.",
    Exit.REFUSED,
)
UNKNOWN_DISK = Kind(
    "RPL-4002",
    "unknown_disk",
    "source {source} has no disk {path}",
    "See 'receiver source show {source}' for the disks that it offers.",
    Exit.REFUSED,
)
UNKNOWN_JOB = Kind(
    "RPL-4003",
    "unknown_job",
    "there is no job {job}",
    "See 'receiver job list'.",
    Exit.REFUSED,
)
JOB_UNFINISHED = Kind(
    "RPL-4004",
    "job_unfinished",
    "source {source} already has an unfinished job ({job})",
    "Cancel or cut over that one first.",
    Exit.REFUSED,
)
JOB_STATE = Kind(
    "RPL-4005",
    "job_state",
    "job {job} is {state}: it cannot be {action} now",
    "See 'receiver job show' for what the job is doing.",
    Exit.REFUSED,
)
TARGET_TOO_SMALL = Kind(
    "RPL-4101",
    "target_too_small",
    "target {path} has {size} bytes, but the disk has {needed}",
    "Enlarge it and 'receiver job retry', or use a larger device, or 'raw' for a file.",
    Exit.REFUSED,
)
TARGET_MOUNTED = Kind(
    "RPL-4102",
    "target_mounted",
    "target {path} is mounted on {where}",
    "Unmount it if its content may be overwritten, or choose another target.",
    Exit.REFUSED,
)
TARGET_IN_USE = Kind(
    "RPL-4103",
    "target_in_use",
    "target {path} is in use: {detail}",
    "Stop what uses it, or choose another target.",
    Exit.REFUSED,
)
TARGET_OF_OTHER_JOB = Kind(
    "RPL-4104",
    "target_of_other_job",
    "target {path} belongs to job {job}",
    "Delete that job first, or choose another target.",
    Exit.REFUSED,
)
TARGET_MISSING = Kind(
    "RPL-4105",
    "target_missing",
    "target {path} cannot be opened: {detail}",
    "Check the path and that the device is there.",
    Exit.REFUSED,
)
TARGET_CHANGED = Kind(
    "RPL-4106",
    "target_changed",
    "intermediate disk {path} is not the one this job wrote: {detail}",
    "Put the right one back; or cancel the job and create a new one.",
    Exit.REFUSED,
)
RECEIVER_FULL = Kind(
    "RPL-4107",
    "receiver_full",
    "the receiver has no space left for {path} ({free} bytes free)",
    "Free space on the receiver's storage, then 'receiver job retry'.",
)
TARGET_IO = Kind(
    "RPL-4108",
    "target_io",
    "input or output on {path} failed: {detail}",
    "Check the receiver's disk (dmesg, SMART), then 'receiver job retry'.",
)
DISK_NOT_OF_JOB = Kind(
    "RPL-4109",
    "disk_not_of_job",
    "this session may not touch disk {disk}: it belongs to no disk of its job",
    "None; the other side broke the protocol.",
    Exit.REFUSED,
)
JOB_EXPIRED = Kind(
    "RPL-4110",
    "job_expired",
    "job {job} expired at {when}",
    "Set a later 'valid', then 'receiver job start'.",
    Exit.REFUSED,
)
TARGET_TOUCHED = Kind(
    "RPL-4113",
    "target_touched",
    "intermediate disk {path} was written to while it was in use: {detail}",
    "Nothing to do: it is compared before it counts again. Find out who wrote to it.",
)
CATALOG_UNUSABLE = Kind(
    "RPL-4111",
    "catalog_unusable",
    "the catalog {path} cannot be used: {problem}",
    "Put back the last good copy, or start the release of replicad that wrote it.",
)
