"""Real filesystems are frozen and surely thawed, whatever happens to the processes involved.

Each test has a safety net: a process of its own that thaws everything after ``NET_SECONDS``, so
that no mistake here can leave a frozen filesystem, and with it stuck processes, behind.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import mmap
import os
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest

from protocol.errors import LocalFault
from replicad.freeze import guardian as guardian_module
from replicad.freeze.blockgraph import mount_id, read_block_graph
from replicad.freeze.busy import is_busy_unmounted
from replicad.freeze.freezer import GRACE_SECONDS, Freezer
from replicad.freeze.leftover import thaw_leftovers
from replicad.freeze.memory import lock_memory, unlock_memory
from replicad.freeze.mounts import FrozenMount, mounts_to_freeze
from replicad.freeze.watchdog import FIFREEZE, FITHAW
from replicad.inventory import disks_of, inventory_report

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts and freezes filesystems"),
]

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
import mmap, os, struct, sys, time
shared = mmap.mmap(int(sys.argv[1]), 16)
out = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT, 0o600)
while True:
    os.pwrite(out, bytes(4096), 0)
    count = struct.unpack_from("Q", shared)[0] + 1
    struct.pack_into("Qd", shared, 0, count, time.monotonic())
    time.sleep(0.001)
"""


class Writer:
    """A process that writes without end and says how often it could."""

    def __init__(self, point: Path) -> None:
        fd = os.memfd_create("writer")
        os.ftruncate(fd, 16)
        self.shared = mmap.mmap(fd, 16)
        words = [sys.executable, "-c", WRITER, str(fd), str(point / "written")]
        self.process = subprocess.Popen(words, pass_fds=(fd,))
        os.close(fd)

    @property
    def count(self) -> int:
        return int(struct.unpack_from("Q", self.shared)[0])

    @property
    def last(self) -> float:
        return float(struct.unpack_from("Qd", self.shared)[1])

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


# --- it holds, and it ends -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_writes_stop_and_go_on(bench: Bench, kind: str) -> None:
    device = bench.loop(kind)
    point = bench.mount(device, kind)
    (mount,) = mounts_to_freeze([device])
    assert (mount.point, mount.kind) == (str(point), kind)
    with Writer(point) as writer, prepared((mount,)) as freezer:
        freezer.freeze()
        assert is_frozen(point)
        count = writer.count
        time.sleep(0.1)
        assert writer.count <= count + 1  # The one that had begun may still end.
        assert 4.0 < freezer.remaining < 5.0
        seconds = freezer.thaw()
        assert 0.1 < seconds < 2.0
        assert freezer.remaining == 0.0
        goes_on(writer)


def test_leaving_the_block_thaws(bench: Bench) -> None:
    device = bench.loop("d")
    point = bench.mount(device)
    with Writer(point) as writer:
        with prepared(mounts_to_freeze([device])) as freezer:
            freezer.freeze()
            assert is_frozen(point)
        goes_on(writer)


def test_the_deadline_thaws_and_the_freeze_counts_as_broken(bench: Bench) -> None:
    device = bench.loop("d")
    point = bench.mount(device)
    with Writer(point) as writer, prepared(mounts_to_freeze([device]), 0.4) as freezer:
        freezer.freeze()
        begun = time.monotonic() - (0.4 - freezer.remaining)
        until(lambda: writer.last > begun + 0.4, 2.0)
        assert writer.last - begun < 0.4 + GRACE_SECONDS
        with pytest.raises(LocalFault, match=r"RPL-6003.*budget") as caught:
            freezer.thaw()
        assert "0.4 s was used up" in caught.value.sentence


def test_a_thaw_by_somebody_else_is_noticed(bench: Bench) -> None:
    device = bench.loop("d")
    point = bench.mount(device)
    with prepared(mounts_to_freeze([device])) as freezer:
        freezer.freeze()
        run("fsfreeze", "-u", str(point))
        with pytest.raises(LocalFault, match=f"somebody else has thawed {point}"):
            freezer.thaw()


# --- something happens to a process ----------------------------------------------------------

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


def test_the_daemon_is_killed(bench: Bench) -> None:
    device = bench.loop("d")
    point = bench.mount(device)
    with Writer(point) as writer, Daemon(device, 30) as daemon:
        daemon.go()
        assert daemon.read() == "frozen"
        assert is_frozen(point)
        daemon.process.kill()
        print(f"thawed {goes_on(writer):.4f} s after SIGKILL of the daemon")


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05])
def test_the_daemon_is_killed_while_freezing(bench: Bench, delay: float) -> None:
    device = bench.loop("d")
    point = bench.mount(device)
    with Writer(point) as writer, Daemon(device, 30) as daemon:
        daemon.go()
        time.sleep(delay)
        daemon.process.kill()
        daemon.process.wait()
        time.sleep(0.2)
        goes_on(writer)
        assert not is_frozen(point)


