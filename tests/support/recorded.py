"""Answers as the daemons give them, for the tests of commands and drawings."""

from __future__ import annotations

from typing import Any

DISK: dict[str, Any] = {
    "path": "/dev/vda",
    "size": 10 << 30,
    "total_bytes": 8 << 30,
    "transferred_bytes": 2 << 30,
    "dirty_bytes": 6 << 30,
    "in_flight_bytes": 1 << 20,
    "differing_bytes": 0,
    "pass": "full",
    "passed": 0,
    "tracker": "ebpf",
    "trust": "",
    "granule": 4096,
    "left_out_bytes": 0,
    "unreadable_bytes": 0,
    "unreadable": [],
    "intermediate": "/var/lib/receiver/disks/7f/0.raw",
    "device": "/dev/vda",
    "recovery": {
        "grade": "full",
        "reason": "the intermediate disk was empty",
        "since": "2026-12-01T03:12:00Z",
        "bytes_read": 2 << 30,
        "bytes_sent": 2 << 30,
        "ended": None,
    },
}
CHECKPOINT: dict[str, Any] = {
    "epoch": 3,
    "consistency": "filesystem",
    "frozen_seconds": 0.0834,
    "snapshot": None,
    "preserved": "held until 'job resume'",
}
RESULT = {**CHECKPOINT, "held": True}
CONVERGENCE: dict[str, Any] = {
    "state": "not converging",
    "write_bytes_per_second": 40e6,
    "send_bytes_per_second": 25e6,
    "read_bytes_per_second": 900e6,
    "needed_bytes_per_second": 40e6,
    "freeze_forecast_seconds": 7.2,
    "freeze_allowed_seconds": 2.0,
    "sentence": "delta passes do not converge: more than 320 Mbit/s are needed",
}
VERIFIED: dict[str, Any] = {
    "request": "verify-0011",
    "when": "2026-11-22T05:10:00.250Z",
    "bytes_compared": 8 << 30,
    "differing_bytes": 12288,
    "ranges": [{"path": "/dev/vda", "offset": 1 << 30, "length": 12288}],
    "more_ranges": 0,
    "repaired": False,
    "seconds": 95.5,
}
JOB: dict[str, Any] = {
    "id": "7f3a9c",
    "name": "web",
    "source": "web01",
    "state": "syncing",
    "outcome": "",
    "connected": True,
    "held": False,
    "consistency": None,
    "epoch": 2,
    "speed_bytes_per_second": 250e6,
    "remaining_seconds": 25.7,
    "logical_bytes": 2 << 30,
    "wire_bytes": 1 << 30,
    "lag_seconds": 1.5,
    "sentence": "the first copy",
    "convergence": CONVERGENCE,
    "error": None,
    "bandwidth": 25_000_000,
    "compress": "auto",
    "free_space": "auto",
    "freeze_budget": 2.0,
    "every": None,
    "keep": 3,
    "next_sync": None,
    "created": "2026-11-22T04:05:06Z",
    "valid_until": None,
    "sync_seconds": 0.004,
    "group_seconds": 0.016,
    "disks": [DISK],
    "checkpoint": {**CHECKPOINT, "taken": "2026-11-22T05:00:00Z"},
    "verified": VERIFIED,
}
SOURCE: dict[str, Any] = {
    "name": "web01",
    "connected": True,
    "address": "192.0.2.7:40312",
    "enrolled": "2026-11-22T04:00:00Z",
    "last_seen": "2026-11-22T05:00:00Z",
    "certificate": "ab" * 32,
    "software": "replicad 0.1.0",
    "disks": [
        {
            "path": "/dev/vda",
            "size": 10 << 30,
            "kind": "disk",
            "mounted": [{"mount": "/", "kind": "ext4", "device": "/dev/vda1"}],
        }
    ],
    "job": "7f3a9c",
}
ACTIVATION = {"code": "RPL1-ABCD-EFGH", "uses": 1, "expires": "2026-11-29T04:00:00Z"}
ACTIVATION_ROW = {
    "label": "9f86d081",
    "uses": 3,
    "used": 1,
    "created": "2026-11-22T04:00:00Z",
    "expires": "2026-11-29T04:00:00Z",
}
INTERMEDIATE = {
    "job": "7f3a9c",
    "source": "web01",
    "path": "/dev/vda",
    "intermediate": "/var/lib/receiver/disks/7f/0.raw",
    "kind": "raw",
    "size": 10 << 30,
    "allocated_bytes": 8 << 30,
    "epoch": 2,
    "in_use": True,
}
SOURCE_JOB: dict[str, Any] = {
    **{
        key: JOB[key]
        for key in (
            "id",
            "name",
            "state",
            "epoch",
            "speed_bytes_per_second",
            "remaining_seconds",
            "logical_bytes",
            "wire_bytes",
            "lag_seconds",
            "bandwidth",
            "sentence",
            "convergence",
            "error",
            "disks",
        )
    },
    "compression": {
        "mode": "auto",
        "level": 3,
        "because": "the line is waited for, and it saves 9% more",
    },
    "reading": [
        {
            "path": "/dev/vda",
            "share": 0.6,
            "because": "others wait 4.0 ms for the disk, 0.2 without us",
        }
    ],
    "connections": 4,
    "senders": {"at_work": 3, "because": "4 waited 31% of the time for a processor"},
    "cipher": "aegis-256x2",
    "congestion": "cubic",
    "extent_bytes": 1 << 20,
    "reconnects": 0,
}
STATUS: dict[str, Any] = {
    "name": "web01",
    "software": "replicad 0.1.0",
    "enrolled": True,
    "receiver": "vault.example:8080",
    "connected": True,
    "sentence": "",
    "tracker": {"name": "ebpf", "available": True, "sentence": "", "misses": 0},
    "job": SOURCE_JOB,
}
