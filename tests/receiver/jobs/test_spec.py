"""What can be a job, and what can be changed of one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from protocol.errors import Fault
from receiver.jobs.spec import EDITABLE, JobSpec, checked, edited

GOOD = JobSpec(source="web01", disks=("/dev/vda", "/dev/vdb"))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"source": ""}, "source"),
        ({"disks": ("vda",)}, "absolute"),
        ({"disks": ("/dev/vda", "/dev/vda")}, "twice"),
        ({"disks": tuple(f"/dev/d{n}" for n in range(257))}, "256"),
        ({"targets": ("file",)}, "neither"),
        ({"targets": ("device:sdb", "raw")}, "neither"),
        ({"targets": ("device:/dev/sdb",)}, "one target for each"),
        ({"targets": ("device:/dev/sdb", "device:/dev/sdb")}, "twice"),
        ({"targets": ("raw", "raw", "raw")}, "do not fit"),
        ({"disks": (), "targets": ("device:/dev/sdb",)}, "one target for each"),
        ({"every": 0.5}, "every"),
        ({"every": 168 * 3600 + 1.0}, "every"),
        ({"every": float("nan")}, "every"),
        ({"keep": 0}, "keep"),
        ({"keep": 101}, "keep"),
        ({"bandwidth": -1}, "bandwidth"),
        ({"freeze_budget": 0.0}, "freeze_budget"),
        ({"freeze_budget": 601.0}, "freeze_budget"),
        ({"valid": 0.0}, "valid"),
        ({"start": "at"}, "time"),
        ({"start_at": 5.0}, "time"),
        ({"compress": "0"}, "compress"),
        ({"compress": "20"}, "compress"),
        ({"compress": "²"}, "compress"),
        ({"compress": "fast"}, "compress"),
        ({"name": "a\nb"}, "printable"),
        ({"name": "x" * 4097}, "4096"),
    ],
)
def test_what_cannot_be_a_job_is_named(change: dict[str, Any], word: str) -> None:
    with pytest.raises(Fault, match=f"RPL-1002.*{word}"):
        checked(msgspec.structs.replace(GOOD, **change))


def test_all_problems_are_told_at_once() -> None:
    problems = msgspec.structs.replace(GOOD, keep=0, compress="x", source="").problems()
    assert len(problems) == 3


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ((), ("raw", "raw")),
        (("raw",), ("raw", "raw")),
        (("raw", "device:/dev/sdb"), ("raw", "device:/dev/sdb")),
    ],
)
def test_targets_fall_to_disks(targets: tuple[str, ...], expected: tuple[str, ...]) -> None:
    spec = checked(msgspec.structs.replace(GOOD, targets=targets))
    assert tuple(spec.target_of(number) for number in range(2)) == expected


def test_only_editable_keys_are_changed() -> None:
    changes = {
        "bandwidth": 1000,
        "compress": "3",
        "free_space": "skip",
        "freeze_budget": 1,
        "every": None,
        "keep": 7,
        "name": "move",
        "valid": 60.0,
    }
    assert changes.keys() == EDITABLE
    new = edited(GOOD, changes)
    assert (new.keep, new.name, new.freeze_budget) == (7, "move", 1.0)
    assert new.disks == GOOD.disks
    for key in set(JobSpec.__struct_fields__) - EDITABLE:
        with pytest.raises(Fault, match=f"{key} cannot be set"):
            edited(GOOD, {key: getattr(GOOD, key)})


@pytest.mark.parametrize("bad", [{"keep": "3"}, {"keep": 0}, {"bandwidth": 1.5}, {"nonsense": 1}])
def test_values_that_do_not_fit_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(Fault, match="RPL-1002"):
        edited(GOOD, bad)


def test_a_spec_survives_the_catalog() -> None:
    assert msgspec.json.decode(msgspec.json.encode(GOOD), type=JobSpec) == GOOD
