"""Loop disks with filesystems that may be frozen, a writer beside them, and a safety net.

A process of its own thaws everything after ``NET_SECONDS``, so that no mistake in a test can
leave a frozen filesystem, and with it stuck processes, behind.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest

from replicad.freeze.freezer import Freezer
from replicad.freeze.mounts import FrozenMount
from replicad.freeze.watchdog import FIFREEZE, FITHAW

NET_SECONDS = 40
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Bench:
    """Loop disks and mounts that are gone after the test."""

    directory: Path
    undo: contextlib.ExitStack
    mounts: list[Path] = field(default_factory=list)

    def loop(self, name: str, mib: int = 400, *, inside: Path | None = None) -> str:
        """A loop device over a sparse file."""
        file = (inside or self.directory) / f"{name}.img"
        with file.open("wb") as image:
            image.truncate(mib << 20)
        return self.attach(file)

    def attach(self, file: Path, *options: str) -> str:
        for _ in range(20):  # Others may take the free device between its choice and its use.
            done = subprocess.run(
                ["losetup", *options, "-f", "--show", str(file)],
                check=False,
                capture_output=True,
                text=True,
            )
            if done.returncode == 0:
                device = done.stdout.strip()
                self.undo.callback(run, "losetup", "-d", device)
                return device
        raise OSError(f"no loop device for {file}")

    def mount(self, device: str, kind: str = "ext4", *, make: bool = True) -> Path:
        if make:
            flags = {"ext4": ["-qF"], "xfs": ["-qf"], "btrfs": ["-qf"]}[kind]
            run("mkfs." + kind, *flags, device)
        point = self.directory / f"mnt-{len(self.mounts)}"
        point.mkdir()
        run("mount", device, str(point))
        self.undo.callback(unmount, point)
        self.mounts.append(point)
        net = subprocess.Popen(
            ["sh", "-c", f"sleep {NET_SECONDS}; fsfreeze -u '{point}'"],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.undo.callback(end_net, net)
        return point


def unmount(point: Path) -> None:
    """A watchdog whose daemon was killed still holds it for a moment, until it has thawed."""
    until(lambda: subprocess.run(["umount", str(point)], check=False).returncode == 0)


def end_net(net: subprocess.Popen[bytes]) -> None:
    os.killpg(net.pid, signal.SIGKILL)
    net.wait()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with contextlib.ExitStack() as undo:
        made = Bench(tmp_path, undo)
        try:
            yield made
        finally:
            for point in made.mounts:
                thaw(point)


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def thaw(point: Path) -> None:
    fd = os.open(point, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.ioctl(fd, FITHAW, 0)
    finally:
        os.close(fd)


def is_frozen(point: Path) -> bool:
    """FIFREEZE says EBUSY for what is frozen; otherwise undone at once."""
    fd = os.open(point, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, FIFREEZE, 0)
    except OSError as error:
        assert error.errno == errno.EBUSY
        return True
    else:
        fcntl.ioctl(fd, FITHAW, 0)
        return False
    finally:
        os.close(fd)


WRITER = """
import mmap, os, sys, time
shared = memoryview(mmap.mmap(int(sys.argv[1]), 16))
counts, seconds = shared.cast("Q"), shared.cast("d")
out = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT, 0o600)
while True:
    os.pwrite(out, bytes(4096), 0)
    counts[0] += 1  # struct.pack_into would write zeros first, for others to see
    seconds[1] = time.monotonic()
    time.sleep(0.001)
"""


class Writer:
    """A process that writes without end and says how often it could."""

    def __init__(self, point: Path) -> None:
        fd = os.memfd_create("writer")
        os.ftruncate(fd, 16)
        shared = memoryview(mmap.mmap(fd, 16))
        self._counts, self._seconds = shared.cast("Q"), shared.cast("d")
        words = [sys.executable, "-c", WRITER, str(fd), str(point / "written")]
        self.process = subprocess.Popen(words, pass_fds=(fd,))
        os.close(fd)

    @property
    def count(self) -> int:
        return self._counts[0]

    @property
    def last(self) -> float:
        return self._seconds[1]

    def __enter__(self) -> Self:
        until(lambda: self.count > 3)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def until(true: Callable[[], bool], seconds: float = 10.0) -> float:
    """Wait for something to become true; how long it took."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < seconds, "it did not happen"
        time.sleep(0.002)
    return time.monotonic() - begun


def goes_on(writer: Writer, seconds: float = 5.0) -> float:
    """Wait until the writer writes again; how long that took."""
    count = writer.count
    return until(lambda: writer.count > count + 2, seconds)


def prepared(mounts: tuple[FrozenMount, ...], budget: float = 5.0) -> Freezer:
    freezer = Freezer(mounts, budget)
    freezer.prepare()
    return freezer


DAEMON = """
import sys, time
from protocol.errors import Fault
from replicad.freeze.freezer import Freezer
from replicad.freeze.mounts import mounts_to_freeze
with Freezer(mounts_to_freeze([sys.argv[1]]), float(sys.argv[2])) as freezer:
    freezer.prepare()
    print("prepared", flush=True)
    sys.stdin.readline()
    freezer.freeze()
    print("frozen", flush=True)
    sys.stdin.readline()
    try:
        print(freezer.thaw(), flush=True)
    except Fault as fault:
        print(fault.code, flush=True)
"""


class Daemon:
    """A process that freezes, to be treated badly."""

    def __init__(self, device: str, budget: float, script: str = DAEMON, *more: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, device, str(budget), *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self.read() == "prepared"

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for task in tasks for word in task.read_text().split()]
