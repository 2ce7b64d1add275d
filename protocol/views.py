"""What the commands print: the JSON of ``--json``, the results of the control sockets.

One set of structures for the daemons (which fill them) and the command lines (which draw
them), so that the two cannot drift apart. Sizes are bytes, durations seconds, instants
RFC 3339 UTC text. Every field is always present: scripts need not guess.
"""

from __future__ import annotations

import msgspec

from protocol.wire.jobs import (
    ByteRange,
    Convergence,
    DiskInfo,
    DiskRange,
    ErrorInfo,
    FreeSpacePolicy,
    JobState,
    PassKind,
    Recovery,
)


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Base of everything printed."""


class DiskView(View, frozen=True):
    """One disk of a job. ``intermediate`` is its copy's path on the receiver.

    ``path`` is what the job calls the disk, ``device`` where it is now. ``recovery`` is how the
    copy was taken up the last time, None before it ever was. ``left_out_bytes`` are free space and
    swap, which are neither sent nor compared. ``unreadable_bytes`` are bytes that
    the source cannot read now, ``unreadable`` the first places of them.
    """

    path: str
    size: int
    total_bytes: int
    transferred_bytes: int
    dirty_bytes: int
    in_flight_bytes: int
    differing_bytes: int
    pass_: PassKind = msgspec.field(name="pass")
    passed: int
    tracker: str
    trust: str
    granule: int
    left_out_bytes: int
    unreadable_bytes: int
    unreadable: tuple[ByteRange, ...]
    intermediate: str | None
    device: str
    recovery: Recovery | None


class CheckpointView(View, frozen=True):
    """One committed checkpoint; ``preserved`` says in words what keeps it."""

    epoch: int
    consistency: str
    taken: str
    frozen_seconds: float
    snapshot: str | None
    preserved: str


class VerifiedView(View, frozen=True):
    """The last verification that came to its end; also what ``job verify --wait`` prints.

    ``ranges``: the first of those that differed; ``more_ranges`` beyond them. ``repaired``:
    something differed, and nothing does any more.
    """

    request: str
    when: str
    bytes_compared: int
    differing_bytes: int
    ranges: tuple[DiskRange, ...]
    more_ranges: int
    repaired: bool
    seconds: float


class JobView(View, frozen=True):
    """``job show``; also an element of ``job list``.

    ``connected``: the source's control connection stands. ``held``: the intermediate disks
    stay at the last checkpoint until ``job resume``. ``outcome``: '', 'cutover' or
    'cancelled'. ``bandwidth`` is bytes per second, 0 for unlimited. ``convergence`` is 'unknown'
    while the source is not connected. ``sync_seconds``: what bringing data to stable storage
    takes, ``group_seconds`` for how long it gathers before; both only while a session is open.
    """

    id: str
    name: str
    source: str
    state: JobState
    outcome: str
    connected: bool
    held: bool
    consistency: str | None
    epoch: int
    speed_bytes_per_second: float
    remaining_seconds: float | None
    logical_bytes: int
    wire_bytes: int
    lag_seconds: float
    sentence: str
    convergence: Convergence
    error: ErrorInfo | None
    bandwidth: int
    compress: str
    free_space: FreeSpacePolicy
    freeze_budget: float
    every: float | None
    keep: int
    next_sync: str | None
    created: str
    valid_until: str | None
    sync_seconds: float | None
    group_seconds: float | None
    disks: tuple[DiskView, ...]
    checkpoint: CheckpointView | None
    verified: VerifiedView | None


class CheckpointResult(View, frozen=True):
    """``job checkpoint --wait`` and ``job cutover --wait``."""

    epoch: int
    consistency: str
    frozen_seconds: float
    snapshot: str | None
    preserved: str
    held: bool


class SourceView(View, frozen=True):
    """``source show``; ``certificate`` is the SHA-256 of its certificate in hex."""

    name: str
    connected: bool
    address: str | None
    enrolled: str
    last_seen: str | None
    certificate: str
    software: str
    disks: tuple[DiskInfo, ...]
    job: str | None


class ActivationView(View, frozen=True):
    """``activation create``: the only time that the code is shown."""

    code: str
    uses: int
    expires: str


class ActivationRow(View, frozen=True):
    """``activation list``: a code that exists, by its label; ``used`` of ``uses`` times."""

    label: str
    uses: int
    used: int
    created: str
    expires: str


class IntermediateView(View, frozen=True):
    """``disk list``."""

    job: str
    source: str
    path: str
    intermediate: str
    kind: str
    size: int
    allocated_bytes: int
    epoch: int
    in_use: bool


class TrackerView(View, frozen=True):
    """What learns of writes on the source, and whether it can be believed."""

    name: str
    available: bool
    sentence: str
    misses: int


class SourceStatus(View, frozen=True):
    """``replicad status``: the job is the source's own view, None when there is none."""

    name: str
    software: str
    enrolled: bool
    receiver: str | None
    connected: bool
    sentence: str
    tracker: TrackerView
    job: JobStatus | None


class CompressionView(View, frozen=True):
    """How hard the source compresses: the job's mode (``auto``, ``none`` or a level), the zstd
    level of the next frame (None: none), and why it is that one."""

    mode: str
    level: int | None
    because: str


class ReadingView(View, frozen=True):
    """How a disk is read: the share of the time, below 1 where others would have to wait for it,
    and then why."""

    path: str
    share: float
    because: str


class SendersView(View, frozen=True):
    """How many senders work now, and why not one for each connection; '' when they do, or when
    there is no session (then 0)."""

    at_work: int
    because: str


class JobStatus(View, frozen=True):
    """The job as the source sees it: a JobReport in the words of ``status``. ``connections``: data
    connections of the present session, more on a long line; 0 while there is none.
    ``cipher``: what seals the frames of the present session, '' while there is none, and
    ``congestion``: the congestion control of its connections, by the kernel's name.
    ``extent_bytes``: the largest extent that is sent at once, smaller on a slow line."""

    id: str
    name: str
    state: JobState
    epoch: int
    speed_bytes_per_second: float
    remaining_seconds: float | None
    logical_bytes: int
    wire_bytes: int
    lag_seconds: float
    bandwidth: int
    compression: CompressionView
    reading: tuple[ReadingView, ...]
    connections: int
    senders: SendersView
    cipher: str
    congestion: str
    extent_bytes: int
    sentence: str
    convergence: Convergence
    error: ErrorInfo | None
    disks: tuple[DiskView, ...]
    reconnects: int


class CheckItem(View, frozen=True):
    """One line of ``replicad check``: ``level`` is 'ok', 'note', 'warning' or 'problem'."""

    level: str
    subject: str
    sentence: str
    remedy: str


class EstimateView(View, frozen=True):
    """``replicad estimate``: what a full copy of these disks would mean."""

    disks: tuple[EstimateDisk, ...]
    total_bytes: int
    used_bytes: int
    compression_ratio: float
    seconds_at: dict[str, float]
    sentence: str


class EstimateDisk(View, frozen=True):
    """``used_bytes`` is sampled: the share of the disk that is not zero."""

    path: str
    size: int
    used_bytes: int
    compression_ratio: float
    read_bytes_per_second: float
