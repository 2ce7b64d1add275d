"""A freeze ends whoever of daemon and watchdog is killed or stopped, and when."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from protocol.errors import LocalFault
from replicad.freeze.freezer import GRACE_SECONDS
from replicad.freeze.leftover import thaw_leftovers
from replicad.freeze.mounts import mounts_to_freeze
from tests.support.frozen import (
    DAEMON,
    ROOT,
    Bench,
    Daemon,
    Writer,
    children,
    goes_on,
    is_frozen,
    prepared,
    run,
)
from tests.support.stall import Observer

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts and freezes filesystems"),
]


# --- something happens to a process ----------------------------------------------------------


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


@pytest.mark.parametrize("end", ["thaw", "close"])
def test_the_watchdog_is_stopped_right_before_the_deadline(bench: Bench, end: str) -> None:
    """Waiting for it to answer belongs to the budget."""
    device = bench.loop("d")
    point = bench.mount(device)
    with Observer(point) as observer, prepared(mounts_to_freeze([device]), 0.5) as freezer:
        freezer.freeze()
        time.sleep(0.4)
        os.kill(freezer.watchdog_pid, signal.SIGSTOP)
        if end == "thaw":
            with pytest.raises(LocalFault, match=r"RPL-6003.*does not answer"):
                freezer.thaw()
        else:
            freezer.close()
        observer.goes_on(5.0)
        assert 0.3 < observer.stalled < 0.5 + GRACE_SECONDS + 0.2


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
