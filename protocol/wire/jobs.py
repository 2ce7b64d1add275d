"""What both sides know of disks and jobs: the values that messages carry and commands print.

Every message is a frozen msgspec structure, tagged with its ``type`` and encoded as JSON.
Unknown fields are ignored (a newer peer may say more), unknown types are refused.

The receiver owns jobs; the source reconciles. A :class:`JobOrder` is *level-triggered*: it
states what is wanted now, in full, and is sent again after every reconnection, so a lost
message cannot leave the two sides with different intentions (the idea is that of Kubernetes
controllers). What the source is doing comes back as :class:`JobReport`, also in full.

Sizes are bytes, durations seconds, instants RFC 3339 UTC text.
"""

from __future__ import annotations

from typing import Literal

import msgspec

PassKind = Literal["full", "compare", "delta", "idle"]
JobState = Literal[
    "ready",
    "preparing",
    "syncing",
    "checkpointing",
    "imaging",
    "waiting",
    "paused",
    "error",
    "finished",
    "expired",
]
Consistency = Literal["filesystem", "application", "crash"]
ConvergenceState = Literal["unknown", "converging", "not converging"]
Grade = Literal["intact", "compare", "full"]
FreeSpacePolicy = Literal["auto", "copy", "skip"]


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    """Base of everything that is framed on the control connection."""


class Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of what messages are made of."""


# --- what both sides know about disks --------------------------------------------------------


# What commands print as well leaves nothing out: scripts need not guess.


class DiskIdentity(Value, frozen=True, omit_defaults=False):
    """What tells one disk from another, whatever the device is called today.

    Empty text means that the disk has no such mark. ``filesystems`` are UUIDs, sorted.
    """

    serial: str = ""
    wwn: str = ""
    partition_table: str = ""
    filesystems: tuple[str, ...] = ()


class Mounted(Value, frozen=True, omit_defaults=False):
    """A filesystem of a disk that is mounted on the source."""

    mount: str
    kind: str
    device: str


class DiskInfo(Value, frozen=True, omit_defaults=False):
    """A disk that the source offers. ``kind`` is ``disk`` (block device) or ``file``."""

    path: str
    size: int
    kind: Literal["disk", "file"]
    model: str = ""
    identity: DiskIdentity = DiskIdentity()
    mounted: tuple[Mounted, ...] = ()


# --- the job ---------------------------------------------------------------------------------


class CheckpointOrder(Value, frozen=True):
    """One wanted checkpoint. ``request`` is unique; asking twice with it is asking once."""

    request: str
    hold: bool = False
    cutover: bool = False


class VerifyOrder(Value, frozen=True):
    """One wanted verification. ``request`` is unique; asking twice with it is asking once.

    ``repair``: what differs is to be sent, and compared again.
    """

    request: str
    repair: bool = False


class DiskRange(Value, frozen=True, omit_defaults=False):
    """Bytes of one disk of a job; ``path`` is the disk's on the source."""

    path: str
    offset: int
    length: int


class KnownDisk(Value, frozen=True):
    """A disk as its job knows it: the path that the job was made for, and what tells it from
    others. ``size`` is bytes."""

    path: str
    size: int
    identity: DiskIdentity = DiskIdentity()


class JobOrder(Message, frozen=True, tag="job-order"):
    """Receiver to source: all that is wanted of the job now. ``want='none'``: no job.

    ``state`` is the receiver's word for the job, which the source shows while it does nothing.
    ``revision`` grows with every change, so that a report can say which order it obeys.
    ``bandwidth`` is bytes per second on the wire, 0 for unlimited. ``compress`` is ``auto``,
    ``none`` or a zstd level. ``free_space`` says whether what nobody uses is left out: ``skip``,
    ``copy``, or ``auto``, where that spares much. ``held``: the intermediate disks stand at a
    checkpoint and nothing may be written to them. ``differing`` covers what a verification has
    found to differ and nobody has repaired: it is sent before the next checkpoint. ``known`` says
    how each of ``disks`` is recognised, so that one that has another name today is found.
    """

    revision: int
    want: Literal["none", "run", "pause", "stop"]
    state: JobState = "ready"
    job: str = ""
    name: str = ""
    disks: tuple[str, ...] = ()
    bandwidth: int = 0
    compress: str = "auto"
    free_space: FreeSpacePolicy = "auto"
    freeze_budget: float = 2.0
    checkpoint: CheckpointOrder | None = None
    held: bool = False
    verify: VerifyOrder | None = None
    differing: tuple[DiskRange, ...] = ()
    known: tuple[KnownDisk, ...] = ()


