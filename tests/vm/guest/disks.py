"""The machine's disks, and what can be stacked on them: volumes of LVM, arrays of MD.

Disks are found by the serial numbers that tests/vm/machine.py gave them. Everything made here is
taken away again, so that one machine serves many tests.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator

GROUP = "vm"
LINEAR_ON_ONE = 16 << 20
"""Bytes of the volume on a single disk."""
ARRAY = "/dev/md127"
PARTS = ("part0", "part1", "part2")
PLAIN = {"virtio": "blk1", "scsi": "scsi0", "nvme": "nvme0", "multipath": "multi0"}
VOLUMES = ("linear", "thin", "origin")
ARRAYS = ("raid0", "raid1", "raid5")
PATHS = "paths"
"""What dm-multipath makes of a SCSI disk: request-based above something request-based."""
KINDS = (*PLAIN, *VOLUMES, *ARRAYS, PATHS)
REQUEST_BASED = ("virtio", "scsi", "nvme", PATHS)


def run(*command: str, seconds: float = 60.0) -> str:
    """A command's output; its own words when it fails."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{command}: {done.stderr.strip()} {done.stdout.strip()}"
    return done.stdout.strip()


def by_serial(serial: str, seconds: float = 30.0) -> str:
    """The path of the disk with this serial number."""
    end = time.monotonic() + seconds
    while True:
        listing = json.loads(run("lsblk", "-J", "-d", "-o", "PATH,SERIAL"))["blockdevices"]
        found = [disk["path"] for disk in listing if disk["serial"] == serial]
        if len(found) == 1:
            return str(found[0])
        assert time.monotonic() < end, f"no disk {serial} among {listing}"
        time.sleep(0.2)


def settle() -> None:
    """Waits for udev: it opens what is new, and a device that is open cannot be taken away."""
    run("udevadm", "settle")


@contextlib.contextmanager
def disk(kind: str) -> Iterator[str]:
    """A disk of this kind, with nothing on it that matters."""
    if kind in PLAIN:
        yield by_serial(PLAIN[kind])
    elif kind == PATHS:
        with paths(by_serial(PLAIN["scsi"])) as path:
            yield path
    elif kind in VOLUMES:
        with volume(kind, [by_serial(part) for part in PARTS]) as path:
            yield path
    else:
        count = 3 if kind == "raid5" else 2
        with array(kind, [by_serial(part) for part in PARTS[:count]]) as path:
            yield path


@contextlib.contextmanager
def paths(disk: str) -> Iterator[str]:
    """A multipath device with one path."""
    run("modprobe", "-a", "dm-multipath", "dm-round-robin")
    sectors = run("blockdev", "--getsz", disk)
    table = f"0 {sectors} multipath 0 0 1 1 round-robin 0 1 1 {disk} 100"
    run("dmsetup", "create", PATHS, "--table", table)
    try:
        settle()
        yield f"/dev/mapper/{PATHS}"
    finally:
        settle()
        run("dmsetup", "remove", "--retry", PATHS)


@contextlib.contextmanager
def volume(kind: str, parts: list[str]) -> Iterator[str]:
    """A logical volume over these disks."""
    run("modprobe", "-a", "dm-mod", "dm-snapshot", "dm-thin-pool")
    run("vgcreate", "-y", "-q", "-s", "1m", GROUP, *parts)
    try:
        # on several it is larger than one of them: a write across the border is split
        size = ("-L", "32m") if len(parts) > 1 else ("-L", f"{LINEAR_ON_ONE >> 20}m")
        common = ("-y", "-q", "-W", "n", "-Z", "n")
        if kind == "thin":
            run("lvcreate", "-y", "-q", "-T", "-Z", "n", "-L", "28m", f"{GROUP}/pool")
            run("lvcreate", "-y", "-q", "-V", "24m", "-T", f"{GROUP}/pool", "-n", "data")
        else:
            run("lvcreate", *common, *size, "-n", "data", GROUP)
        if kind == "origin":
            run("lvcreate", "-y", "-q", "-s", "-L", "30m", "-n", "old", f"{GROUP}/data")
        settle()
        yield f"/dev/{GROUP}/data"
    finally:
        settle()
        run("vgremove", "-f", "-y", "-q", GROUP)
        run("pvremove", "-f", "-y", "-q", *parts)
        settle()


@contextlib.contextmanager
def array(kind: str, parts: list[str]) -> Iterator[str]:
    """An array over two or three disks."""
    run("modprobe", "raid456" if kind == "raid5" else kind)
    for part in parts:  # equal halves, or a read would depend on which one answers
        run("blkdiscard", "-f", "-z", part)
    run(
        *("mdadm", "--create", ARRAY, "--run", "--metadata=1.2", f"--level={kind[4:]}"),
        *(f"--raid-devices={len(parts)}", "--assume-clean", "--homehost=any", *parts),
    )
    try:
        settle()
        yield ARRAY
    finally:
        settle()
        run("mdadm", "--stop", ARRAY)
        run("mdadm", "--zero-superblock", *parts)
        settle()


if __name__ == "__main__":
    print(by_serial(sys.argv[1]))
