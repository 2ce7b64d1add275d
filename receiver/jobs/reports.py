"""What happens to a job that nobody asked for: the source's word, commits, faults, restarts.

The receiver owns the state; the source only says what it is doing. Two rules keep a late or
stubborn report from undoing an order:

* a report that obeys an older revision of the order changes figures, never the state;
* only between the three states in which the source works (and into ``error``) does its word
  move a job. It cannot unpause, revive or finish one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.errors import JOB_STATE

if TYPE_CHECKING:
    from protocol.wire.jobs import JobReport, JobState
    from receiver.jobs.states import Outcome

WORKING: frozenset[JobState] = frozenset({"preparing", "syncing", "checkpointing"})
"""States in which the source decides which of them it is."""

COMMITTING: frozenset[JobState] = WORKING | {"paused", "error", "waiting"}
"""States in which a checkpoint may still be recorded: one that was under way when the job was
paused is as good as any, unless the disks are held."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a job stands: the columns that events change together."""

    state: JobState
    outcome: Outcome = ""
    held: bool = False
    next_sync: float | None = None


def after_report(state: JobState, revision: int, report: JobReport) -> JobState:
    """The stored state after a source's report.

    Args:
        state: the stored state.
        revision: of the order that the receiver sent last.
        report: what the source says; its ``revision`` is of the order that it obeys.
    """
    if report.revision != revision or state not in WORKING:
        return state
    if report.state in WORKING or report.state == "error":
        return report.state
    return state


def after_commit(
    job: str, standing: Standing, *, hold: bool, cutover: bool, next_sync: float | None
) -> Standing:
    """Where a job stands when a checkpoint has been recorded.

    Args:
        job: its id, for a refusal.
        standing: where it stood.
        hold: the checkpoint is to be held.
        cutover: it was the last one.
        next_sync: Unix seconds of the next scheduled sync; None: no schedule.

    Raises:
        LocalFault: JOB_STATE: this job takes no checkpoint now (finished, expired, held).
    """
    if standing.state not in COMMITTING or standing.held:
        state = f"{standing.state} and held" if standing.held else standing.state
        raise JOB_STATE.fault(job=job, state=state, action="checkpointed")
    if cutover:
        return Standing(state="finished", outcome="cutover")
    if standing.state in {"paused", "error"}:
        return Standing(state=standing.state, held=hold, next_sync=next_sync)
    if hold or next_sync is not None:
        return Standing(state="waiting", held=hold, next_sync=next_sync)
    return Standing(state="syncing")


def after_fault(state: JobState) -> JobState:
    """The state after the receiver's own side failed (disk full, I/O error, image not made)."""
    return "error" if state in WORKING | {"imaging", "waiting"} else state


def after_restart(state: JobState) -> JobState:
    """The state when the receiver starts again: what it was itself doing has not been done."""
    return "preparing" if state in WORKING | {"imaging"} else state


def when_imaging(job: str, state: JobState) -> JobState:
    """An image or drill begins from a preserved checkpoint of a job that is standing still.

    Raises:
        LocalFault: JOB_STATE when the source is writing (then image a snapshot on the side).
    """
    if state != "waiting":
        raise JOB_STATE.fault(job=job, state=state, action="imaged")
    return "imaging"


def after_imaging(standing: Standing, *, drill_only: bool) -> Standing:
    """Where a job stands after its image or drill; a job that was only a drill is then over."""
    if standing.state != "imaging":
        return standing
    if drill_only:
        return Standing(state="finished", outcome="drill")
    return Standing(state="waiting", held=standing.held, next_sync=standing.next_sync)


def when_due(state: JobState) -> JobState:
    """The state when ``next_sync`` has come: a scheduled job syncs, one to start later starts."""
    return "preparing" if state in {"ready", "waiting"} else state
