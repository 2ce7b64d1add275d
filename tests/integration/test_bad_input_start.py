"""Bad configuration and bad state: a daemon that cannot start says why, once, and ends.

No half-started daemon, no traceback, nothing overwritten: what was found damaged lies there
untouched for whoever repairs it.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.loops import run
from tests.support.pair import BIN, Pair, Process, pair, until
from tests.support.serving import command, fails, logged, said_once

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Pair]:
    """A pair with a plain file as its disk, not started."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    with pair([str(disk)], start=False, tracker="off") as made:
        yield made


def does_not_start(process: Process, code: str, status: int) -> str:
    """``run`` ends by itself with this code: what it said on standard error, without log lines."""
    done = subprocess.run(
        [str(BIN / process.program), "--config", str(process.config), "run"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == status, done.stderr
    said = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("{"))
    said_once(said, code)
    return said


# --- configuration --------------------------------------------------------------------------------

WRONG = {
    "receiver": (
        (
            '[listen]\ncontrol = "nowhere"\n[storage]\ndirectori = "/tmp"\n'
            '[limits]\nmemory = "5 bananas"\nhandshakes = 0\n[colours]\nsky = "blue"\n'
        ),
        {
            2: "listen.control",
            4: "storage.directori",
            6: "limits.memory",
            7: "limits.handshakes",
            8: "colours",
        },
    ),
    "replicad": (
        (
            '[source]\nname = "web 01"\ndisks = ["vda"]\n[tracker]\nenabled = "maybe"\n'
            '[metrics]\nlisten = "127.0.0.1:port"\n[runtime]\ndirectory = "run"\nhold = true\n'
        ),
        {
            2: "source.name",
            3: "source.disks",
            5: "tracker.enabled",
            7: "metrics.listen",
            9: "runtime.directory",
            10: "runtime.hold",
        },
    ),
}


@pytest.mark.parametrize("program", sorted(WRONG))
@pytest.mark.parametrize("how", [("--check",), ("run",)])
def test_all_that_is_wrong_in_a_configuration_is_said_at_once(
    both: Pair, program: str, how: tuple[str, ...]
) -> None:
    """Exit 2 with every key and its line, from ``--check`` and from ``run`` alike."""
    process = both.receiver if program == "receiver" else both.source
    text, wrong = WRONG[program]
    process.config.write_text(text)
    done = command(process, *how)
    assert done.returncode == 2, done
    lines = done.stderr.splitlines()
    assert lines[0].startswith("RPL-1001: ")
    assert f"{len(wrong)} problems" in lines[0]
    for line, (number, key) in zip(lines[1:], wrong.items(), strict=False):
        assert line.strip().startswith(f"line {number}: {key}"), done.stderr
    assert len(lines) == len(wrong) + 2
    assert lines[-1].startswith("  → ")
    assert not list((both.directory / "rr").iterdir())


def test_a_configuration_that_is_no_toml_or_not_there(both: Pair) -> None:
    both.receiver.config.write_text("[listen\n")
    fails(both.receiver, "RPL-1001", 2, "job", "list")
    does_not_start(both.receiver, "RPL-1001", 2)
    both.source.config.write_bytes(b"\xff\xfe\x00")
    does_not_start(both.source, "RPL-1001", 2)
    both.source.config.unlink()
    does_not_start(both.source, "RPL-1001", 2)


# --- another daemon -------------------------------------------------------------------------------


def test_a_second_daemon_on_the_same_directories_is_refused(both: Pair) -> None:
    both.start()
    for process, runtime in ((both.receiver, "rr"), (both.source, "sr")):
        assert str(both.directory / runtime) in does_not_start(process, "RPL-1105", 3)
        process.run("source" if process is both.receiver else "status", *_rest(process))
    # Another runtime directory does not help: the disks and the catalog would be shared.
    twin = both.directory / "twin.toml"
    text = both.receiver.config.read_text().replace(f"{both.directory}/rr", f"{both.directory}/r2")
    twin.write_text(text)
    does_not_start(Process("receiver", twin, both.receiver.log, both.directory), "RPL-1105", 3)
    both.receiver.run("source", "list")


def _rest(process: Process) -> tuple[str, ...]:
    return ("list",) if process.program == "receiver" else ()


@contextlib.contextmanager
def taken(port: int) -> Iterator[None]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        holder.listen()
        yield


def test_a_port_in_use_is_named(both: Pair) -> None:
    for port, process in (
        (both.control, both.receiver),
        (both.data, both.receiver),
        (both.metrics_r, both.receiver),
        (both.metrics_s, both.source),
    ):
        with taken(port):
            assert f"127.0.0.1:{port}" in does_not_start(process, "RPL-1105", 3)
    both.start()


def test_an_address_of_another_machine_is_named(both: Pair) -> None:
    text = both.receiver.config.read_text()
    both.receiver.config.write_text(text.replace("127.0.0.1", "192.0.2.1"))
    assert "192.0.2.1" in does_not_start(both.receiver, "RPL-1001", 2)


# --- places that do not do ------------------------------------------------------------------------


@contextlib.contextmanager
def read_only(where: Path) -> Iterator[None]:
    """An empty filesystem that nobody, not even root, can write to."""
    run("mount", "-t", "tmpfs", "-o", "ro,size=1m,mode=700", "replicad-test", where)
    try:
        yield
    finally:
        run("umount", where)


@pytest.mark.parametrize("place", ["rs", "rr"])
def test_a_receiver_that_cannot_write_its_directories(both: Pair, place: str) -> None:
    with read_only(both.directory / place):
        said = does_not_start(both.receiver, "RPL-1001", 2)
    assert str(both.directory / place) in said
    assert "ead-only" in said


def test_a_source_that_cannot_write_its_directories(both: Pair) -> None:
    """Its runtime directory it needs at once, its state directory when it enrols."""
    with read_only(both.directory / "sr"):
        assert str(both.directory / "sr") in does_not_start(both.source, "RPL-1001", 2)
    both.receiver.start()
    code = both.receiver.run("activation", "create", "--uses", "2")["code"]
    where = ("enroll", "-", "--receiver", f"127.0.0.1:{both.control}")
    with read_only(both.directory / "ss"):
        error = fails(both.source, "RPL-1001", 2, *where, stdin=code)
        assert str(both.directory / "ss") in error["message"]
    assert both.receiver.run("source", "list") == []
    assert [row["used"] for row in both.receiver.run("activation", "list")] == [0]
    both.source.run(*where, stdin=code)


def test_a_directory_that_others_can_write_to_is_refused(both: Pair) -> None:
    for process, place in ((both.receiver, "rr"), (both.receiver, "rs"), (both.source, "sr")):
        (both.directory / place).chmod(0o777)
        assert str(both.directory / place) in does_not_start(process, "RPL-1001", 2)
        (both.directory / place).chmod(0o755)


# --- state that is damaged ------------------------------------------------------------------------


def test_a_catalog_of_garbage_is_refused_and_left_alone(both: Pair) -> None:
    catalog = both.storage / "catalog.db"
    for garbage in (bytes(range(256)) * 32, b"SQLite format 3\x00" + bytes(range(256)) * 32):
        catalog.write_bytes(garbage)
        assert str(catalog) in does_not_start(both.receiver, "RPL-4111", 1)
        assert catalog.read_bytes() == garbage


def test_an_authority_that_is_damaged_is_refused_and_left_alone(both: Pair) -> None:
    both.receiver.start()
    both.receiver.stop()
    for name in ("authority-key.pem", "authority.pem"):
        path = both.storage / "authority" / name
        good = path.read_bytes()
        for bad in (b"garbage", good[: len(good) // 2]):
            path.write_bytes(bad)
            does_not_start(both.receiver, "RPL-2011", 1)
            assert path.read_bytes() == bad
        path.write_bytes(good)
    both.receiver.start()


def _no_key(identity: dict[str, str]) -> dict[str, str]:
    return {**identity, "key_pem": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}


def _no_authority(identity: dict[str, str]) -> dict[str, str]:
    return {**identity, "authority_pem": "garbage"}


def _bad_address(identity: dict[str, str]) -> dict[str, str]:
    return {**identity, "address": "nowhere"}


def _no_name(identity: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in identity.items() if key != "name"}


DAMAGE: list[Callable[[dict[str, str]], dict[str, str]] | bytes] = [
    bytes(range(256)),
    b"",
    b'{"name":"web01","addr',
    _no_key,
    _no_authority,
    _bad_address,
    _no_name,
]


def test_a_damaged_identity_is_said_and_a_new_one_repairs_it(both: Pair) -> None:
    """The source keeps running and says what is wrong; enrolling again is all that it takes."""
    both.start()
    file = both.directory / "ss" / "identity.json"
    good = file.read_bytes()
    for damage in DAMAGE:
        both.source.kill()
        bad = damage if isinstance(damage, bytes) else json.dumps(damage(json.loads(good))).encode()
        file.write_bytes(bad)
        both.source.start()
        sentence = until(lambda: both.source.run("status")["sentence"], what="a sentence")
        assert "identity.json is damaged" in sentence
        fails(both.source, "RPL-2006", 3, "pause")
        assert file.read_bytes() == bad
    logged(both.source, "RPL-2006")
    both.receiver.run("source", "forget", "web01")
    code = both.receiver.run("activation", "create")["code"]
    both.source.run("enroll", "-", "--receiver", f"127.0.0.1:{both.control}", stdin=code)
    until(lambda: both.source.run("status")["connected"], what="the connection")
    assert both.source.running
    assert "Traceback" not in both.source.log.read_text()
