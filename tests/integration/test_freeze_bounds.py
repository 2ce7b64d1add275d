"""No freeze outlasts its budget, whatever happens meanwhile: seen from outside.

An observer that knows nothing of us writes to the frozen filesystem and keeps its longest stall.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.frozen import children
from tests.support.loops import MIB, loop_device, mounted
from tests.support.pair import CommandFailed, Pair, busy_writer, pair, until
from tests.support.stall import Observer

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(240)]

MARGIN = 0.4
"""Seconds beyond the budget: 0.1 until the daemon takes over from a watchdog that hangs, the rest
is the kernel's own time in FIFREEZE and FITHAW on a loaded machine."""


@contextlib.contextmanager
def line(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """What stands between source and receiver: stopped, the line is half-open."""
    words = ["socat", f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork", f"TCP:127.0.0.2:{port}"]
    socat = subprocess.Popen(words, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        yield socat
    finally:
        os.killpg(socat.pid, signal.SIGKILL)
        socat.wait()


class Case:
    """A pair whose checkpoints are held frozen by a hook until something has happened."""

    def __init__(
        self, both: Pair, observer: Observer, lines: list[subprocess.Popen[bytes]]
    ) -> None:
        self.both = both
        self.observer = observer
        self.lines = lines
        self.marker = both.directory / "marker"

    def frozen(self) -> None:
        """Ask for a checkpoint and return while it holds the filesystem frozen."""
        hook = self.both.hook("frozen", "50-hold", f"touch '{self.marker}'; exec sleep 20")
        self.observer.restart()
        self.both.receiver.ask("job.checkpoint", job=self.both.job, wait=False)
        until(self.marker.exists, 60, "the freeze", 0.002)
        self.marker.unlink()
        hook.unlink()

    def watchdog(self) -> int:
        """The process id of the watchdog."""
        for pid in children(self.both.source.pid):
            if b"watchdog.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        raise AssertionError("no watchdog")

    def happens(self, what: str) -> None:
        both = self.both
        if what.startswith("receiver"):
            os.kill(both.receiver.pid, getattr(signal, what.split()[1]))
        elif what.startswith("source"):
            os.kill(both.source.pid, getattr(signal, what.split()[1]))
        elif what.startswith("watchdog"):
            os.kill(self.watchdog(), getattr(signal, what.split()[1]))
        elif what == "line half-open":
            for each in self.lines:
                os.killpg(each.pid, signal.SIGSTOP)

    def mended(self, what: str) -> None:
        """What was stopped goes on, who was killed is started again."""
        for name, process in (("receiver", self.both.receiver), ("source", self.both.source)):
            if what == f"{name} SIGSTOP":
                os.kill(process.pid, signal.SIGCONT)
            elif what == f"{name} SIGKILL":
                process.kill()
                process.start()
        if what == "line half-open":
            for each in self.lines:
                os.killpg(each.pid, signal.SIGCONT)


THINGS = (
    "a hook hangs",
    "watchdog SIGSTOP",
    "watchdog SIGKILL",
    "receiver SIGSTOP",
    "line half-open",
    "source SIGSTOP",
    "receiver SIGKILL",
    "source SIGKILL",
)


def test_whatever_happens_while_frozen(tmp_path: Path) -> None:
    """The job allows a minute; it is this server's own limit that holds."""
    longest = 1.0
    with (
        loop_device(tmp_path / "disk.img", 160 * MIB) as device,
        mounted(device, tmp_path / "mnt", "ext4") as where,
        pair([device], start=False, receiver_host="127.0.0.2") as both,
        line(both.control) as control,
        line(both.data) as data,
        Observer(where) as observer,
    ):
        with both.source.config.open("a") as config:
            config.write(f'[freeze]\nlongest = "{longest * 1000:.0f}ms"\n')
        both.start()
        both.create("--freeze-budget", "60s")
        both.synced()
        case = Case(both, observer, [control, data])
        for what in THINGS:
            case.frozen()
            case.happens(what)
            time.sleep(0.1 if "SIGKILL" in what else longest + MARGIN)
            observer.goes_on(5.0)
            first = observer.stalled, observer.synced
            case.mended(what)
            both.state("syncing", seconds=60)
            print(
                f"{what}: stalled {first[0]:.3f} s, a sync {first[1]:.3f} s;"
                f" until it syncs again {observer.stalled:.3f} s"
            )
            assert observer.stalled < longest + MARGIN, what
            # It did stand still: otherwise the observer would see nothing whatever we did.
            assert "SIGKILL" in what or first[0] > longest / 2, what
        said = both.show()["convergence"]
        assert said["freeze_allowed_seconds"] == longest
        assert "this server allows 1s" in said["sentence"]
        assert both.checkpoint()["frozen_seconds"] < longest
        lines = both.source.log.read_text().splitlines()
        capped = [json.loads(each) for each in lines if "freeze.capped" in each]
        assert all("allows 1s" in each["because"] for each in capped)
        assert len(capped) > len(THINGS)

        with busy_writer(where, "20M"):
            for budget in (0.02, 0.1, 0.5):
                both.receiver.ask("job.set", job=both.job, changes={"freeze_budget": budget})
                observer.restart()
                begun = time.monotonic()
                try:
                    outcome = both.checkpoint()
                    assert outcome["frozen_seconds"] <= budget + MARGIN
                except CommandFailed as refused:
                    outcome = refused.error["error"]
                    assert outcome["code"] in {"RPL-6003", "RPL-6004"}
                took = time.monotonic() - begun
                print(f"{budget}: {took:.1f} s, stalled {observer.stalled:.3f} s, {outcome}")
                assert observer.stalled < budget + MARGIN
        assert both.show()["state"] == "syncing"