class Recovery(Value, frozen=True, omit_defaults=False):
    """How a disk's copy was taken up again the last time that somebody had to ask.

    ``intact``: everything that was written is known, only that travels. ``compare``: both ends
    read and hash, only differences travel. ``full``: everything is sent. ``reason`` says in words
    what made it so. ``bytes_read`` and ``bytes_sent`` are bytes of the disk that it has cost since;
    ``ended`` is None until nothing more is to be done for it.
    """

    grade: Grade
    reason: str
    since: str
    bytes_read: int = 0
    bytes_sent: int = 0
    ended: str | None = None


class ByteRange(Value, frozen=True, omit_defaults=False):
    """``length`` bytes of a disk from ``offset`` on."""

    offset: int
    length: int


class DiskReport(Value, frozen=True):
    """What one disk of a job is doing. Field names are those of ``job show --json``.

    ``path`` is what the job calls it, ``device`` where it is now. ``left_out_bytes``: free space
    and swap that are neither sent nor compared. ``unreadable_bytes``: what the
    source cannot read now and tries again; ``unreadable`` are the first places of it. No checkpoint
    is taken while there is any.
    """

    path: str
    size: int
    total_bytes: int = 0
    transferred_bytes: int = 0
    dirty_bytes: int = 0
    in_flight_bytes: int = 0
    differing_bytes: int = 0
    passed: int = 0
    pass_: PassKind = msgspec.field(name="pass", default="idle")
    tracker: str = "none"
    trust: str = ""
    granule: int = 4096
    left_out_bytes: int = 0
    device: str = ""
    recovery: Recovery | None = None
    unreadable_bytes: int = 0
    unreadable: tuple[ByteRange, ...] = ()


class ErrorInfo(Value, frozen=True, omit_defaults=False):
    """A fault as it travels; see ``protocol.errors``."""

    code: str
    message: str
    remedy: str = ""


class Convergence(Value, frozen=True, omit_defaults=False):
    """Whether delta passes shrink what is left to send, and what a freeze would take now.

    ``write``: unique bytes newly written per second; ``send``: bytes of content that can be
    sent, under the bandwidth limit; ``read``: of the disks; ``needed``: what the line would
    have to carry, in bytes on the wire. None is 'not known'. ``freeze_allowed_seconds`` is the
    job's freeze budget or the source's own limit, whichever is smaller.
    """

    state: ConvergenceState = "unknown"
    write_bytes_per_second: float | None = None
    send_bytes_per_second: float | None = None
    read_bytes_per_second: float | None = None
    needed_bytes_per_second: float | None = None
    freeze_forecast_seconds: float | None = None
    freeze_allowed_seconds: float | None = None
    sentence: str = ""


class JobReport(Message, frozen=True, tag="job-report"):
    """Source to receiver, about once a second: the state of the job as the source sees it.

    The same object feeds ``replicad status``, the metrics and the log. ``speed`` is logical
    bytes per second, ``remaining`` seconds or None when it cannot be said, ``lag`` the age in
    seconds of the oldest change that the receiver does not hold.
    """

    job: str
    revision: int
    state: JobState
    epoch: int = 0
    speed_bytes_per_second: float = 0.0
    remaining_seconds: float | None = None
    logical_bytes: int = 0
    wire_bytes: int = 0
    lag_seconds: float = 0.0
    sentence: str = ""
    error: ErrorInfo | None = None
    disks: tuple[DiskReport, ...] = ()
    reconnects: int = 0
    tracker_misses: int = 0
    convergence: Convergence = Convergence()
