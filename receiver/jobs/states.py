"""What may be asked of a job in each state, and what the job becomes: one table.

The idea is h11's: transitions are data, so they can be read, printed and tested as a whole.
A pair that is not in the table is refused, with the sentence of RPL-4005.

A job's life::

    ready ─start─> preparing ─> syncing <─> checkpointing ─> imaging
      │              ^  ^  ^        │             │
      │        resume│  │  │retry   v             v
      │          paused │  error  waiting (between scheduled syncs, or held)
      │                 └────────────┘ resume, or the schedule
      v
    every state ─cancel─> finished, and ─valid is over─> expired ─start─> preparing

``finished`` is the only end; its outcome says how (``cutover``, ``cancelled``, ``drill``).
"""

from __future__ import annotations

from typing import Literal, get_args

from protocol.errors import JOB_EXPIRED, JOB_STATE
from protocol.units import format_instant, instant_of
from protocol.wire.jobs import JobState

Action = Literal[
    "start",
    "pause",
    "resume",
    "retry",
    "cancel",
    "delete",
    "set",
    "checkpoint",
    "cutover",
    "verify",
]
Want = Literal["none", "run", "pause", "stop"]
Outcome = Literal["", "cutover", "cancelled", "drill"]

STATES: tuple[JobState, ...] = get_args(JobState)
ACTIONS: tuple[Action, ...] = get_args(Action)
UNFINISHED: frozenset[JobState] = frozenset(STATES) - {"finished"}

_SAME = "same"
"""The action is recorded (as an order, or an edited spec) and the state stays."""

_GONE = "gone"
"""The job exists no more."""

_PAST_TENSE: dict[Action, str] = {
    "start": "started",
    "pause": "paused",
    "resume": "resumed",
    "retry": "retried",
    "cancel": "cancelled",
    "delete": "deleted",
    "set": "changed",
    "checkpoint": "checkpointed",
    "cutover": "cut over",
    "verify": "verified",
}

# A row per state, so that it can be read as "a job that is ... can be ...".
TABLE: dict[JobState, dict[Action, str]] = {
    "ready": {
        "start": "preparing",
        "cancel": "finished",
        "delete": _GONE,
        "set": _SAME,
    },
    "preparing": {
        "pause": "paused",
        "cancel": "finished",
        "set": _SAME,
        "checkpoint": _SAME,
        "cutover": _SAME,
        "verify": _SAME,
    },
    "syncing": {
        "pause": "paused",
        "retry": _SAME,
        "cancel": "finished",
        "set": _SAME,
        "checkpoint": _SAME,
        "cutover": _SAME,
        "verify": _SAME,
    },
    "checkpointing": {
        "pause": "paused",
        "cancel": "finished",
        "set": _SAME,
        "cutover": _SAME,
    },
    "imaging": {
        "cancel": "finished",
        "set": _SAME,
    },
    "waiting": {
        "pause": "paused",
        "resume": "preparing",
        "retry": "preparing",
        "cancel": "finished",
        "set": _SAME,
        "checkpoint": "preparing",
        "cutover": "preparing",
        "verify": "preparing",
    },
    "paused": {
        "resume": "preparing",
        "cancel": "finished",
        "set": _SAME,
    },
    "error": {
        "pause": "paused",
        "retry": "preparing",
        "cancel": "finished",
        "set": _SAME,
    },
    "expired": {
        "start": "preparing",
        "cancel": "finished",
        "delete": _GONE,
        "set": _SAME,
    },
    "finished": {
        "delete": _GONE,
    },
}

_NOT_WHILE_HELD: frozenset[Action] = frozenset({"checkpoint", "cutover", "verify", "retry"})
"""What would make the source write to intermediate disks that are promised to stand still. (Only
a job that waits is held.)"""

# What the source is told in each state. Between scheduled syncs it tracks but sends nothing.
WANTED: dict[JobState, Want] = {
    "ready": "none",
    "preparing": "run",
    "syncing": "run",
    "checkpointing": "run",
    "imaging": "pause",
    "waiting": "pause",
    "paused": "pause",
    "error": "pause",
    "expired": "stop",
    "finished": "stop",
}


def after_action(
    job: str,
    state: JobState,
    action: Action,
    *,
    held: bool = False,
    valid_until: float | None = None,
    now: float = 0.0,
) -> JobState | None:
    """The state of a job after an administrator's action; None: it is deleted.

    Args:
        job: its id, for the sentence of a refusal.
        state: its state now.
        action: what is asked.
        held: whether its intermediate disks are held at a checkpoint.
        valid_until: Unix seconds at which it expires, None for never.
        now: Unix seconds.

    Raises:
        LocalFault: JOB_STATE when the table has no such transition, JOB_EXPIRED when an
            expired job is started without more time.
    """
    becomes = TABLE[state].get(action)
    if becomes is None:
        raise JOB_STATE.fault(job=job, state=state, action=_PAST_TENSE[action])
    if held and action in _NOT_WHILE_HELD:
        raise JOB_STATE.fault(
            job=job, state=f"{state} and held at its checkpoint", action=_PAST_TENSE[action]
        )
    if action == "start" and valid_until is not None and now >= valid_until:
        raise JOB_EXPIRED.fault(job=job, when=format_instant(instant_of(valid_until)))
    if becomes == _GONE:
        return None
    return state if becomes == _SAME else _known(becomes)


def _known(state: str) -> JobState:
    """``state`` with its type: the table's values share a column with two words of its own."""
    for known in STATES:
        if known == state:
            return known
    raise AssertionError(f"the table names {state!r}, which is no state")


def outcome_of(action: Action, outcome: Outcome) -> Outcome:
    """A job's outcome after ``action``: cancelling is the only action that ends one at once."""
    return "cancelled" if action == "cancel" else outcome


def releases_hold(action: Action) -> bool:
    """Whether ``action`` lets the intermediate disks go on from a held checkpoint."""
    return action in {"resume", "retry", "start", "cancel"}


def wanted(state: JobState) -> Want:
    """What the source is told to do about a job in this state."""
    return WANTED[state]
