"""Finding a job's disk among those that are there: by what it is, and never by guessing."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.diskidentity import refreshed
from protocol.wire.jobs import DiskIdentity, DiskInfo, KnownDisk
from replicad.following import Ambiguous, Here, Match, Nowhere, match, match_all

GIB = 1 << 30
MARKED = DiskIdentity(serial="S1", wwn="W1", partition_table="P1", filesystems=("F1", "F2"))


def known(path: str = "/dev/vdb", size: int = GIB, **marks: Any) -> KnownDisk:
    return KnownDisk(path=path, size=size, identity=DiskIdentity(**marks))


def disk(path: str, size: int = GIB, **marks: Any) -> DiskInfo:
    identity = DiskIdentity(**marks)
    return DiskInfo(path=path, size=size, kind="disk", identity=identity)


def where(found: Match) -> str:
    assert isinstance(found, Here), found
    return found.info.path


@pytest.mark.parametrize(
    "marks",
    [
        {"serial": "S1"},
        {"wwn": "W1"},
        {"partition_table": "P1"},
        {"filesystems": ("F2", "F9")},
        # repartitioned, and all filesystems made anew: the hardware is the same
        {"serial": "S1", "partition_table": "P9", "filesystems": ("F9",)},
        # an adapter that says nothing of the hardware
        {"partition_table": "P1", "filesystems": ("F9",)},
    ],
)
def test_it_is_found_under_another_name_by_the_strongest_mark(marks: dict[str, Any]) -> None:
    wanted = KnownDisk(path="/dev/vdb", size=GIB, identity=MARKED)
    others = [disk("/dev/vdb", serial="S2", partition_table="P2"), disk("/dev/vdd")]
    there = disk("/dev/vdc", GIB, **marks)
    assert where(match(wanted, [*others, there])) == "/dev/vdc"


def test_names_that_are_swapped_are_followed() -> None:
    wanted = [known("/dev/vdb", filesystems=("B",)), known("/dev/vdc", filesystems=("C",))]
    present = [disk("/dev/vdb", filesystems=("C",)), disk("/dev/vdc", filesystems=("B",))]
    found = match_all(wanted, present, {})
    assert {path: where(each) for path, each in found.items()} == {
        "/dev/vdb": "/dev/vdc",
        "/dev/vdc": "/dev/vdb",
    }


def test_a_clone_is_never_guessed_at_also_not_by_its_name() -> None:
    wanted = known(partition_table="P", filesystems=("F",))
    twins = [disk(path, partition_table="P", filesystems=("F",)) for path in ("/dev/vdb", "/dev/c")]
    assert match(wanted, twins) == Ambiguous(("/dev/c", "/dev/vdb"))
    assert match_all([wanted], twins, {})["/dev/vdb"] == Ambiguous(("/dev/c", "/dev/vdb"))


def test_a_clone_is_told_by_hardware_size_or_because_the_disk_was_never_detached() -> None:
    wanted = known(serial="S1", partition_table="P")
    clone = disk("/dev/vdc", partition_table="P")
    assert where(match(wanted, [clone, disk("/dev/vdd", serial="S1")])) == "/dev/vdd"
    wanted = known(partition_table="P")
    larger = disk("/dev/vdb", size=2 * GIB, partition_table="P")
    assert where(match(wanted, [larger, clone])) == "/dev/vdc"
    twin = disk("/dev/vdb", partition_table="P")
    assert where(match(wanted, [twin, clone], proven="/dev/vdc")) == "/dev/vdc"


def test_what_was_never_detached_is_the_disk_whatever_was_made_of_it() -> None:
    wanted = known(partition_table="P", filesystems=("F",))
    assert where(match(wanted, [disk("/dev/vdb", filesystems=("new",))], "/dev/vdb")) == "/dev/vdb"
    other = disk("/dev/vdb", serial="S2")
    assert isinstance(match(known(serial="S1"), [other], "/dev/vdb"), Nowhere)


def test_members_of_one_mirror_under_their_own_names_are_told_by_those() -> None:
    wanted = [known("/dev/vdb", filesystems=("md",)), known("/dev/vdc", filesystems=("md",))]
    present = [disk("/dev/vdb", filesystems=("md",)), disk("/dev/vdc", filesystems=("md",))]
    found = match_all(wanted, present, {})
    assert [where(each) for each in found.values()] == ["/dev/vdb", "/dev/vdc"]
    third = disk("/dev/vdd", filesystems=("md",))
    assert isinstance(match_all(wanted, [*present, third], {})["/dev/vdb"], Ambiguous)


def test_another_disk_under_the_name_is_refused_with_the_difference() -> None:
    found = match(known(filesystems=("F",)), [disk("/dev/vdb", filesystems=("G",))])
    assert isinstance(found, Nowhere)
    assert "G" in found.detail
    assert "F" in found.detail
    bare = match(known(filesystems=("F",)), [disk("/dev/vdb")])
    assert isinstance(bare, Nowhere)
    assert "none of the marks" in bare.detail
    assert match(known(serial="S"), []) == Nowhere("")


def test_a_disk_without_marks_is_known_by_its_name_alone() -> None:
    assert where(match(known(), [disk("/dev/vdc"), disk("/dev/vdb")])) == "/dev/vdb"
    assert where(match(known(), [disk("/dev/vdb", filesystems=("new",))])) == "/dev/vdb"
    assert match(known(), [disk("/dev/vdc")]) == Nowhere("")


def test_a_disk_that_grew_is_still_the_disk() -> None:
    grown = disk("/dev/vdb", size=2 * GIB, partition_table="P")
    assert where(match(known(partition_table="P"), [grown])) == "/dev/vdb"


def test_marks_that_are_remembered_follow_what_the_disk_bears() -> None:
    now = DiskIdentity(filesystems=("F9",))
    assert refreshed(MARKED, now) == DiskIdentity(serial="S1", wwn="W1", filesystems=("F9",))
    assert refreshed(MARKED, DiskIdentity()) == MARKED
