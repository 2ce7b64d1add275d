"""The control messages: what source and receiver say to each other on port 8080.

One structure a message; the values that they carry, the order and the report among them, are in
:mod:`protocol.wire.jobs`, with how messages are encoded. Sizes are bytes, durations seconds,
instants RFC 3339 UTC text.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from protocol.wire.jobs import (
    Consistency,
    DiskIdentity,
    DiskInfo,
    DiskRange,
    ErrorInfo,
    JobOrder,
    JobReport,
    Message,
    Value,
)
from protocol.wire.limits import AES_256_GCM

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
    source's dirty map belongs to ('' and 0 when it has none).

    ``session`` and ``acked`` are the source's memory: the last session in which the map was used,
    and how many frames of each of its connections, by index, were acknowledged. A receiver that
    knows less than that has been put back to an earlier state. ``sent``: how many frames of each
    were sent in it, empty when that is not known; a receiver that has more, or has heard of a later
    session, knows that the source was put back. ``proven``: nobody has exchanged
    the disk since then, whatever marks it bears now.
    """

    path: str
    size: int
    identity: DiskIdentity = DiskIdentity()
    generation: str = ""
    epoch: int = 0
    session: str = ""
    acked: tuple[int, ...] = ()
    sent: tuple[int, ...] = ()
    proven: bool = False


class OpenSession(Message, frozen=True, tag="open-session"):
    """Source to receiver: prepare the intermediate disks and fence every older writer.

    ``round_trip`` is how long the line is, in seconds, 0 when it is not known: a long one needs
    more connections, because each may have only so much under way. ``ciphers``: those that it
    would use, the best first; a source of before they were named has AES-256-GCM only.
    """

    id: int
    job: str
    disks: tuple[OpenDisk, ...]
    round_trip: float = 0.0
    ciphers: tuple[str, ...] = (AES_256_GCM,)


class OpenedDisk(Value, frozen=True):
    """An intermediate disk that is ready. ``number`` names it in data frames.

    ``generation`` is minted when an intermediate disk is created and again whenever its
    content cannot be vouched for; ``reason`` is then why, in words. ``fresh``: it is known to
    hold only zeros. ``full``: everything is to be sent, zeros too.
    """

    path: str
    number: int
    generation: str
    fresh: bool
    intermediate: str
    full: bool = False
    reason: str = ""


class SessionOpened(Message, frozen=True, tag="session-opened"):
    """Receiver to source: where and with what key the data connections are made.

    ``secret`` is 32 fresh random bytes (base64 in JSON); ``epoch`` the last committed one;
    ``last_boot`` the boot id that the source had in the session before, '' if there was none.
    ``cipher``: the one that seals all frames, of those that the source named.
    """

    answers: int
    session: str
    secret: bytes
    data_port: int
    epoch: int
    disks: tuple[OpenedDisk, ...]
    connections: int = 2
    window_bytes: int = 64 << 20
    last_boot: str = ""
    cipher: str = AES_256_GCM

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


class Verified(Message, frozen=True, tag="verified"):
    """Source to receiver: the wanted verification is complete, and what it found.

    ``request`` and ``repair`` are those of the order that this answers. ``when`` it ended;
    ``bytes_compared`` leaves out what was written meanwhile. ``ranges``: the first of those that
    differed, exactly; ``more_ranges``: how many there are beyond them. ``repaired``: something
    differed, and nothing does any more. ``differing`` covers, coarsely where it must,
    everything that still differs.
    """

    job: str
    request: str
    when: str
    bytes_compared: int
    repair: bool = False
    differing_bytes: int = 0
    ranges: tuple[DiskRange, ...] = ()
    more_ranges: int = 0
    repaired: bool = False
    seconds: float = 0.0
    differing: tuple[DiskRange, ...] = ()


class VerifyFailed(Message, frozen=True, tag="verify-failed"):
    """Source to receiver: the wanted verification cannot be made, and why."""

    job: str
    request: str
    error: ErrorInfo


class Ask(Message, frozen=True, tag="ask"):
    """Source to receiver: an administrator on the source asks for a change of his job."""

    id: int
    action: Literal["pause", "resume", "limit", "checkpoint", "cutover", "verify", "show"]
    bandwidth: int | None = None
    request: str = ""
    hold: bool = False
    repair: bool = False


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
    | Verified
    | VerifyFailed
    | Ask
    | Answer
)
