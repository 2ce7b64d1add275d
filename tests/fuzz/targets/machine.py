"""What the machine says: mounts, blkid, sysfs, hooks; and texts of a peer as they are shown."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from protocol.errors import HOOK_FAILED, LocalFault, from_peer, sayable
from protocol.errors.fault import TEXT_MAX, plain
from protocol.local import log as logs
from protocol.wire.control import ControlConnection, Role
from protocol.wire.framing import encode_control
from protocol.wire.greeting import Greeting
from protocol.wire.jobs import ErrorInfo, JobReport
from replicad.freeze.blockgraph import read_block_graph
from replicad.freeze.hooks import OUTPUT_BYTES, HookRun, raise_failed
from replicad.freeze.mounts import mount_devices, parse_mountinfo, plan_freeze
from replicad.inventory import _offered, _serial, parse_export
from tests.fuzz.registry import target

MOUNTINFO = b"""22 27 0:20 / /proc rw,nosuid shared:12 - proc proc rw
30 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
31 30 0:25 /@/a\\040b /mnt/a\\134\\012 rw - btrfs /dev/sdb:/dev/sdc rw,subvol=/@
32 30 8:2 / /x ro master:1 propagate_from:2 - xfs /dev/sda2 ro,logdev=/dev/sda3
33 30 0:45 / /nul rw - fuse.\xff\\777 none rw
"""
BLKID = b"""DEVNAME=/dev/sda1
LABEL=a\\ b\\\\c
UUID=1f2e-33
TYPE=ext4
PTUUID=
=
\\
"""


@target(seeds=lambda: [MOUNTINFO, *MOUNTINFO.splitlines()])
def mountinfo(data: bytes) -> None:
    """``/proc/PID/mountinfo``: another container's paths are in it."""
    try:
        mounts = parse_mountinfo(os.fsdecode(data), reach="/proc/1/root")
    except ValueError as error:
        assert type(error) is ValueError, error
        return
    graph = read_block_graph(sysfs=_empty_sysfs())
    for mount in mounts:
        assert isinstance(os.fsencode(mount.path), bytes)
        mount_devices(mount, graph)
    plan_freeze(mounts, graph, ["8:1"])


def _empty_sysfs() -> Path:
    where = Path(tempfile.gettempdir()) / f"replicad-fuzz-sysfs-{os.getpid()}"
    (where / "class/block").mkdir(parents=True, exist_ok=True)
    return where


@target(seeds=lambda: [BLKID])
def blkid(data: bytes) -> None:
    """``blkid -o export``: labels are whatever somebody called his filesystem."""
    found = parse_export(data.decode("utf-8", "replace"))
    assert all(isinstance(value, str) for pair in found.items() for value in pair)


@target(
    seeds=lambda: [
        b"8:0\n|2048\n|0\n|WD-123\n|\0\x80\0\x04abcd",
        b"|||||",
        b"x|-1|1| |\xff",
        b"8:0|" + b"9" * 5000 + b"|0||",
    ]
)
def sysfs(data: bytes) -> None:
    """A disk's attributes: ``dev``, ``size``, ``ro``, ``serial``, a vital product data page."""
    names = ("dev", "size", "ro", "serial", "device/vpd_pg80")
    with tempfile.TemporaryDirectory(prefix="replicad-fuzz-", dir="/dev/shm") as directory:
        block = Path(directory) / "class/block"
        (block / "sda/device").mkdir(parents=True)
        for name, said in zip(names, data.split(b"|", 4), strict=False):
            # The kernel's own words are ASCII; a serial number is the vendor's.
            numbers = name in {"dev", "size", "ro"}
            (block / "sda" / name).write_bytes(bytes(c & 127 for c in said) if numbers else said)
        graph = read_block_graph(sysfs=Path(directory))
        assert len(graph.nodes) <= 1
        _offered("sda", block)
        assert isinstance(_serial(block / "sda"), str)


@target(seeds=lambda: [b"\0fine\n", b"\1\x1b[31mno\x1b[0m\r\n" * 20, b"\1" + b"\xff{0}%s" * 99])
def hook_output(data: bytes) -> None:
    """What a hook prints travels as the reason of a failure, to be shown on the receiver."""
    text = data[1:][:OUTPUT_BYTES].decode("utf-8", "replace")
    failed = bool(data[:1] and data[0] & 1)
    try:
        raise_failed(
            [HookRun("/hooks/x", 0.1, "it ended with exit code 1" if failed else "", text)]
        )
    except LocalFault as fault:
        assert failed
        assert fault.code == HOOK_FAILED.code
        _reported(ErrorInfo(code=fault.code, message=fault.sentence, remedy=fault.remedy))


def _reported(error: ErrorInfo) -> None:
    """A job's error, through the conversation to the receiver."""
    greeting = Greeting(software="fuzz", name="web01")
    ours = ControlConnection(Role.RECEIVER, greeting, "web01", now=0.0)
    report = JobReport(job="j", revision=1, state="error", error=error)
    said = encode_control(greeting.hello()) + encode_control(report)
    *_, heard = ours.receive(said, 0.0)
    assert isinstance(heard, JobReport)
    assert heard.error is not None
    assert heard.error.message == plain(heard.error.message)


@target(seeds=lambda: [b"RPL-3001|a sentence|a remedy", b"\x1b]0;x\x07|\xe2\x80\xae|{0}", b"||"])
def peer_error(data: bytes) -> None:
    """An error of a peer: printable, short, one line; also in the log."""
    words = data.decode("utf-8", "surrogateescape").split("|", 2)
    code, message, remedy = [*words, "", ""][:3]
    fault = from_peer(code, message, remedy)
    for text in fault.as_dict().values():
        assert text == sayable(text)
        assert len(text) <= TEXT_MAX
    values: dict[str, Any] = {"event": "peer.said", "because": message, "code": code}
    line = logs._as_line(logs._as_json)(None, "info", dict(values))
    assert line.count(b"\n") == 1
    assert not any(byte < 32 and byte != 10 for byte in line)
    shown = logs._printable(None, "info", dict(values))
    people = logs._as_line(logs._for_people(colors=False))(None, "info", shown)
    assert b"\x1b" not in people
    assert people.count(b"\n") == 1
