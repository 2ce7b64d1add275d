"""What the receiver can prove: sessions that it knows, and changes that were not its own."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Fault
from protocol.wire.limits import CONNECTIONS_MAX
from receiver.disk import files
from receiver.disk.lease import LEASE_NS, Lease
from receiver.evidence import (
    NS,
    Left,
    Machine,
    Mark,
    Past,
    State,
    forgotten,
    went_back,
    written_by_others,
)
from receiver.jobs.spec import DISKS_MAX
from receiver.memory import FILE_BYTES, LEASES_AT, SESSIONS, SLOT_BYTES, Memory, machine

VECTORS = st.lists(st.integers(0, 50), max_size=5).map(tuple)
BOOT = Machine(boot="b1", booted=1000 * NS)


@given(VECTORS, VECTORS)
def test_it_has_forgotten_exactly_when_a_connection_says_more(
    told: tuple[int, ...], kept: tuple[int, ...]
) -> None:
    state = State(job="j", sessions=(Past(id="s", acked=kept),))
    lacks = any(
        count > (kept[index] if index < len(kept) else 0) for index, count in enumerate(told)
    )
    assert forgotten(state, "s", told) is lacks


def test_an_unknown_session_or_no_memory_at_all_is_forgetting() -> None:
    state = State(job="j", sessions=(Past(id="s"),))
    assert forgotten(state, "other", ())
    assert forgotten(None, "s", ())
    assert not forgotten(None, "", ())
    assert not forgotten(state, "s", ())


def test_a_sum_of_acks_would_not_do() -> None:
    """20 frames on either side, but not the same ones."""
    state = State(job="j", sessions=(Past(id="s", acked=(10, 10)),))
    assert forgotten(state, "s", (20, 0))


@given(VECTORS, VECTORS)
def test_a_source_went_back_when_it_sent_less_than_is_here(
    sent: tuple[int, ...], kept: tuple[int, ...]
) -> None:
    state = State(job="j", sessions=(Past(id="s", acked=kept),))
    more = any(
        count > (sent[index] if index < len(sent) else 0) for index, count in enumerate(kept)
    )
    # A process that has not sent anything itself says nothing.
    assert went_back(state, "s", sent) is (more and bool(sent))


def test_a_source_went_back_when_a_later_session_carried_something() -> None:
    first, idle, used = Past(id="a", acked=(5,)), Past(id="b"), Past(id="c", acked=(0, 1))
    assert not went_back(State(job="j", sessions=(first, idle)), "a", ())
    assert went_back(State(job="j", sessions=(first, idle, used)), "a", ())
    assert went_back(State(job="j", sessions=(first, used, idle)), "a", (5,))
    assert not went_back(State(job="j", sessions=(first, used, idle)), "c", ())
    assert not went_back(State(job="j", sessions=(first,)), "unknown", (1,))
    assert not went_back(None, "a", (1,))


def left(**mark: int) -> State:
    return State(job="j", boot="b1", left=(Left(number=0, mark=Mark(**mark)),))


def judged(state: State | None, lease: int = 0, boot: Machine = BOOT, **mark: int) -> str:
    return written_by_others(state, 0, lease, Mark(**mark), boot)


def test_a_file_is_as_it_was_left_or_somebody_changed_it() -> None:
    assert judged(left(changed=5), changed=5) == ""
    assert "changed by somebody else" in judged(left(changed=5), changed=6)
    # A copy's time of change cannot be set back, but a clock can.
    assert "changed by somebody else" in judged(left(changed=5), changed=4)
    doubted = State(job="j", boot="b1", left=(Left(number=0, mark=Mark(changed=5), doubt="seen"),))
    assert judged(doubted, changed=5) == "seen"


def test_after_a_kill_the_lease_decides_and_after_a_boot_the_boot() -> None:
    killed = State(job="j", boot="b1", left=None)
    assert judged(killed, lease=2000 * NS, changed=2000 * NS) == ""
    assert judged(killed, lease=2000 * NS, changed=2000 * NS + 1) != ""
    other = Machine(boot="b2", booted=3000 * NS)
    # Power went between: what we wrote after the lease that got to the disk is ours.
    assert judged(killed, lease=2000 * NS, boot=other, changed=2999 * NS) == ""
    assert judged(killed, lease=2000 * NS, boot=other, changed=3001 * NS) != ""


def test_a_device_is_judged_by_its_counters_within_a_boot() -> None:
    before = left(attached=7, sectors=100)
    assert judged(before, attached=7, sectors=100) == ""
    assert "wrote" in judged(before, attached=7, sectors=108)
    assert "detached" in judged(before, attached=8, sectors=0)
    other = Machine(boot="b2", booted=0)
    assert judged(before, boot=other, attached=1, sectors=3) == ""
    assert judged(State(job="j", boot="b1"), attached=7, sectors=9) == ""


# --- the file -----------------------------------------------------------------------------------


def test_what_is_noted_is_there_for_the_next_process(tmp_path: Path) -> None:
    memory = Memory.open(tmp_path, "job1")
    assert memory.state is None
    memory.begin("s1", "boot", "job1")
    memory.note({0: 3, 2: 9})
    memory.extend(4, 123)
    memory.close()
    again = Memory.open(tmp_path, "job1")
    assert again.state is not None
    assert again.state.sessions == (Past(id="s1", boot="boot", acked=(3, 0, 9)),)
    assert again.state.left is None
    assert again.state.boot == machine().boot
    assert (again.lease(4), again.lease(5)) == (123, 0)
    again.end([Left(number=0, mark=Mark(changed=1))])
    again.begin("s2", "boot2", "job1")
    assert again.state.left is None
    assert [past.id for past in again.state.sessions] == ["s1", "s2"]
    again.close()


def test_it_is_bounded_and_private(tmp_path: Path) -> None:
    memory = Memory.open(tmp_path, "job1")
    for number in range(3 * SESSIONS):
        memory.begin(f"{number:032x}", "0" * 36, "job1")
        memory.note({index: (1 << 62) + index for index in range(CONNECTIONS_MAX)})
    doubt = "the intermediate disk was changed by somebody else at 2026-12-01 03:12:00 UTC"
    mark = Mark(changed=1 << 61, attached=1 << 40, sectors=1 << 60)
    memory.end([Left(number=n, mark=mark, doubt=doubt) for n in range(DISKS_MAX)])
    assert memory.state is not None
    assert len(memory.state.sessions) == SESSIONS
    memory.close()
    status = (tmp_path / "disks/job1" / files.MEMORY).stat()
    assert status.st_size == FILE_BYTES
    assert status.st_blocks * 512 >= FILE_BYTES, "a full disk must not be able to stop it"
    assert status.st_mode & 0o777 == 0o600


@pytest.mark.parametrize("torn", range(0, 400, 23))
def test_a_torn_write_leaves_what_was_there_before(tmp_path: Path, torn: int) -> None:
    memory = Memory.open(tmp_path, "job1")
    memory.begin("s1", "", "job1")
    memory.note({0: 5})
    memory.note({0: 6})
    memory.close()
    path = tmp_path / "disks/job1" / files.MEMORY
    whole = path.read_bytes()
    newest = max((0, SLOT_BYTES), key=lambda at: whole[at + 12 : at + 20][::-1])
    with path.open("r+b") as file:
        file.seek(newest + torn)
        old = file.read(1)
        file.seek(newest + torn)
        file.write(bytes([old[0] ^ 0x55]))
    again = Memory.open(tmp_path, "job1")
    again.close()
    assert again.state is not None
    length = int.from_bytes(whole[newest + 8 : newest + 12], "little")
    assert again.state.sessions[-1].acked == ((5,) if torn < 28 + length else (6,))


@pytest.mark.parametrize("damage", ["cut", "zeroed", "noise"])
def test_a_damaged_file_remembers_nothing(tmp_path: Path, damage: str) -> None:
    memory = Memory.open(tmp_path, "job1")
    memory.begin("s1", "", "job1")
    memory.close()
    path = tmp_path / "disks/job1" / files.MEMORY
    if damage == "cut":
        os.truncate(path, 100)
    else:
        path.write_bytes(bytes(FILE_BYTES) if damage == "zeroed" else os.urandom(FILE_BYTES))
    again = Memory.open(tmp_path, "job1")
    assert again.state is None
    again.begin("s2", "", "job1")
    again.close()
    assert path.stat().st_size == FILE_BYTES
    assert LEASES_AT == 2 * SLOT_BYTES


@pytest.mark.parametrize("what", ["link", "fifo", "hard link"])
def test_something_else_in_its_place_is_refused(tmp_path: Path, what: str) -> None:
    Memory.open(tmp_path, "job1").close()
    path = tmp_path / "disks/job1" / files.MEMORY
    if what == "hard link":
        (tmp_path / "other").hardlink_to(path)
    else:
        path.unlink()
        path.symlink_to(tmp_path / "x") if what == "link" else os.mkfifo(path)
    with pytest.raises(Fault, match=r"RPL-410[68]"):
        Memory.open(tmp_path, "job1")
    assert not (tmp_path / "x").exists()


# --- the lease ----------------------------------------------------------------------------------


class File:
    """A file and a clock."""

    def __init__(self) -> None:
        self.now = 100 * NS
        self.changed = 100 * NS
        self.recorded = 0
        self.lease = Lease("f", lambda: self.changed, self._record, lambda: self.now)

    def _record(self, until: int) -> None:
        self.recorded = until

    def write(self, seconds: float = 0.0) -> None:
        with self.lease:
            self.now += int(seconds * NS)
            self.changed = self.now


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), max_size=20))
def test_our_own_writes_never_lie_beyond_the_recorded_lease(
    steps: list[tuple[float, float]],
) -> None:
    """However slow they are, and however long nothing is written between."""
    file = File()
    for pause, seconds in steps:
        file.now += int(pause * NS)
        file.write(seconds)
        assert file.changed <= file.recorded
        file.lease.look()


def test_what_somebody_else_wrote_is_noticed_and_stays_noticed() -> None:
    file = File()
    file.write()
    file.now += LEASE_NS + 1
    file.changed = file.now
    with pytest.raises(Fault, match="RPL-4113"):
        file.write()
    assert "changed by somebody else" in file.lease.doubt
    with pytest.raises(Fault, match="RPL-4113"):
        file.lease.look()


def test_a_clock_that_is_put_back_does_not_make_a_lease_last() -> None:
    file = File()
    file.now = 50 * NS
    with file.lease:
        pass
    assert file.recorded == 50 * NS + LEASE_NS


def test_the_state_is_plain_text() -> None:
    state = left(changed=5)
    assert msgspec.json.decode(msgspec.json.encode(state), type=State) == state