def test_the_daemon_is_stopped(bench: Bench) -> None:
    device = bench.loop("d")
    point = bench.mount(device)
    with Writer(point) as writer, Daemon(device, 0.5) as daemon:
        daemon.go()
        assert daemon.read() == "frozen"
        daemon.process.send_signal(signal.SIGSTOP)
        goes_on(writer, 1.0)
        daemon.process.send_signal(signal.SIGCONT)
        daemon.go()
        assert daemon.read() == "RPL-6003"


def test_the_watchdog_is_killed(bench: Bench) -> None:
    device = bench.loop("d")
    point = bench.mount(device)
    with Writer(point) as writer, prepared(mounts_to_freeze([device]), 30) as freezer:
        freezer.freeze()
        assert is_frozen(point)
        os.kill(freezer.watchdog_pid, signal.SIGKILL)
        print(f"thawed {goes_on(writer):.4f} s after SIGKILL of the watchdog")
        assert freezer.remaining == 0.0
        with pytest.raises(LocalFault, match=r"RPL-6003.*the watchdog was killed"):
            freezer.thaw()
        assert not is_frozen(point)


def test_the_watchdog_is_told_to_end(bench: Bench) -> None:
    device = bench.loop("d")
    point = bench.mount(device)
    with Writer(point) as writer, prepared(mounts_to_freeze([device]), 30) as freezer:
        freezer.freeze()
        os.kill(freezer.watchdog_pid, signal.SIGTERM)
        goes_on(writer)
        with pytest.raises(LocalFault, match=r"RPL-6003.*told to end"):
            freezer.thaw()


def test_the_watchdog_is_stopped_and_the_deadline_passes(bench: Bench) -> None:
    device = bench.loop("d")
    point = bench.mount(device)
    with Writer(point) as writer, prepared(mounts_to_freeze([device]), 0.5) as freezer:
        freezer.freeze()
        os.kill(freezer.watchdog_pid, signal.SIGSTOP)
        goes_on(writer, 1.0)
        with pytest.raises(LocalFault, match=r"RPL-6003.*does not answer"):
            freezer.thaw()


def test_the_watchdog_is_stopped_and_does_not_thaw(bench: Bench) -> None:
    device = bench.loop("d")
    point = bench.mount(device)
    with Writer(point) as writer, prepared(mounts_to_freeze([device]), 30) as freezer:
        freezer.freeze()
        os.kill(freezer.watchdog_pid, signal.SIGSTOP)
        with pytest.raises(LocalFault, match=r"RPL-6003.*does not answer"):
            freezer.thaw()
        goes_on(writer, 0.5)


def test_the_watchdog_is_stopped_before_the_freeze(bench: Bench) -> None:
    device = bench.loop("d")
    point = bench.mount(device)
    with Writer(point) as writer, prepared(mounts_to_freeze([device]), 0.3) as freezer:
        os.kill(freezer.watchdog_pid, signal.SIGSTOP)
        with pytest.raises(LocalFault, match=r"RPL-6002.*does not answer"):
            freezer.freeze()
        goes_on(writer, 0.5)


def test_daemon_and_watchdog_are_killed_together(bench: Bench) -> None:
    device = bench.loop("d")
    point = bench.mount(device)
    record = bench.directory / "frozen.json"
    words = DAEMON.replace("]))", "]), record=Path(sys.argv[3]))").replace(
        "import sys", "from pathlib import Path\nimport sys"
    )
    with Writer(point) as writer, Daemon(device, 30, words, str(record)) as daemon:
        daemon.go()
        assert daemon.read() == "frozen"
        # Stopped first, so that neither can do anything about the end of the other.
        both = [*children(daemon.process.pid), daemon.process.pid]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in both:
                os.kill(pid, number)
        daemon.process.wait()
        time.sleep(0.2)
        assert is_frozen(point)
        script = ROOT / "replicad/freeze/leftover.py"
        run(sys.executable, "-I", "-S", str(script), str(record))
        goes_on(writer)
        assert not record.exists()
        assert thaw_leftovers(record) == []


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for task in tasks for word in task.read_text().split()]


# --- order and refusals ----------------------------------------------------------------------


