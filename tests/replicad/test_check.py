"""Each question of ``replicad check`` can be answered with no as well as with yes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from protocol.local.values import Address
from protocol.views import CheckItem
from protocol.wire.jobs import DiskInfo
from replicad import check
from replicad.freeze.mounts import FrozenMount, Mount

ROOT_STATUS = "Name:\tx\nCapEff:\t000001ffffffffff\n"


def mount(point: str, kind: str, device: str) -> Mount:
    return Mount(1, device, "/", point, kind, "source", read_only=False)


def frozen(point: str, kind: str, device: str) -> FrozenMount:
    return FrozenMount(point, kind, "source", device, ((point, 1),))


def levels(items: list[CheckItem]) -> list[str]:
    assert all(item.remedy for item in items if item.level in {"warning", "problem"})
    return [item.level for item in items]


@pytest.mark.parametrize(
    ("release", "level"),
    [("6.18.44-fc", "ok"), ("5.12.0", "ok"), ("5.10.0-28-amd64", "warning"), ("4.18", "warning")],
)
def test_the_kernel_must_be_new_enough(tmp_path: Path, release: str, level: str) -> None:
    assert levels(check.kernel(release, tmp_path))[0] == level


def test_types_of_the_kernel_must_be_there(tmp_path: Path) -> None:
    assert levels(check.kernel("6.1.0", tmp_path / "vmlinux"))[1] == "warning"


def test_privileges_are_named_when_missing() -> None:
    assert levels(check.privileges(ROOT_STATUS)) == ["ok"]
    (item,) = check.privileges("CapEff:\t0000000000000000\n")
    assert item.level == "warning"
    assert "CAP_BPF" in item.sentence


def test_disks_must_be_readable(tmp_path: Path) -> None:
    there = DiskInfo(path=str(tmp_path / "a"), size=1, kind="file")
    (tmp_path / "a").write_bytes(b"x")
    gone = DiskInfo(path=str(tmp_path / "b"), size=1, kind="file")
    assert levels(check.disks([there, gone])) == ["ok", "problem"]
    assert levels(check.disks([])) == ["problem"]


def test_what_cannot_be_frozen_is_said() -> None:
    found = check.filesystems([frozen("/", "ext4", "8:1"), frozen("/boot/efi", "vfat", "8:2")])
    assert levels(found) == ["ok", "note"]


@pytest.mark.parametrize(
    ("mounts", "level"),
    [
        ([mount("/", "ext4", "8:1"), mount("/run", "tmpfs", "0:5")], "ok"),
        ([mount("/", "ext4", "8:1")], "problem"),
        ([mount("/", "ext4", "8:1"), mount("/run", "xfs", "9:1")], "warning"),
        ([mount("/run", "tmpfs", "0:5"), mount("/run", "ext4", "8:1")], "problem"),
        ([mount("/", "ext4", "8:1"), mount("/runner", "tmpfs", "0:5")], "problem"),
        ([], "warning"),
    ],
    ids=["in memory", "on a frozen one", "on another disk", "covered", "alike name", "nowhere"],
)
def test_the_runtime_directory_may_not_be_frozen(mounts: list[Mount], level: str) -> None:
    found = check.runtime(Path("/run/replicad"), mounts, [frozen("/", "ext4", "8:1")])
    assert levels(found) == [level]


def test_hooks_that_others_can_write_are_a_problem(tmp_path: Path) -> None:
    assert levels(check.hooks(tmp_path)) == ["note"]
    hook = tmp_path / "frozen.d" / "10-array"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0o755)
    assert levels(check.hooks(tmp_path)) == ["ok"]
    hook.chmod(0o777)
    assert levels(check.hooks(tmp_path)) == ["problem"]


def test_the_receiver_must_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address("127.0.0.1", server.getsockname()[1])
        assert levels(check.receiver(address)) == ["ok"]
    assert levels(check.receiver(address)) == ["problem"]
    assert levels(check.receiver(None)) == ["note"]


def test_the_clock_can_be_asked() -> None:
    assert levels(check.clock())[0] in {"ok", "note"}
