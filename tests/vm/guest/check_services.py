"""The units under a systemd that is the first process: ready, killed, hung, stopped, started."""

from __future__ import annotations

import os
import pwd
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicad.tracker import pin_directory
from tests.support.loops import mounted
from tests.support.pair import same_content, until
from tests.vm.guest.disks import by_serial, run
from tests.vm.guest.installed import DAEMONS, Installed, install, remove, show, systemctl

pytestmark = [pytest.mark.root, pytest.mark.timeout(800)]

TRACKED = os.environ["REPLICAD_VM_TRACKER"] == "ebpf"
HURRY = "[Service]\nWatchdogSec=4\nTimeoutAbortSec=2\nRestartSec=1\n"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    device = by_serial("nvme0")
    with mounted(device, tmp_path_factory.mktemp("mnt"), "ext4") as where:
        install([device])
        (where / "file").write_bytes(os.urandom(1 << 20))
        for daemon in DAEMONS:
            extra = Path(f"/etc/systemd/system/{daemon}.service.d")
            extra.mkdir(parents=True, exist_ok=True)
            (extra / "hurry.conf").write_text(HURRY)
        systemctl("daemon-reload")
        systemctl("start", *DAEMONS)
        try:
            yield Installed()
        finally:
            remove()
            units = ("-u", "replicad", "-u", "receiver")
            print(run("journalctl", "-b", "--no-pager", "-n", "80", *units))


def test_start_returns_when_both_are_ready(both: Installed) -> None:
    for daemon in DAEMONS:
        unit = f"{daemon}.service"
        assert show(unit, "ActiveState") == "active"
        assert show(unit, "SubState") == "running"
        assert show(unit, "Type") == "notify"
    assert both.source.ask("status")
    assert both.receiver.run("job", "list") == []
    owner = os.stat(f"/proc/{both.pid('receiver')}").st_uid
    assert pwd.getpwuid(owner).pw_name == "receiver"


def test_senders_may_come_back_from_being_nice(both: Installed) -> None:
    """They hurry while something is frozen (RLIMIT_NICE 20 is a nice value of 0)."""
    limits = Path(f"/proc/{both.pid('replicad')}/limits").read_text()
    (line,) = (line for line in limits.splitlines() if line.startswith("Max nice priority"))
    assert line.split()[3:5] == ["20", "20"]


def test_a_job_from_enrolment_to_checkpoint(both: Installed) -> None:
    both.enrol()
    both.create("--freeze-budget", "60s")
    both.synced(240)
    assert both.checkpoint("--hold")["consistency"] == "filesystem"
    assert both.show()["disks"][0]["tracker"] == ("ebpf" if TRACKED else "none")
    both.resume()


@pytest.mark.parametrize("daemon", DAEMONS)
def test_killed_it_is_started_again(both: Installed, daemon: str) -> None:
    before = both.pid(daemon)
    os.kill(before, signal.SIGKILL)
    both.again(daemon, before)
    assert int(show(f"{daemon}.service", "NRestarts")) >= 1
    both.clean(seconds=240)


@pytest.mark.parametrize("daemon", DAEMONS)
def test_hung_it_is_killed_by_the_watchdog_and_started_again(both: Installed, daemon: str) -> None:
    before, restarts = both.pid(daemon), int(show(f"{daemon}.service", "NRestarts"))
    begun = time.time()
    os.kill(before, signal.SIGSTOP)
    both.again(daemon, before)
    assert int(show(f"{daemon}.service", "NRestarts")) > restarts
    said = run("journalctl", "-b", "--no-pager", "-u", daemon, "--since", f"@{int(begun)}")
    assert "Watchdog timeout" in said
    both.clean(seconds=240)


def test_without_a_reason_the_watchdog_is_quiet(both: Installed) -> None:
    before = {daemon: both.pid(daemon) for daemon in DAEMONS}
    time.sleep(9)  # twice the watchdog's time
    assert before == {daemon: both.pid(daemon) for daemon in DAEMONS}


def test_stopped_and_started_the_kernel_went_on_tracking(both: Installed) -> None:
    device = by_serial("nvme0")
    systemctl("stop", "replicad")
    assert show("replicad.service", "ActiveState") == "inactive"
    assert show("replicad.service", "Result") == "success"
    assert not Path("/run/replicad/control.sock").exists()
    pins = pin_directory(Path("/run/replicad"))
    assert pins.is_dir() == TRACKED
    (where,) = run("findmnt", "-n", "-o", "TARGET", device).splitlines()
    Path(where, "while-stopped").write_bytes(os.urandom(1 << 20))
    os.sync()
    systemctl("start", "replicad")
    both.clean(seconds=240)
    reference = Path("/dev/shm/reference")
    both.hook("frozen", "10-reference", f"dd if={device} of={reference} iflag=direct bs=1M")
    both.checkpoint("--hold")
    if TRACKED:
        assert "tracked without a gap" in both.show()["disks"][0]["trust"]
    assert same_content(both.intermediate(), reference)
    both.resume()
    until(lambda: both.show()["state"] == "syncing")
