from __future__ import annotations

import msgspec
import pytest

from protocol.errors import PROTOCOL, PeerFault
from protocol.wire.checks import check, cleaned
from protocol.wire.jobs import DiskInfo, DiskReport, ErrorInfo, JobOrder, JobReport
from protocol.wire.messages import (
    Ask,
    CheckpointFailed,
    Commit,
    Committed,
    ControlMessage,
    Enrol,
    Inventory,
    OpenDisk,
    OpenedDisk,
    OpenSession,
    SessionOpened,
)

ID = "0123456789abcdef" * 2
DISK = OpenedDisk(path="/dev/vda", number=0, generation="g", fresh=True, intermediate="/x")
ENROL = Enrol(id=1, secret=ID, name="web01", request_pem="")
INVENTORY = Inventory(disks=(DiskInfo(path="/dev/vda", size=512, kind="disk"),))
ORDER = JobOrder(revision=1, want="run", job="j", disks=("/dev/vda",))
REPORT = JobReport(job="j", revision=1, state="ready", disks=(DiskReport(path="/dev/vda", size=1),))
OPEN = OpenSession(id=1, job="j", disks=(OpenDisk(path="/dev/vda", size=512),))
OPENED = SessionOpened(
    answers=1, session=ID, secret=bytes(32), data_port=8703, epoch=0, disks=(DISK,)
)
COMMIT = Commit(
    id=1,
    session=ID,
    job="j",
    epoch=1,
    consistency="crash",
    frozen_seconds=0.1,
    taken="2026-01-01T00:00:00Z",
)
FAILED = CheckpointFailed(
    job="j", request="r", error=ErrorInfo(code="RPL-6004", message="a\x1b[2Jb\nc")
)
SOUND: list[ControlMessage] = [
    ENROL, INVENTORY, ORDER, REPORT, OPEN, OPENED, COMMIT, FAILED,
    msgspec.structs.replace(OPEN, ciphers=("of-the-future", "aes-256-gcm")),
    msgspec.structs.replace(OPENED, cipher="of-the-future"),
    Committed(answers=1, epoch=1), Ask(id=1, action="limit", bandwidth=0),
]  # fmt: skip


@pytest.mark.parametrize("message", SOUND, ids=lambda message: type(message).__name__)
def test_a_sound_message_passes(message: ControlMessage) -> None:
    check(message)


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        # What a receiver could want beyond what its source allows, or of its file names.
        (ORDER, {"disks": ()}),
        (ORDER, {"job": ""}),
        (ORDER, {"job": "../../etc/x"}),
        (ORDER, {"job": "/run/x"}),
        (ORDER, {"job": "j\0"}),
        (ORDER, {"freeze_budget": 601.0}),
        (OPEN, {"job": "../x"}),
        (OPEN, {"round_trip": -0.1}),
        (OPEN, {"ciphers": ()}),
        (OPEN, {"ciphers": ("a",) * 17}),
        (OPEN, {"ciphers": ("aes-256-gcm", "A B")}),
        (OPEN, {"ciphers": ("x" * 65,)}),
        (OPENED, {"cipher": ""}),
        (OPENED, {"cipher": "x" * 65}),
        (OPENED, {"cipher": "\x1b[31m"}),
        (OPEN, {"round_trip": 3600.0}),
        (COMMIT, {"job": "J"}),
        (REPORT, {"job": "*"}),
        (REPORT, {"error": ErrorInfo(code="\x1b]0;x", message="")}),
        (FAILED, {"error": ErrorInfo(code="RPL-12345", message="")}),
        (INVENTORY, {"disks": INVENTORY.disks * 1025}),
        (ENROL, {"secret": "hunter2"}),
        (ENROL, {"secret": ID + "\n"}),
        (ENROL, {"name": ""}),
        (ENROL, {"name": "x" * 65}),
        (INVENTORY, {"disks": INVENTORY.disks * 2}),
        (INVENTORY, {"disks": (DiskInfo(path="vda", size=1, kind="disk"),)}),
        (INVENTORY, {"disks": (DiskInfo(path="/dev/vda", size=-1, kind="disk"),)}),
        (ORDER, {"revision": -1}),
        (ORDER, {"bandwidth": -1}),
        (ORDER, {"compress": "20"}),
        (ORDER, {"compress": "0"}),
        (ORDER, {"freeze_budget": -0.1}),
        (ORDER, {"disks": ("/a\0b",)}),
        (REPORT, {"epoch": -1}),
        (REPORT, {"speed_bytes_per_second": -1.0}),
        (REPORT, {"disks": (DiskReport(path="/dev/vda", size=1, dirty_bytes=-1),)}),
        (OPEN, {"disks": ()}),
        (OPEN, {"disks": (OpenDisk(path="/dev/vda", size=513),)}),
        (OPEN, {"disks": (OpenDisk(path="/dev/vda", size=1 << 61),)}),
        (OPENED, {"session": ID.upper()}),
        (OPENED, {"session": "../" + ID}),
        (OPENED, {"secret": bytes(31)}),
        (OPENED, {"data_port": 0}),
        (OPENED, {"connections": 0}),
        (OPENED, {"connections": 65}),
        (OPENED, {"window_bytes": 4096}),
        (OPENED, {"disks": (DISK, msgspec.structs.replace(DISK, path="/dev/vdb"))}),
        (OPENED, {"disks": (msgspec.structs.replace(DISK, number=65536),)}),
        (COMMIT, {"epoch": 0}),
        (COMMIT, {"session": "x"}),
        (COMMIT, {"frozen_seconds": -1.0}),
        (Committed(answers=1, epoch=1), {"epoch": 0}),
        (Ask(id=1, action="limit"), {"bandwidth": -1}),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(
    message: ControlMessage, changes: dict[str, object]
) -> None:
    with pytest.raises(PeerFault) as caught:
        check(msgspec.structs.replace(message, **changes))
    assert caught.value.code == PROTOCOL.code
    assert "hunter2" not in caught.value.sentence


def test_no_text_of_a_peer_can_steer_a_terminal() -> None:
    assert cleaned(FAILED).error.message == "a?[2Jb c"
    disk = DiskInfo(path="/dev/\x1bvda", size=512, kind="disk", model="m" * 10_000)
    clean = cleaned(Inventory(disks=(disk,))).disks[0]
    assert clean.path == "/dev/?vda"
    assert len(clean.model) == 4096
    assert cleaned(ORDER) is ORDER
    pem = Enrol(id=1, secret=ID, name="web01", request_pem="-----BEGIN\nx\n")
    assert cleaned(pem) is pem
