"""Both daemons as systemd runs them: installed as systemd/README.md says, with their defaults."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from replicad.tracker.pins import collect_garbage
from tests.support.pair import Pair, Process, until
from tests.vm.guest.disks import run

UNITS = Path(__file__).resolve().parents[3] / "systemd"
DAEMONS = ("receiver", "replicad")


def systemctl(*arguments: str, seconds: float = 120.0) -> str:
    return run("systemctl", *arguments, seconds=seconds)


def show(unit: str, name: str) -> str:
    """One property of a unit."""
    return systemctl("show", "--property", name, "--value", unit)


def install(disks: Sequence[str]) -> None:
    """What the README says, and a configuration that names the disks."""
    for daemon in DAEMONS:
        shutil.copy(UNITS / f"{daemon}.service", "/usr/lib/systemd/system/")
    for kind in ("sysusers", "tmpfiles"):
        for file in (UNITS / f"{kind}.d").iterdir():
            shutil.copy(file, f"/usr/lib/{kind}.d/")
    run("systemd-sysusers")
    run("systemd-tmpfiles", "--create")
    for daemon in DAEMONS:
        Path(f"/etc/{daemon}").mkdir(exist_ok=True)
    shutil.copy(UNITS / "examples/receiver.toml", "/etc/receiver/receiver.toml")
    Path("/etc/replicad/replicad.toml").write_text(
        f'[source]\nname = "web01"\ndisks = {json.dumps(list(disks))}\n'
    )
    run("systemd-tmpfiles", "--create")  # the mode of the configuration that is there now
    systemctl("daemon-reload")


def remove() -> None:
    """Ends both and forgets all that they kept, so that another test begins anew."""
    systemctl("stop", *DAEMONS)
    for daemon in DAEMONS:
        for place in ("/etc", "/run", "/var/lib"):
            shutil.rmtree(f"{place}/{daemon}", ignore_errors=True)
        shutil.rmtree(f"/etc/systemd/system/{daemon}.service.d", ignore_errors=True)
    collect_garbage()
    systemctl("daemon-reload")


class Installed(Pair):
    """Commands to the installed daemons; systemd starts and ends them."""

    def __init__(self) -> None:
        self.directory = Path("/var/lib/vm")
        self.directory.mkdir(exist_ok=True)
        self.control, self.metrics_r, self.metrics_s = 8080, 9871, 9870
        self.hooks = Path("/etc/replicad/hooks")
        self.receiver, self.source = (
            Process(
                daemon,
                Path(f"/etc/{daemon}/{daemon}.toml"),
                Path(os.devnull),
                Path(f"/run/{daemon}/control.sock"),
            )
            for daemon in DAEMONS
        )
        self.job = ""

    def pid(self, daemon: str) -> int:
        return int(show(f"{daemon}.service", "MainPID"))

    def again(self, daemon: str, before: int, seconds: float = 90.0) -> None:
        """Waits until systemd runs another process of a daemon, and that is ready."""

        def ready() -> bool:
            unit = f"{daemon}.service"
            return show(unit, "ActiveState") == "active" and self.pid(daemon) not in (0, before)

        until(ready, seconds, f"{daemon} being started again")