def test_frozen_by_somebody_else_is_refused_and_left_frozen(bench: Bench) -> None:
    first, second = bench.loop("first"), bench.loop("second")
    theirs, ours = bench.mount(first), bench.mount(second)
    run("fsfreeze", "-f", str(theirs))
    mounts = mounts_to_freeze([first, second])
    assert [mount.point for mount in mounts] == [str(ours), str(theirs)]
    # What they froze cannot be synced without waiting; so freeze first, then they are quicker.
    run("fsfreeze", "-u", str(theirs))
    with prepared(mounts) as freezer:
        run("fsfreeze", "-f", str(theirs))
        with pytest.raises(LocalFault, match=f"RPL-6002.*{theirs}.*somebody else") as caught:
            freezer.freeze()
        assert caught.value.code == "RPL-6002"
    assert is_frozen(theirs)
    assert not is_frozen(ours)
    run("fsfreeze", "-u", str(theirs))


def test_a_filesystem_on_a_file_of_another_is_frozen_first(bench: Bench) -> None:
    outer = bench.loop("outer", 600)
    below = bench.mount(outer)
    inner = bench.loop("inner", 200, inside=below)
    above = bench.mount(inner)
    for disks in ([outer], [outer, inner], [inner, outer]):
        assert [one.point for one in mounts_to_freeze(disks)] == [str(above), str(below)]
    assert [one.point for one in mounts_to_freeze([inner])] == [str(above)]
    with Writer(above) as writer, prepared(mounts_to_freeze([outer])) as freezer:
        freezer.freeze()
        assert is_frozen(above)
        assert is_frozen(below)
        assert freezer.thaw() < 2.0
        goes_on(writer)


def test_a_freeze_that_hangs_ends_at_the_deadline(bench: Bench) -> None:
    """In the wrong order the upper filesystem's FIFREEZE waits for the frozen lower one."""
    outer = bench.loop("outer", 600)
    below = bench.mount(outer)
    inner = bench.loop("inner", 200, inside=below)
    above = bench.mount(inner)
    with Writer(above) as writer:
        mounts = tuple(reversed(mounts_to_freeze([outer])))
        with prepared(mounts, 0.5) as freezer:
            begun = time.monotonic()
            with pytest.raises(LocalFault, match=r"RPL-6002.*0.5 s was used up"):
                freezer.freeze()
            assert time.monotonic() - begun < 1.0
            goes_on(writer)
        assert not is_frozen(above)
        assert not is_frozen(below)


@pytest.mark.parametrize("victim", ["watchdog", "daemon"])
def test_a_kill_while_a_freeze_hangs(bench: Bench, victim: str) -> None:
    outer = bench.loop("outer", 600)
    below = bench.mount(outer)
    inner = bench.loop("inner", 200, inside=below)
    above = bench.mount(inner)
    with Writer(above) as writer, prepared(tuple(reversed(mounts_to_freeze([outer]))), 30) as one:
        guardian = one._guardian
        assert guardian is not None
        guardian.send("freeze 30")
        until(lambda: guardian.state(0) == b"F" and guardian.state(1) == b"t")
        time.sleep(0.3)
        assert guardian.state(1) == b"t"
        if victim == "watchdog":
            os.kill(one.watchdog_pid, signal.SIGKILL)
        else:
            guardian._peer.shutdown(socket.SHUT_WR)
        goes_on(writer)
        until(lambda: guardian.state(0) == guardian.state(1) == b"T")
    assert not is_frozen(above)
    assert not is_frozen(below)


def test_bind_mounts_are_one_filesystem(bench: Bench) -> None:
    device = bench.loop("d")
    point = bench.mount(device)
    (point / "sub").mkdir()
    view = bench.directory / "view"
    view.mkdir()
    run("mount", "--bind", str(point / "sub"), str(view))
    try:
        (mount,) = mounts_to_freeze([device])
        assert mount.point == str(point)
        with prepared((mount,)) as freezer:
            freezer.freeze()
            assert is_frozen(view)
            freezer.thaw()
    finally:
        run("umount", str(view))


def test_a_hidden_mount_is_reached_by_another_way(bench: Bench) -> None:
    device, other = bench.loop("d"), bench.loop("other")
    point = bench.mount(device)
    (point / "sub").mkdir()
    view = bench.directory / "view"
    view.mkdir()
    run("mount", "--bind", str(point / "sub"), str(view))
    run("mkfs.ext4", "-qF", other)
    run("mount", other, str(point))
    try:
        with prepared(mounts_to_freeze([device])) as freezer:
            freezer.freeze()
            assert is_frozen(view)
            assert not is_frozen(point)
            freezer.thaw()
    finally:
        run("umount", str(point))
        run("umount", str(view))


