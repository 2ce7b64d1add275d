"""The units, users, directories and examples are what systemd and the daemons accept."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import pytest

import receiver.config
import replicad.config
from tests.house.tree import ROOT

if TYPE_CHECKING:
    from pathlib import Path

UNITS = ROOT / "systemd"
DAEMONS = ["replicad", "receiver"]
# Exactly the keys that are promised to users.
KEYS: dict[str, dict[str, set[str]]] = {
    "replicad": {
        "source": {"name", "disks"},
        "metrics": {"listen"},
        "hooks": {"directory"},
        "freeze": {"longest"},
        "state": {"directory"},
        "runtime": {"directory"},
    },
    "receiver": {
        "listen": {"control", "data", "metrics"},
        "storage": {"directory"},
        "runtime": {"directory"},
    },
}

Verify = Callable[[str], str]


def settings(text: str) -> dict[str, list[str]]:
    """The settings of a unit's [Service] section; systemd allows a key more than once."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif section == "Service" and "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture
def verify(tmp_path: Path) -> Verify:
    """Ask systemd what it thinks of a unit, as if the daemon and the user were installed here."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")

    def ask(text: str) -> str:
        unit = tmp_path / "under-test.service"
        for daemon in DAEMONS:
            text = text.replace(f"=/usr/bin/{daemon} ", "=/bin/true ")
        unit.write_text(text)
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr

    return ask


@pytest.mark.parametrize("daemon", DAEMONS)
def test_systemd_has_nothing_to_say(daemon: str, verify: Verify) -> None:
    assert verify((UNITS / f"{daemon}.service").read_text()) == ""


@pytest.mark.parametrize("wrong", ["Sandboxing=yes", "ExecStart=/nowhere/at/all", "Type=maybe"])
def test_systemd_would_have(wrong: str, verify: Verify) -> None:
    text = (UNITS / "receiver.service").read_text()
    assert verify(text.replace("[Service]\n", f"[Service]\n{wrong}\n")) != ""


@pytest.mark.parametrize("daemon", DAEMONS)
def test_the_unit_keeps_what_the_daemon_relies_on(daemon: str) -> None:
    unit = settings((UNITS / f"{daemon}.service").read_text())
    command = f"/usr/bin/{daemon} --config /etc/{daemon}/{daemon}.toml"
    assert unit["ExecStart"] == [f"{command} run"]
    assert unit["ExecStartPre"] == [f"{command} --check"]
    assert unit["Type"] == ["notify"]
    assert unit["NotifyAccess"] == ["main"]
    assert unit["WatchdogSec"] == ["30"]
    assert unit["RuntimeDirectory"] == [daemon]
    assert unit["RuntimeDirectoryPreserve"] == ["yes"]
    assert unit["StateDirectory"] == [daemon]


def test_the_thawing_watchdog_is_not_killed_with_the_daemon() -> None:
    unit = settings((UNITS / "replicad.service").read_text())
    assert unit["KillMode"] == ["control-group"]


def test_what_both_left_frozen_is_thawed_by_the_interpreter_of_the_daemon(tmp_path: Path) -> None:
    unit = settings((UNITS / "replicad.service").read_text())
    (line,) = unit["ExecStopPost"]
    daemon, record = tmp_path / "replicad", tmp_path / "frozen.json"
    daemon.write_text(f"#!{sys.executable}\n")
    record.write_text("[]")
    # what systemd makes of the line: no prefix, one dollar, no quotes around the argument
    script = line.removeprefix("-/bin/sh -c '").removesuffix("'").replace("$$", "$")
    script = script.replace("/usr/bin/replicad", str(daemon))
    script = script.replace("/run/replicad/frozen.json", str(record))
    subprocess.run(["/bin/sh", "-c", script], check=True, cwd=ROOT, timeout=30)
    assert not record.exists()


def test_the_source_stays_in_the_mount_namespace_of_the_server() -> None:
    unit = settings((UNITS / "replicad.service").read_text())
    apart = ("Private", "Protect", "ReadOnly", "ReadWrite", "Inaccessible", "Temporary", "Bind")
    assert not [key for key in unit if key.startswith((*apart, "MountFlags"))]


@pytest.mark.parametrize("daemon", DAEMONS)
def test_the_example_has_the_promised_keys(daemon: str) -> None:
    example = tomllib.loads((UNITS / "examples" / f"{daemon}.toml").read_text())
    assert {section: set(keys) for section, keys in example.items()} == KEYS[daemon]


def test_the_daemons_read_the_examples() -> None:
    source = replicad.config.load(UNITS / "examples" / "replicad.toml")
    assert (source.source.name, source.source.disks) == ("web01", ("/dev/vda",))
    assert msgspec.structs.replace(source, source=replicad.config.Source()) == (
        replicad.config.Config()
    )
    defaults = receiver.config.load(UNITS / "examples" / "receiver.toml")
    assert defaults == receiver.config.Config()


def test_the_user_of_the_receiver_is_made(tmp_path: Path) -> None:
    if shutil.which("systemd-sysusers") is None:
        pytest.skip("systemd-sysusers is not installed")
    (tmp_path / "etc").mkdir()
    rules = str(UNITS / "sysusers.d" / "receiver.conf")
    done = subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", "--dry-run", rules],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "receiver" in done.stdout + done.stderr
    assert settings((UNITS / "receiver.service").read_text())["User"] == ["receiver"]


def test_the_directories_are_made(tmp_path: Path) -> None:
    if shutil.which("systemd-tmpfiles") is None:
        pytest.skip("systemd-tmpfiles is not installed")
    # the owners do not exist here, and are not what this is about
    rules = (UNITS / "tmpfiles.d" / "replicad.conf").read_text().replace(" root root ", " - - ")
    (tmp_path / "rules.conf").write_text(rules)
    done = subprocess.run(
        ["systemd-tmpfiles", "--create", f"--root={tmp_path}", str(tmp_path / "rules.conf")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    hooks = tmp_path / "etc/replicad/hooks"
    assert {path.name for path in hooks.iterdir()} == {"pre-freeze.d", "frozen.d", "post-thaw.d"}
    assert {path.stat().st_mode & 0o777 for path in hooks.iterdir()} == {0o700}
