"""The two daemons of the demo, each with configuration, state and runtime directory of its own.

They are the ordinary programs and are asked by the ordinary command lines with ``--json``; what
works here works on two hosts.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demo.signals import undisturbed
from demo.stage import PATIENCE_SECONDS, record_process
from protocol.admin.client import AdminClient
from protocol.errors import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

START_SECONDS = 15.0
TREE = Path(__file__).resolve().parent.parent


class CommandFailed(RuntimeError):
    """A command of ours ended with an error; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Program:
    """``receiver`` or ``replicad`` with its configuration file."""

    name: str
    config: Path

    @property
    def runtime(self) -> Path:
        """Its runtime directory, as :func:`prepare` writes it."""
        return self.config.parent / f"{self.name}-run"

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.config.parent / f"{self.name}.log"

    def command(self, *words: str) -> list[str]:
        """The command line, as one would type it."""
        script = Path(sys.executable).with_name(self.name)
        start = [str(script)] if script.exists() else [sys.executable, "-m", f"{self.name}.cli"]
        return [*start, "--config", str(self.config), *words]

    def ask(self, *words: str, given: str = "") -> Any:
        """What a command prints with ``--json``.

        Raises:
            CommandFailed: it ended with another exit code than 0.
        """
        done = subprocess.run(
            self.command(*words, "--json"),
            input=given,
            capture_output=True,
            text=True,
            check=False,
            cwd=TREE,
            start_new_session=True,
        )
        if done.returncode:
            said = (done.stdout + done.stderr).strip()
            with contextlib.suppress(ValueError, KeyError, TypeError):
                error = json.loads(done.stdout)["error"]
                said = f"{error['code']}: {error['message']} ({error['remedy']})"
            raise CommandFailed(f"'{self.name} {' '.join(words)}' failed: {said}")
        return json.loads(done.stdout)

    def client(self) -> AdminClient:
        """Its control socket, for what is asked several times a second."""
        return AdminClient(self.runtime / "control.sock", self.name)


def prepare(place: Path, disk: str) -> tuple[Program, Program]:
    """Write both configurations; returns (receiver, replicad). Ports are free ones."""
    control, data = _free_ports(2)
    receiver = f"""
[listen]
control = "127.0.0.1:{control}"
data = "127.0.0.1:{data}"
metrics = ""
[storage]
directory = "{place}/receiver"
[runtime]
directory = "{place}/receiver-run"
"""
    replicad = f"""
[source]
name = "demo"
disks = ["{disk}"]
[metrics]
listen = ""
[hooks]
directory = "{place}/hooks"
[state]
directory = "{place}/replicad"
[runtime]
directory = "{place}/replicad-run"
"""
    (place / "receiver.toml").write_text(receiver)
    (place / "replicad.toml").write_text(replicad)
    (place / "address").write_text(f"127.0.0.1:{control}")
    return Program("receiver", place / "receiver.toml"), Program(
        "replicad", place / "replicad.toml"
    )


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def running(program: Program) -> Iterator[None]:
    """The daemon, answering, for as long as the block runs; then ended with SIGTERM.

    Raises:
        CommandFailed: it did not start; the text ends with its log.
    """
    place = program.config.parent
    with open(program.log, "wb") as output, undisturbed():
        process = subprocess.Popen(
            program.command("run"),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=TREE,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        record_process(place, process.pid)
    try:
        _wait_for(program, process)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(program: Program, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(Fault), program.client() as client:
            client.call("rpc.methods")
            return
        time.sleep(0.05)
    raise CommandFailed(f"'{program.name} run' does not answer:\n{tail(program.log)}")


def tail(log: Path, lines: int = 20) -> str:
    """The end of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
