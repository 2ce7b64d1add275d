"""What the watchdog does when it may not freeze, and with what it does not understand.

With real filesystems: ``tests/integration/test_freeze.py``.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from protocol.errors import LocalFault
from replicad.freeze import watchdog
from replicad.freeze.freezer import Freezer
from replicad.freeze.guardian import INTERPRETER, WATCHDOG, Guardian
from replicad.freeze.leftover import thaw_leftovers, write_record
from replicad.freeze.memory import lock_memory, read_only_files, unlock_memory
from replicad.freeze.mounts import FrozenMount

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Beside:
    """A watchdog over nothing, driven by hand."""

    def __init__(self) -> None:
        self.peer, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.peer.settimeout(20)
        ledger = os.memfd_create("ledger")
        os.ftruncate(ledger, 1)
        self.process = subprocess.Popen(
            [*INTERPRETER, WATCHDOG, str(theirs.fileno()), str(ledger)],
            pass_fds=(theirs.fileno(), ledger),
        )
        theirs.close()
        os.close(ledger)
        assert self.hear()["say"] == "ready"

    def hear(self) -> dict[str, Any]:
        heard: dict[str, Any] = json.loads(self.peer.recv(65536))
        return heard

    def close(self) -> None:
        self.peer.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def beside() -> Iterator[Beside]:
    made = Beside()
    yield made
    made.close()


def test_asked_to_thaw_it_says_that_it_held(beside: Beside) -> None:
    beside.peer.send(b"freeze 10")
    frozen = beside.hear()
    assert frozen["say"] == "frozen"
    beside.peer.send(b"thaw")
    thawed = beside.hear()
    assert (thawed["why"], thawed["held"], thawed["broken"]) == ("asked", True, [])
    assert frozen["first"] == thawed["first"] <= frozen["last"] <= thawed["end"]
    assert beside.process.wait(10) == 0


@pytest.mark.parametrize(
    "words", [b"", b"thaw", b"freeze", b"freeze x", b"freeze -1", b"freeze nan", b"freeze 1e9"]
)
def test_without_a_sound_order_it_freezes_nothing_and_ends(beside: Beside, words: bytes) -> None:
    beside.peer.send(words)
    assert beside.process.wait(10) == 0
    assert beside.peer.recv(100) == b""


@pytest.mark.parametrize("words", [b"thaw!", b"x" * 1000, b"\xff"])
def test_a_malformed_message_ends_the_freeze(beside: Beside, words: bytes) -> None:
    beside.peer.send(b"freeze 10")
    assert beside.hear()["say"] == "frozen"
    beside.peer.send(words)
    thawed = beside.hear()
    assert (thawed["say"], thawed["why"], thawed["held"]) == ("thawed", "malformed", False)


def test_the_deadline_ends_the_freeze(beside: Beside) -> None:
    beside.peer.send(b"freeze 0.1")
    assert beside.hear()["say"] == "frozen"
    thawed = beside.hear()
    assert (thawed["why"], thawed["held"]) == ("deadline", False)
    assert thawed["end"] - thawed["first"] >= 0.1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_freeze(beside: Beside, number: signal.Signals) -> None:
    beside.peer.send(b"freeze 10")
    assert beside.hear()["say"] == "frozen"
    beside.process.send_signal(number)
    assert beside.hear()["why"] == "signal"
    assert beside.process.wait(10) == 0


def test_the_end_of_the_daemon_ends_the_freeze_and_the_watchdog(beside: Beside) -> None:
    beside.peer.send(b"freeze 600")
    assert beside.hear()["say"] == "frozen"
    beside.peer.shutdown(socket.SHUT_WR)
    assert beside.hear()["why"] == "gone"
    assert beside.process.wait(10) == 0


def test_it_needs_only_the_standard_library_and_little_of_it() -> None:
    code = f"import runpy, sys; runpy.run_path({WATCHDOG!r}); print(*sys.modules)"
    words = [*INTERPRETER, "-c", code]
    modules = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert {name.partition(".")[0] for name in modules} <= sys.stdlib_module_names | {"__main__"}
    assert len(modules) < 100


def test_what_cannot_be_frozen_is_named(tmp_path: Path) -> None:
    """/proc is nothing that freezes, for root and for others."""
    ways = (("/proc", next(_mount_ids("/proc"))),)
    with Freezer((FrozenMount("/proc", "proc", "proc", "0:0", ways),), 5.0) as freezer:
        freezer.prepare()
        with pytest.raises(LocalFault, match=r"RPL-6002: filesystem /proc could not be frozen"):
            freezer.freeze()


def _mount_ids(path: str) -> Iterator[int]:
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        yield from (int(line.split()[0]) for line in mounts if line.split()[4] == path)


def test_a_path_that_leads_elsewhere_is_not_frozen(tmp_path: Path) -> None:
    mount = FrozenMount("/gone", "ext4", "/dev/vdz", "1:1", ((str(tmp_path), -1),))
    with (
        Freezer((mount,), 5.0) as freezer,
        pytest.raises(LocalFault, match=r"RPL-6002.*is hidden by another mount"),
    ):
        freezer.prepare()


def test_a_watchdog_that_does_not_start_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicad.freeze.guardian.INTERPRETER", ("/bin/false",))
    with (
        Freezer((), 5.0) as freezer,
        pytest.raises(LocalFault, match=r"RPL-6002.*does not start"),
    ):
        freezer.prepare()


def test_the_guardian_ends_with_its_watchdog() -> None:
    guardian = Guardian([], set(), time.monotonic)
    guardian.wait(("ready",), 20)
    os.kill(guardian.pid, signal.SIGKILL)
    guardian.wait((), 20)
    assert guardian.ended
    guardian.close()


def test_the_ledger_is_shared() -> None:
    states = {
        watchdog.UNTOUCHED,
        watchdog.TRYING,
        watchdog.FROZEN,
        watchdog.SYNCED,
        watchdog.REFUSED,
        watchdog.THAWED,
    }
    assert len(states) == 6
    assert all(len(state) == 1 for state in states)
    with mmap.mmap(-1, 1) as fresh:
        assert fresh[:] == watchdog.UNTOUCHED


def test_leftovers_of_filesystems_that_are_gone_or_others(tmp_path: Path) -> None:
    record = tmp_path / "frozen.json"
    write_record(record, [("1:2", ["/nowhere"]), ("1:3", [str(tmp_path)])])
    assert record.stat().st_mode & 0o777 == 0o600
    assert thaw_leftovers(record) == []
    assert not record.exists()
    assert thaw_leftovers(record) == []


@pytest.mark.parametrize("text", ["{", "1", "[1]", "[[1]]", '{"a": 1}'])
def test_a_record_of_somebody_else_is_refused(tmp_path: Path, text: str) -> None:
    record = tmp_path / "frozen.json"
    record.write_text(text)
    with pytest.raises(ValueError, match="is not a record of a freeze"):
        thaw_leftovers(record)


def test_what_a_fault_would_have_to_read_is_known() -> None:
    maps = """\
7f00-7f10 r-xp 00000000 fe:00 77 /usr/lib/libc.so.6
7f10-7f20 ---p 00010000 fe:00 77 /usr/lib/libc.so.6
7f20-7f28 r--p 00020000 fe:00 77 /usr/lib/a file with spaces (deleted)
7f28-7f30 rw-p 00028000 fe:00 77 /usr/lib/libc.so.6
7f30-7f40 rw-s 00000000 00:18 9 /run/replicad/job-0.map
7f40-7f50 rw-p 00000000 00:00 0
7f50-7f60 r--p 00000000 00:00 0 [vvar]
"""
    assert list(read_only_files(maps)) == [(0x7F00, 0x7F10), (0x7F20, 0x7F28)]


def test_memory_is_locked_or_it_is_said_why_not() -> None:
    locked = lock_memory()
    try:
        assert locked.locked == (not locked.reason)
        assert not locked.locked or locked.kib > 0
    finally:
        unlock_memory()
