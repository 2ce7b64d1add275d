"""The power is cut in the middle of a job, with both daemons on the machine.

Two halves, one before and one after; tests/vm/campaign.py cuts the power between them. What
was only in memory is lost on both sides: the kernel's record of what was written, and whatever the
receiver had not made durable.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.loops import MIB, mounted, run
from tests.support.pair import same_content, until
from tests.vm.guest.disks import by_serial
from tests.vm.guest.installed import DAEMONS, Installed, install, systemctl

pytestmark = [pytest.mark.root, pytest.mark.timeout(800)]

TRACKED = os.environ["REPLICAD_VM_TRACKER"] == "ebpf"
REASON = "rebooted at " if TRACKED else "is too old for the tracker"
WHERE = Path("/srv")
NOTE = Path("/var/lib/vm/job")


@pytest.fixture(autouse=True)
def journal() -> Iterator[None]:
    """Shown when the test fails."""
    yield
    print(run("journalctl", "-b", "--no-pager", "-n", "80", "-u", "replicad", "-u", "receiver"))


def test_before_it_restarts() -> None:
    device = by_serial("scsi0")
    chosen = random.Random(4)
    install([device])
    systemctl("enable", "--now", *DAEMONS)
    both = Installed()
    with mounted(device, WHERE, "ext4"):
        (WHERE / "database").write_bytes(chosen.randbytes(8 * MIB))
    run("mount", device, WHERE)
    both.enrol()
    both.create("--freeze-budget", "60s", "--compress", "none")
    both.synced(240)
    assert both.checkpoint()["epoch"] >= 1
    # Slow enough that the restart falls into a pass with much left to send.
    both.receiver.run("job", "set", both.job, "bandwidth=2Mbit")
    with (WHERE / "database").open("r+b") as database:
        database.write(chosen.randbytes(6 * MIB))
        os.fsync(database.fileno())
    until(lambda: both.show()["disks"][0]["dirty_bytes"] > 2 * MIB, 60, "a pass with much to do")
    NOTE.write_text(both.job)
    with NOTE.open() as note:
        os.fsync(note.fileno())
    os.sync()  # of this test's own files; the daemons' are theirs to keep
    step = "head -c 300000 /dev/urandom >/srv/f$((i % 7)); i=$((i+1)); sleep 0.1"
    run("sh", "-c", f"setsid sh -c 'i=0; while :; do {step}; done' >/dev/null 2>&1 &")
    time.sleep(1)


def test_after_it_restarted() -> None:
    both = Installed()
    both.job = NOTE.read_text()
    for daemon in DAEMONS:
        assert systemctl("is-enabled", daemon) == "enabled"
    device = by_serial("scsi0")
    until(lambda: Path("/run/replicad/control.sock").exists(), 120, "replicad started by systemd")
    until(lambda: both.show()["connected"], 120, "the source being connected again")

    def compared() -> Any:
        found = both.show()["disks"][0]["recovery"]
        print(found)  # shown when it never becomes the right one
        return found and found["grade"] == "compare" and found

    recovery = until(compared, 120, "the grade 'compare'")
    assert REASON in recovery["reason"]
    both.receiver.run("job", "set", both.job, "bandwidth=0")
    run("mount", device, WHERE)
    both.synced(240)
    reference = Path("/dev/shm/reference")
    both.hook("frozen", "10-reference", f"dd if={device} of={reference} iflag=direct bs=1M")
    assert both.checkpoint("--hold")["consistency"] == "filesystem"
    if TRACKED:
        assert "without a gap since the compare pass" in both.show()["disks"][0]["trust"]
    assert same_content(both.intermediate(), reference)
    for daemon in DAEMONS:
        systemctl("disable", "--now", daemon)
    run("umount", WHERE)
