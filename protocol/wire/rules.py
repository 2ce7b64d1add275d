"""Who may say which control message, and when: one table for both sides.

The table is the conversation; :mod:`protocol.wire.control` only looks things up in it, on the
way out as on the way in. A message without a row here cannot be said at all; a test holds
that every one has its row, and that docs/protocol.md shows the same table.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from protocol.wire.jobs import JobOrder, JobReport
from protocol.wire.messages import (
    Answer,
    Ask,
    Authority,
    AuthorityRequest,
    CheckpointFailed,
    CloseSession,
    Commit,
    Committed,
    ControlMessage,
    Enrol,
    Enrolled,
    Heartbeat,
    Hello,
    Inventory,
    OpenSession,
    Refused,
    SessionFailed,
    SessionOpened,
    Verified,
    VerifyFailed,
    Welcome,
)


class Role(enum.Enum):
    """Which side we are."""

    SOURCE = "source"
    RECEIVER = "receiver"


class Phase(enum.Enum):
    """How far the conversation has come."""

    GREETING = "greeting"
    NEGOTIATING = "negotiating"
    ENROLLING = "enrolling"
    ESTABLISHED = "established"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may say a message, when, and what it does.

    ``asks``: it has an ``id`` and wants an answer. ``answers``: the request that it answers.
    ``ends``: the connection is over with it.
    """

    senders: frozenset[Role]
    phases: frozenset[Phase]
    asks: bool = False
    answers: type[ControlMessage] | None = None
    ends: bool = False


_SOURCE: Final = frozenset({Role.SOURCE})
_RECEIVER: Final = frozenset({Role.RECEIVER})
_BOTH: Final = _SOURCE | _RECEIVER
_ESTABLISHED: Final = frozenset({Phase.ESTABLISHED})
_ENROLLING: Final = frozenset({Phase.ENROLLING})
_ANY: Final = frozenset(Phase) - {Phase.CLOSED}

RULES: Final[dict[type[ControlMessage], Rule]] = {
    Hello: Rule(_SOURCE, frozenset({Phase.GREETING})),
    Welcome: Rule(_RECEIVER, frozenset({Phase.NEGOTIATING})),
    Refused: Rule(_BOTH, _ANY),
    AuthorityRequest: Rule(_SOURCE, _ENROLLING, asks=True),
    Authority: Rule(_RECEIVER, _ENROLLING, answers=AuthorityRequest, ends=True),
    Enrol: Rule(_SOURCE, _ENROLLING, asks=True),
    Enrolled: Rule(_RECEIVER, _ENROLLING, answers=Enrol, ends=True),
    Heartbeat: Rule(_BOTH, _ESTABLISHED),
    Inventory: Rule(_SOURCE, _ESTABLISHED),
    JobOrder: Rule(_RECEIVER, _ESTABLISHED),
    JobReport: Rule(_SOURCE, _ESTABLISHED),
    OpenSession: Rule(_SOURCE, _ESTABLISHED, asks=True),
    SessionOpened: Rule(_RECEIVER, _ESTABLISHED, answers=OpenSession),
    CloseSession: Rule(_SOURCE, _ESTABLISHED),
    SessionFailed: Rule(_RECEIVER, _ESTABLISHED),
    Commit: Rule(_SOURCE, _ESTABLISHED, asks=True),
    Committed: Rule(_RECEIVER, _ESTABLISHED, answers=Commit),
    CheckpointFailed: Rule(_SOURCE, _ESTABLISHED),
    Verified: Rule(_SOURCE, _ESTABLISHED),
    VerifyFailed: Rule(_SOURCE, _ESTABLISHED),
    Ask: Rule(_SOURCE, _ESTABLISHED, asks=True),
    Answer: Rule(_RECEIVER, _ESTABLISHED, answers=Ask),
}
