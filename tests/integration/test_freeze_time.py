"""How long a freeze takes, and the disks that nobody freezes."""

from __future__ import annotations

import json
import os
import statistics
import struct
import subprocess
import time
from pathlib import Path

import pytest

from replicad.freeze.blockgraph import read_block_graph
from replicad.freeze.busy import is_busy_unmounted
from replicad.freeze.memory import lock_memory, unlock_memory
from replicad.freeze.mounts import mounts_to_freeze
from replicad.inventory import disks_of, inventory_report
from tests.support.frozen import (
    Bench,
    prepared,
    run,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts and freezes filesystems"),
]


# --- how long it takes -----------------------------------------------------------------------


BUSY = [
    "--size=400m",
    "--rw=randwrite",
    "--bs=16k",
    "--rate=20m",
    "--time_based",
    "--runtime=60",
    "--output=/dev/null",
]


@pytest.mark.slow
@pytest.mark.parametrize("load", ["idle", "busy"])
def test_how_long_a_freeze_takes(bench: Bench, load: str) -> None:
    device = bench.loop("d", 1000)
    point = bench.mount(device)
    fio = None
    if load == "busy":
        fio = subprocess.Popen(
            [
                "fio",
                "--name=w",
                f"--directory={point}",
                "--size=400m",
                "--rw=randwrite",
                "--bs=16k",
                "--rate=20m",
                "--time_based",
                "--runtime=60",
                "--output=/dev/null",
            ]
        )
        time.sleep(1)
    locked = lock_memory()
    try:
        seconds, prepares = [], []
        for _ in range(30):
            begun = time.monotonic()
            with prepared(mounts_to_freeze([device])) as freezer:
                prepares.append(time.monotonic() - begun)
                freezer.freeze()
                seconds.append(freezer.thaw())
    finally:
        unlock_memory()
        if fio is not None:
            fio.terminate()
            fio.wait()
    cuts = statistics.quantiles(seconds, n=20)
    print(
        f"{load}: freeze+thaw p50 {cuts[9] * 1000:.1f} ms, p95 {cuts[18] * 1000:.1f} ms; "
        f"prepare p50 {statistics.median(prepares) * 1000:.0f} ms; "
        f"memory locked in {locked.seconds * 1000:.1f} ms ({locked.kib} KiB)"
    )
    assert cuts[18] < 2.0


# --- disks that nobody freezes, and the inventory --------------------------------------------


def partitioned(bench: Bench) -> str:
    """A loop disk with two MBR partitions."""
    file = bench.directory / "parts.img"
    entry = struct.Struct("<B3sB3sII")
    table = b"".join(entry.pack(0, b"", 0x83, b"", 2048 + n * 204800, 204800) for n in range(2))
    with file.open("wb") as image:
        image.write(bytes(440) + b"\x44\x33\x22\x11\0\0" + table + bytes(32) + b"\x55\xaa")
        image.truncate(256 << 20)
    disk = bench.attach(file)
    # The kernel under test may lack the parser of partition tables; the partitions it can do.
    for n in range(2):
        run("addpart", disk, str(n + 1), str(2048 + n * 204800), "204800")
        bench.undo.callback(run, "delpart", disk, str(n + 1))
    return disk


def test_partitions(bench: Bench) -> None:
    disk = partitioned(bench)
    point = bench.mount(f"{disk}p1")
    (mount,) = mounts_to_freeze([disk])
    assert (mount.point, mount.disks) == (str(point), (Path(disk).name,))
    assert is_busy_unmounted(disk) is None
    with open(f"{disk}p2", "r+b"):
        reason = is_busy_unmounted(disk)
    assert reason is not None
    assert str(os.getpid()) in reason
    (info,) = disks_of([disk])
    assert info.identity.partition_table == "11223344"
    assert len(info.identity.filesystems) == 1
    assert [(one.mount, one.kind, one.device) for one in info.mounted] == [
        (str(point), "ext4", f"{disk}p1")
    ]
    report = inventory_report([disk])
    assert [part["kind"] for part in report["disks"][0]["partitions"]] == ["ext4", ""]
    json.dumps(report)


def test_an_unmounted_disk_is_busy_while_somebody_writes(bench: Bench) -> None:
    disk = bench.loop("d")
    assert is_busy_unmounted(disk) is None
    with open(disk, "rb"):
        assert is_busy_unmounted(disk) is None
    with open(disk, "r+b"):
        assert "open for writing" in (is_busy_unmounted(disk) or "")
    fd = os.open(disk, os.O_RDONLY | os.O_EXCL)
    try:
        assert "held" in (is_busy_unmounted(disk) or "")
    finally:
        os.close(fd)


def test_an_image_file_is_busy_while_somebody_writes(bench: Bench) -> None:
    disk = bench.loop("d")
    image = bench.directory / "d.img"
    assert is_busy_unmounted(image) is None
    with image.open("r+b"):
        assert "open for writing" in (is_busy_unmounted(image) or "")
    with open(disk, "r+b"):
        assert "open for writing" in (is_busy_unmounted(image) or "")
    point = bench.mount(disk)
    assert is_busy_unmounted(image) is None
    assert [one.point for one in mounts_to_freeze([image])] == [str(point)]
    (info,) = disks_of([str(image)])
    assert (info.kind, info.size) == ("file", 400 << 20)
    assert [one.mount for one in info.mounted] == [str(point)]


def test_the_graph_of_this_machine_has_its_disks() -> None:
    graph = read_block_graph()
    for disk in disks_of():
        name = Path(disk.path).name
        assert any(node.name == name for node in graph.nodes.values())
