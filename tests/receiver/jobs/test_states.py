"""The table of actions: complete, without a trap, and what source and clock may do to it."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.errors import Fault
from protocol.wire.jobs import JobReport, JobState
from receiver.jobs import reports, schedule, states
from receiver.jobs.reports import Standing
from receiver.jobs.states import ACTIONS, STATES, TABLE, Action, after_action

NOW = 1_800_000_000.0


def test_the_table_names_every_state_and_only_states() -> None:
    assert set(TABLE) == set(STATES) == set(get_args(JobState)) == set(states.WANTED)
    for row in TABLE.values():
        assert set(row) <= set(ACTIONS)
        assert set(row.values()) <= {*STATES, states._SAME, states._GONE}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("action", ACTIONS)
def test_every_pair_is_a_state_or_a_refusal(state: JobState, action: Action) -> None:
    if action in TABLE[state]:
        new = after_action("j", state, action)
        assert new is None or new in STATES
        return
    with pytest.raises(Fault, match=f"RPL-4005.*job j is {state}.*{states._PAST_TENSE[action]}"):
        after_action("j", state, action)


def reachable(start: JobState) -> set[str]:
    """What administrators alone can make of a job."""
    found: set[str] = set()
    left: list[str] = [start]
    while left:
        state = left.pop()
        if state in found or state not in TABLE:
            found.add(state)
            continue
        found.add(state)
        left += [state if new == "same" else new for new in TABLE[state].values()]
    return found


@pytest.mark.parametrize("state", STATES)
def test_no_state_is_a_trap(state: JobState) -> None:
    assert {"finished", "gone"} <= reachable(state)
    if state not in {"finished", "imaging"}:
        assert "preparing" in reachable(state)


@pytest.mark.parametrize("state", sorted(states.UNFINISHED))
def test_every_unfinished_job_can_be_cancelled(state: JobState) -> None:
    assert after_action("j", state, "cancel", held=True) == "finished"
    assert states.outcome_of("cancel", "") == "cancelled"
    assert states.outcome_of("set", "cutover") == "cutover"


def test_only_what_is_over_or_has_not_begun_is_deleted() -> None:
    deletable = {state for state, row in TABLE.items() if "delete" in row}
    assert deletable == {"ready", "expired", "finished"}


@pytest.mark.parametrize("action", ["checkpoint", "cutover", "verify"])
def test_a_held_job_takes_no_checkpoint(action: Action) -> None:
    with pytest.raises(Fault, match="held"):
        after_action("j", "waiting", action, held=True)
    assert after_action("j", "waiting", action) == "preparing"
    assert states.releases_hold("resume")
    assert not states.releases_hold("pause")


def test_an_expired_job_starts_only_with_more_time() -> None:
    with pytest.raises(Fault, match=r"RPL-4110.*2027-01-15T08:00:00Z"):
        after_action("j", "expired", "start", valid_until=NOW, now=NOW)
    assert after_action("j", "expired", "start", valid_until=NOW + 1, now=NOW) == "preparing"


def report(state: JobState, revision: int = 1) -> JobReport:
    return JobReport(job="j", revision=revision, state=state)


@given(st.sampled_from(STATES), st.sampled_from(STATES), st.integers(0, 3), st.integers(0, 3))
def test_a_report_moves_only_a_working_job_of_its_own_revision(
    stored: JobState, said: JobState, ours: int, theirs: int
) -> None:
    new = reports.after_report(stored, ours, report(said, theirs))
    if theirs != ours or stored not in reports.WORKING:
        assert new == stored
    assert new in {stored, said}
    assert new in reports.WORKING | {"error", stored}


def test_a_late_report_does_not_unpause() -> None:
    for revision in (4, 5, 6):
        assert reports.after_report("paused", 5, report("syncing", revision)) == "paused"


def test_an_old_error_does_not_undo_a_retry() -> None:
    assert reports.after_report("preparing", 5, report("error", 4)) == "preparing"
    assert reports.after_report("preparing", 5, report("error", 5)) == "error"


@pytest.mark.parametrize(
    ("before", "hold", "cutover", "next_sync", "after"),
    [
        ("checkpointing", False, False, None, Standing("syncing")),
        ("checkpointing", True, False, None, Standing("waiting", held=True)),
        ("checkpointing", False, False, 9.0, Standing("waiting", next_sync=9.0)),
        ("checkpointing", False, True, 9.0, Standing("finished", "cutover")),
        ("checkpointing", True, True, None, Standing("finished", "cutover")),
        ("paused", False, False, None, Standing("paused")),
        ("paused", True, False, 9.0, Standing("paused", held=True, next_sync=9.0)),
        ("error", False, True, None, Standing("finished", "cutover")),
    ],
)
def test_commits(
    before: JobState, hold: bool, cutover: bool, next_sync: float | None, after: Standing
) -> None:
    standing = Standing(before)
    assert (
        reports.after_commit("j", standing, hold=hold, cutover=cutover, next_sync=next_sync)
        == after
    )


@pytest.mark.parametrize(
    "standing",
    [Standing("finished"), Standing("expired"), Standing("ready"), Standing("waiting", held=True)],
)
def test_commits_that_come_too_late_are_refused(standing: Standing) -> None:
    with pytest.raises(Fault, match="RPL-4005"):
        reports.after_commit("j", standing, hold=False, cutover=False, next_sync=None)


class JobLife(RuleBasedStateMachine):
    """Anything may happen in any order; a job stays in the table and can always be ended."""

    def __init__(self) -> None:
        super().__init__()
        self.standing = Standing("ready")
        self.revision = 1
        self.gone = False
        self.now = NOW

    def put(self, state: JobState) -> None:
        old = self.standing
        self.standing = Standing(state, old.outcome, old.held, old.next_sync)

    @precondition(lambda self: not self.gone)
    @rule(action=st.sampled_from(ACTIONS))
    def act(self, action: Action) -> None:
        old = self.standing
        try:
            new = after_action("j", old.state, action, held=old.held)
        except Fault as fault:
            assert fault.code in {"RPL-4005", "RPL-4110"}
            return
        self.revision += 1
        if new is None:
            self.gone = True
            return
        held = old.held and not states.releases_hold(action)
        self.standing = Standing(new, states.outcome_of(action, old.outcome), held, old.next_sync)

    @rule(said=st.sampled_from(STATES), late=st.booleans())
    def hear(self, said: JobState, late: bool) -> None:
        before = self.standing.state
        self.put(reports.after_report(before, self.revision, report(said, self.revision - late)))
        if before in {"paused", "finished", "expired", "ready"}:
            assert self.standing.state == before

    @rule(hold=st.booleans(), cutover=st.booleans(), scheduled=st.booleans())
    def commit(self, hold: bool, cutover: bool, scheduled: bool) -> None:
        before = self.standing
        try:
            self.standing = reports.after_commit(
                "j", before, hold=hold, cutover=cutover, next_sync=9.0 if scheduled else None
            )
        except Fault:
            return
        assert not before.held
        assert before.state != "finished"

    @rule()
    def fail(self) -> None:
        self.put(reports.after_fault(self.standing.state))

    @rule()
    def restart(self) -> None:
        self.put(reports.after_restart(self.standing.state))

    @rule()
    def become_due(self) -> None:
        if not self.standing.held:
            self.put(reports.when_due(self.standing.state))

    @rule(drill_only=st.booleans(), fails=st.booleans())
    def image(self, drill_only: bool, fails: bool) -> None:
        try:
            self.put(reports.when_imaging("j", self.standing.state))
        except Fault:
            return
        if fails:
            self.put(reports.after_fault(self.standing.state))
        else:
            self.standing = reports.after_imaging(self.standing, drill_only=drill_only)

    @rule()
    def expire(self) -> None:
        if schedule.has_expired(self.standing.state, self.now, self.now):
            self.put("expired")

    @invariant()
    def is_in_the_table(self) -> None:
        assert self.standing.state in TABLE
        assert (self.standing.outcome != "") == (self.standing.state == "finished")

    @invariant()
    def can_be_ended(self) -> None:
        if self.standing.state != "finished":
            held = self.standing.held
            assert after_action("j", self.standing.state, "cancel", held=held) == "finished"

    @invariant()
    def holds_only_while_nothing_is_written(self) -> None:
        if self.standing.held and self.standing.state != "finished":
            assert states.wanted(self.standing.state) != "run"


TestJobLife = JobLife.TestCase
