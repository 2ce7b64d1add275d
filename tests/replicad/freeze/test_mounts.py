from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicad.freeze.blockgraph import BlockGraph, Node
from replicad.freeze.busy import exposed_devices
from replicad.freeze.mounts import Mount, mount_devices, parse_mountinfo, plan_freeze

SERVER = """\
27 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,discard
22 27 0:21 / /proc rw,relatime - proc proc rw
30 27 254:2 / /boot rw,relatime shared:3 - xfs /dev/vda2 rw,attr2
31 30 254:3 / /boot/efi rw,relatime - vfat /dev/vda3 rw,fmask=0077
32 27 253:0 / /srv rw - xfs /dev/mapper/vg-srv rw,logdev=/dev/vdc
33 27 254:1 /home /export/home ro,relatime - ext4 /dev/vda1 rw,discard
34 27 7:0 / /snap/core ro - squashfs /dev/loop0 ro
35 27 0:39 /sub /data rw - btrfs /dev/vdd rw,subvolid=256
36 27 7:1 / /var/lib/inner rw - ext4 /dev/loop1 rw
"""


def node(name: str, device: str, *under: str, file: tuple[str, int] | None = None) -> Node:
    return Node(name, device, under, name[-1].isdigit() and name.startswith("vd"), file)


GRAPH = BlockGraph(
    {
        one.device: one
        for one in (
            node("vda", "254:0"),
            node("vda1", "254:1", "254:0"),
            node("vda2", "254:2", "254:0"),
            node("vda3", "254:3", "254:0"),
            node("vdb", "254:16"),
            node("vdc", "254:32"),
            node("vdd", "254:48"),
            node("vde", "254:64"),
            node("dm-0", "253:0", "254:16"),
            node("loop0", "7:0", "254:1", file=("254:1", 12)),
            node("loop1", "7:1", "0:39", file=("0:40", 257)),
        )
    },
    pools=(frozenset({"254:48", "254:64"}),),
    paths={
        "/dev/vda1": "254:1",
        "/dev/mapper/vg-srv": "253:0",
        "/dev/vdc": "254:32",
        "/dev/vdd": "254:48",
        "/dev/loop1": "7:1",
    },
)


def points(*targets: str) -> list[str]:
    return [one.point for one in plan_freeze(parse_mountinfo(SERVER), GRAPH, targets)]


def test_partitions_last_mounted_first_and_each_once() -> None:
    assert points("254:0") == ["/boot/efi", "/boot", "/"]


def test_a_logical_volume_lies_on_its_physical_one_and_on_its_log() -> None:
    assert points("254:16") == ["/srv"]
    assert points("254:32") == ["/srv"]


def test_btrfs_lies_on_all_its_devices_and_what_stands_on_it_goes_first() -> None:
    assert points("254:48") == points("254:64") == ["/var/lib/inner", "/data"]
    assert points("7:1") == ["/var/lib/inner"]


def test_the_best_way_is_the_whole_filesystem() -> None:
    *_, root = plan_freeze(parse_mountinfo(SERVER), GRAPH, ["254:0"])
    assert root.ways == (("/", 27), ("/export/home", 33))
    assert root.disks == ("vda",)
    assert not root.sync_only


def test_the_efi_partition_is_only_synced() -> None:
    first, *_ = plan_freeze(parse_mountinfo(SERVER), GRAPH, ["254:0"])
    assert (first.kind, first.sync_only) == ("vfat", True)


def test_a_mount_of_another_namespace_is_reached_through_its_process() -> None:
    inside = parse_mountinfo("90 1 254:16 / /data rw - ext4 /dev/vdb rw\n", "/proc/7/root")
    *_, mount = plan_freeze(parse_mountinfo(SERVER) + inside, GRAPH, ["254:16"])
    assert mount.ways == (("/proc/7/root/data", 90),)


@given(st.permutations(range(9)))
def test_whatever_the_order_of_mounting_nothing_follows_what_it_stands_on(
    order: list[int],
) -> None:
    mounts = parse_mountinfo(SERVER)
    plan = plan_freeze([mounts[index] for index in order], GRAPH, ["254:48", "254:0"])
    sequence = [one.point for one in plan]
    assert sequence.index("/var/lib/inner") < sequence.index("/data")
    assert len({one.device for one in plan}) == len(plan) == 5


@given(st.tuples(*[st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1)] * 3))
def test_any_path_survives(names: tuple[str, str, str]) -> None:
    def escape(text: str) -> str:
        return "".join(f"\\{ord(char):03o}" if char in " \t\n\\#" else char for char in text)

    # The kernel escapes newline; what else Unicode takes for the end of a line stays in the path.
    root, point, source = ("/" + name for name in names)
    line = f"27 1 254:1 {escape(root)} {escape(point)} rw - ext4 {escape(source)} rw"
    (mount,) = parse_mountinfo(line + "\n")
    assert (mount.root, mount.point, mount.source) == (root, point, source)


@pytest.mark.parametrize("line", ["", "27 1 254:1", "27 1 254:1 / / rw ext4 /dev/vda rw", "x - y"])
def test_what_is_no_mountinfo_is_refused(line: str) -> None:
    if line:
        with pytest.raises(ValueError, match="not a line of mountinfo"):
            parse_mountinfo(line)
    else:
        assert parse_mountinfo(line) == []


def test_pseudo_filesystems_lie_on_nothing() -> None:
    proc: Mount = parse_mountinfo(SERVER)[1]
    assert mount_devices(proc, GRAPH) == frozenset()


def test_swap_and_mounted_devices_are_accounted_for() -> None:
    exposed = exposed_devices(
        ["254:0", "254:16"], GRAPH, parse_mountinfo(SERVER), frozenset({"254:2"})
    )
    assert exposed == {"254:0", "254:16"}
    assert exposed_devices(["254:0"], GRAPH, [], frozenset({"254:2"})) == {
        "254:0",
        "254:1",
        "254:3",
    }
