"""The receiver's machine loses power, three times, under a source on this host that goes on.

The receiver's storage is a disk of its own. It is a qcow2 of which QEMU keeps the table of clusters
in memory, so with QEMU goes what was written to new places since the guest's last flush, and what
was written over older content stays: a disk's volatile cache, of which a part got through.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.load import written_bytes
from tests.support.loops import MIB, loop_device, mounted
from tests.support.pair import CommandFailed, Pair, Process, until
from tests.vm.machine import Machine

SIZE = 128 * MIB
BALLAST = 64 * MIB
"""Written once, before the job: sent again, it would show."""
IN_FLIGHT = 4 * MIB
"""What a cut may cost: sent and not durable, at LIMIT."""
LIMIT = "2MB"
STORE = "/srv/store"
CONFIG = f"{STORE}/receiver.toml"
UP = f"""set -e
disk=$(/opt/replicad/venv/bin/python -m tests.vm.guest.disks store)
modprobe -q virtio_net || :
for card in /sys/class/net/e*; do card=${{card##*/}}; done
ip address add 10.0.2.15/24 dev $card
ip link set lo up
ip link set $card up
mkdir -p {STORE}
[ -z "$new" ] || mkfs.xfs -q -f $disk
mount $disk {STORE}
"""
START = f"""set -e
mkdir -p {STORE}/data
systemd-run --quiet --unit=power receiver --config {CONFIG} run
until [ -S /run/power/control.sock ]; do sleep 0.2; done
"""


class Inside(Process):
    """The receiver in the machine; a command costs seconds there."""

    def __init__(self, running: Machine) -> None:
        super().__init__("receiver", Path(CONFIG), Path(os.devnull), Path(os.devnull))
        self._machine = running

    def start(self, **environment: str) -> None:
        self._machine.check(UP, 120)
        self._machine.check(START, 120)

    def kill(self) -> None:
        self._machine.run("systemctl stop power; umount -l " + STORE, 60)

    def run(self, *arguments: str, code: int = 0, stdin: str = "") -> Any:
        command = ["receiver", "--config", CONFIG, *arguments, "--json"]
        got, said = self._machine.run(f"{shlex.join(command)} 2>/dev/null", 240)
        answer = json.loads(said) if said.strip() else {}
        if got != code:
            raise CommandFailed(command, got, answer)
        return answer

    def ask(self, method: str, **params: Any) -> Any:
        assert method == "job.show"
        return self.run("job", "show", params["job"])


class Apart(Pair):
    """A source here and a receiver in the machine, at the ports that QEMU forwards."""

    def __init__(self, directory: Path, device: str, running: Machine) -> None:
        super().__init__(directory, [device])
        self.machine = running
        self.control, self.data = running.ports
        self.receiver = Inside(running)
        listen = f'[listen]\ncontrol = "0.0.0.0:{self.control}"\ndata = "0.0.0.0:{self.data}"\n'
        places = f'[storage]\ndirectory = "{STORE}/data"\n[runtime]\ndirectory = "/run/power"\n'
        configure = f"printf %s {shlex.quote(listen + places)} >{CONFIG}; sync; umount {STORE}"
        down = "ip link set $card down; ip address flush dev $card"
        running.check(f"new=yes\n{UP}{configure}; {down}", 120)

    def job_here(self) -> dict[str, Any]:
        """The job as the source sees it, its counters those of the source's process."""
        found: dict[str, Any] = self.status()["job"] or {}
        return found

    def lose_power(self, show: Callable[[str], None], when: str) -> None:
        """Cuts the machine's power, and starts the receiver again."""
        show(f"power: cut {when}, {self.job_here().get('wire_bytes', 0) / MIB:.1f} MiB were sent")
        self.machine.cut_power()
        self.receiver.start()
        until(lambda: self.job_here().get("state") == "syncing", 600, "syncing again")
        self.receiver.run("job", "set", self.job, "bandwidth=unlimited")

    def identical(self, reference: Path) -> None:
        """The copy in the machine is what was frozen here."""
        sums = self.machine.check(f"sha256sum {self.intermediate()}", 120)
        here = subprocess.run(["sha256sum", reference], capture_output=True, text=True, check=True)
        assert sums.split()[0] == here.stdout.split()[0], "the copy is not what was frozen"


@contextlib.contextmanager
def _apart(device: str, running: Machine) -> Iterator[Apart]:
    directory = Path(tempfile.mkdtemp(prefix="replicad-test-", dir="/dev/shm"))
    directory.chmod(0o755)
    both = Apart(directory, device, running)
    try:
        both.start()
        yield both
    except BaseException:
        print(running.run("journalctl -b --no-pager -n 60 -u power", 60)[1])
        print(both.source.log.read_text()[-4000:] if both.source.log.exists() else "")
        raise
    finally:
        both.close()


def receiver_loses_power(running: Machine, show: Callable[[str], None]) -> str:
    """In the first pass, in a delta pass, and while it takes a checkpoint; what came out."""
    work = Path(tempfile.mkdtemp(prefix="replicad-vm-"))
    image, reference = work / "disk.img", work / "reference.img"
    try:
        with (
            loop_device(image, SIZE) as device,
            mounted(device, work / "mnt", "ext4") as where,
            _apart(device, running) as both,
        ):
            (where / "ballast").write_bytes(os.urandom(BALLAST))
            os.sync()
            both.keep_reference(image, reference)
            both.create("--freeze-budget", "30s", "--bandwidth", LIMIT, "--compress", "none")
            start = written_bytes(device)
            _three_cuts(both, where, work, show)
            written = written_bytes(device) - start
            assert both.checkpoint("--hold")["consistency"] == "filesystem"
            both.identical(reference)
            (disk,) = both.show()["disks"]
            wire = both.job_here()["wire_bytes"]
            said = f"{wire / MIB:.1f} MiB sent, {written / MIB:.1f} written; {disk['trust']}"
            if disk["tracker"] == "ebpf":
                assert "since the full pass" in disk["trust"], said
                assert wire <= 1.1 * (BALLAST + 4 * MIB + written + 3 * IN_FLIGHT), said
            return said
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def _writer(where: Path) -> Iterator[None]:
    """Changes files all the time, but in all less than the ballast."""
    step = "i=$((i + 1)); head -c 40000 /dev/urandom >f$((i % 7)); sync -f .; sleep 0.5"
    command = ["sh", "-c", f"while :; do {step}; done"]
    process = subprocess.Popen(command, cwd=where, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _three_cuts(both: Apart, where: Path, work: Path, show: Callable[[str], None]) -> None:
    with _writer(where):
        until(lambda: both.job_here().get("wire_bytes", 0) > BALLAST / 3, 600, "a third of it")
        both.lose_power(show, "in the first pass")
        both.synced(600)

        both.receiver.run("job", "set", both.job, f"bandwidth={LIMIT}")
        (where / "more").write_bytes(os.urandom(12 * MIB))
        os.sync()
        begun = both.job_here()["wire_bytes"]
        until(lambda: both.job_here()["wire_bytes"] > begun + 3 * MIB, 600, "a delta pass")
        both.lose_power(show, "in a delta pass")
        both.synced(600)

        frozen = work / "frozen"
        hook = both.hook("frozen", "90-tell", f"touch {frozen}; sleep 2")
        both.receiver.run("job", "checkpoint", both.job)
        until(frozen.exists, 600, "the freeze")
        both.lose_power(show, "in a freeze")
        hook.unlink()
        both.synced(600)
