"""A freeze holds, ends, and what is frozen in which order."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from protocol.errors import LocalFault
from replicad.freeze import guardian as guardian_module
from replicad.freeze.blockgraph import mount_id
from replicad.freeze.freezer import GRACE_SECONDS
from replicad.freeze.mounts import FrozenMount, mounts_to_freeze
from tests.support.frozen import (
    Bench,
    Writer,
    goes_on,
    is_frozen,
    prepared,
    run,
    until,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts and freezes filesystems"),
]


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
    run("sync", "--file-system", str(point))
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