def test_read_only_needs_no_freeze(bench: Bench) -> None:
    device = bench.loop("d")
    point = bench.mount(device)
    run("mount", "-o", "remount,ro", str(point))
    assert mounts_to_freeze([device]) == ()


def test_btrfs_is_found_by_each_of_its_devices(bench: Bench) -> None:
    first, second = bench.loop("a"), bench.loop("b")
    run("mkfs.btrfs", "-qf", "-d", "raid1", "-m", "raid1", first, second)
    point = bench.mount(first, make=False)
    for device in (first, second):
        assert [one.point for one in mounts_to_freeze([device])] == [str(point)]
    run("btrfs", "subvolume", "create", str(point / "sub"))
    image = bench.loop("inner", 100, inside=point / "sub")
    above = bench.mount(image)
    assert [one.point for one in mounts_to_freeze([second])] == [str(above), str(point)]


def test_a_filesystem_of_another_mount_namespace(bench: Bench) -> None:
    device = bench.loop("d")
    point = bench.mount(device)
    hidden = bench.directory / "hidden"
    hidden.mkdir()
    container = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", f"mount --bind {point} {hidden}; umount {point}; echo; cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert container.stdout is not None
    container.stdout.readline()
    run("umount", str(point))
    try:
        (mount,) = mounts_to_freeze([device])
        assert mount.point == f"/proc/{container.pid}/root{hidden}"
        with prepared((mount,)) as freezer:
            freezer.freeze()
            assert is_frozen(Path(mount.point))
            freezer.thaw()
    finally:
        container.communicate(b"")
        run("mount", device, str(point))


def test_what_cannot_freeze_is_refused_or_only_synced(bench: Bench) -> None:
    point = bench.directory / "tmpfs"
    point.mkdir()
    run("mount", "-t", "tmpfs", "none", str(point))
    fd = os.open(point, os.O_RDONLY)
    try:
        ways = ((str(point), mount_id(fd)),)
        mount = FrozenMount(str(point), "tmpfs", "none", "0:0", ways)
        with prepared((mount,)) as freezer:
            with pytest.raises(LocalFault, match=r"RPL-6002.*tmpfs cannot be frozen"):
                freezer.freeze()
        mount = FrozenMount(str(point), "vfat", "none", "0:0", ways)
        with prepared((mount,)) as freezer:
            freezer.freeze()
            assert freezer.synced_only == (str(point),)
            freezer.thaw()
    finally:
        os.close(fd)
        run("umount", str(point))


def test_a_disk_without_filesystems(bench: Bench) -> None:
    assert mounts_to_freeze([bench.loop("d")]) == ()
    with prepared(()) as freezer:
        freezer.freeze()
        assert freezer.thaw() < 1.0


def test_the_watchdog_runs_from_the_frozen_filesystem(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interpreter, standard library and watchdog lie on what is frozen, as on a real server."""
    device = bench.loop("d", 800)
    point = bench.mount(device)
    library = Path(os.__file__).parent
    shutil.copytree(
        library,
        point / "lib" / library.name,
        ignore=shutil.ignore_patterns("test", "site-packages", "dist-packages", "__pycache__"),
    )
    (point / "bin").mkdir()
    interpreter = point / "bin" / "python3"
    shutil.copy(Path(sys.executable).resolve(), interpreter)
    shutil.copy(guardian_module.WATCHDOG, point / "watchdog.py")
    monkeypatch.setattr(guardian_module, "INTERPRETER", (str(interpreter), "-I", "-S", "-B"))
    monkeypatch.setattr(guardian_module, "WATCHDOG", str(point / "watchdog.py"))
    # Nothing of it is in the page cache when it starts.
    run("sync")
    Path("/proc/sys/vm/drop_caches").write_text("3")
    with Writer(point) as writer:
        with prepared(mounts_to_freeze([device])) as freezer:
            maps = Path(f"/proc/{freezer.watchdog_pid}/maps").read_text()
            assert str(interpreter) in maps
            freezer.freeze()
            Path("/proc/sys/vm/drop_caches").write_text("3")
            assert freezer.thaw() < 2.0
            goes_on(writer)
        with prepared(mounts_to_freeze([device]), 0.3) as freezer:
            freezer.freeze()
            Path("/proc/sys/vm/drop_caches").write_text("3")
            goes_on(writer, 1.0)


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
