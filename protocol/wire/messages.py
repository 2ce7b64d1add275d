"""The control messages: what source and receiver say to each other on port 8080.

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


class JobOrder(Message, frozen=True, tag="job-order"):
    """Receiver to source: all that is wanted of the job now. ``want='none'``: no job.

    ``state`` is the receiver's word for the job, which the source shows while it does nothing.
    ``revision`` grows with every change, so that a report can say which order it obeys.
    ``bandwidth`` is bytes per second on the wire, 0 for unlimited. ``compress`` is ``auto``,
    ``none`` or a zstd level. ``held``: the intermediate disks stand at a checkpoint and nothing
    may be written to them.
    """

    revision: int
    want: Literal["none", "run", "pause", "stop"]
    state: JobState = "ready"
    job: str = ""
    name: str = ""
    disks: tuple[str, ...] = ()
    bandwidth: int = 0
    compress: str = "auto"
    freeze_budget: float = 2.0
    checkpoint: CheckpointOrder | None = None
    held: bool = False


class DiskReport(Value, frozen=True):
    """What one disk of a job is doing. Field names are those of ``job show --json``."""

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


class ErrorInfo(Value, frozen=True, omit_defaults=False):
    """A fault as it travels; see ``protocol.errors``."""

    code: str
    message: str
    remedy: str = ""


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


# --- the conversation ------------------------------------------------------------------------


class Hello(Message, frozen=True, tag="hello"):
    """First message of the source. ``versions`` that it speaks, best first."""

    versions: tuple[int, ...]
    capabilities: tuple[str, ...] = ()
    software: str = ""
    name: str = ""
    boot: str = ""


class Welcome(Message, frozen=True, tag="welcome"):
    """The receiver's answer: the version and capabilities that both will use."""

    version: int
    capabilities: tuple[str, ...] = ()
    software: str = ""
    data_port: int = 0
    heartbeat_seconds: float = 10.0


class Refused(Message, frozen=True, tag="refused"):
    """Either side, instead of an answer or before closing. ``answers``: the request's id."""

    code: str
    message: str
    remedy: str = ""
    answers: int = 0


class Heartbeat(Message, frozen=True, tag="heartbeat"):
    """Sent by each side at the agreed interval; ``echo`` returns the peer's last ``sent``."""

    sent: float
    echo: float = 0.0


class AuthorityRequest(Message, frozen=True, tag="authority-request"):
    """An enrolling source asks for the authority's certificate, over TLS that nobody vouches for.

    The answer is worth nothing until its fingerprint equals that of the activation code; the
    secret is said only on a second connection, which has that authority as its only anchor.
    """

    id: int


class Authority(Message, frozen=True, tag="authority"):
    """The certificate of the receiver's authority, PEM. Public; sent to anyone who asks."""

    answers: int
    certificate_pem: str


class Enrol(Message, frozen=True, tag="enrol"):
    """A source without a certificate, over TLS whose CA it has checked against the code."""

    id: int
    secret: str
    name: str
    request_pem: str
    replace: bool = False

    def __repr__(self) -> str:
        return f"Enrol(id={self.id}, name={self.name!r}, secret=...)"


class Enrolled(Message, frozen=True, tag="enrolled"):
    """The certificate for the source and the authority that signed it, both PEM."""

    answers: int
    certificate_pem: str
    authority_pem: str
    receiver: str = ""


class Inventory(Message, frozen=True, tag="inventory"):
    """The source's disks, sent after Welcome and whenever they change."""

    disks: tuple[DiskInfo, ...]


class OpenDisk(Value, frozen=True):
    """A disk of a session as the source sees it; ``generation`` and ``epoch`` are what the
    source's dirty map belongs to ('' and 0 when it has none)."""

    path: str
    size: int
    identity: DiskIdentity = DiskIdentity()
    generation: str = ""
    epoch: int = 0


class OpenSession(Message, frozen=True, tag="open-session"):
    """Source to receiver: prepare the intermediate disks and fence every older writer."""

    id: int
    job: str
    disks: tuple[OpenDisk, ...]


class OpenedDisk(Value, frozen=True):
    """An intermediate disk that is ready. ``number`` names it in data frames.

    ``generation`` is minted when an intermediate disk is created and again whenever its
    content cannot be vouched for. ``fresh``: it is known to hold only zeros.
    """

    path: str
    number: int
    generation: str
    fresh: bool
    intermediate: str


class SessionOpened(Message, frozen=True, tag="session-opened"):
    """Receiver to source: where and with what key the data connections are made.

    ``secret`` is 32 fresh random bytes (base64 in JSON); ``epoch`` the last committed one.
    """

    answers: int
    session: str
    secret: bytes
    data_port: int
    epoch: int
    disks: tuple[OpenedDisk, ...]
    connections: int = 2
    window_bytes: int = 64 << 20

    def __repr__(self) -> str:
        return f"SessionOpened(session={self.session!r}, epoch={self.epoch}, secret=...)"


class CloseSession(Message, frozen=True, tag="close-session"):
    """Source to receiver: the session ends, its disks may be closed."""

    session: str


class SessionFailed(Message, frozen=True, tag="session-failed"):
    """Receiver to source: the session cannot go on (disk full, I/O error, fenced)."""

    session: str
    error: ErrorInfo


class Commit(Message, frozen=True, tag="commit"):
    """Source to receiver: all of epoch's content is durably acknowledged; record it."""

    id: int
    session: str
    job: str
    epoch: int
    consistency: Consistency
    frozen_seconds: float
    taken: str
    request: str = ""
    hold: bool = False
    cutover: bool = False


class Committed(Message, frozen=True, tag="committed"):
    """The checkpoint is recorded and, where the storage allows it, preserved.

    ``held``: the intermediate disks stay as they are until a later order releases them.
    """

    answers: int
    epoch: int
    held: bool = False
    snapshot: str | None = None
    preserved: str = ""


class CheckpointFailed(Message, frozen=True, tag="checkpoint-failed"):
    """Source to receiver: the wanted checkpoint could not be taken, and why."""

    job: str
    request: str
    error: ErrorInfo


class Ask(Message, frozen=True, tag="ask"):
    """Source to receiver: an administrator on the source asks for a change of his job."""

    id: int
    action: Literal["pause", "resume", "limit", "checkpoint", "cutover", "show"]
    bandwidth: int | None = None
    request: str = ""
    hold: bool = False


class Answer(Message, frozen=True, tag="answer"):
    """The receiver's answer to an Ask: JSON text of what the receiver's own command prints."""

    answers: int
    result: msgspec.Raw = msgspec.Raw(b"null")


ControlMessage = (
    Hello
    | Welcome
    | Refused
    | Heartbeat
    | AuthorityRequest
    | Authority
    | Enrol
    | Enrolled
    | Inventory
    | JobOrder
    | JobReport
    | OpenSession
    | SessionOpened
    | CloseSession
    | SessionFailed
    | Commit
    | Committed
    | CheckpointFailed
    | Ask
    | Answer
)
