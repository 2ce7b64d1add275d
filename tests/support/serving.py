"""A pair that serves: a source under writes, a job that follows it, and refusals around it.

What bad input must not do is stated once, here: :meth:`Serving.refused` checks the exit code, the
code in ``--json``, the sentence and remedy for people, and that nothing has changed;
:meth:`Serving.still_serves` that both daemons are the same processes as before, follow the source
and take a checkpoint that is byte for byte the frozen disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from protocol.admin.client import AdminClient
from tests.support.loops import MIB, loop_device, mounted
from tests.support.pair import BIN, Pair, Process, pair, same_content, until

DISK_SIZE = 24 * MIB
COMMAND_SECONDS = 60.0


def command(process: Process, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command of a daemon's program with its configuration; it must end in time."""
    return subprocess.run(
        [str(BIN / process.program), "--config", str(process.config), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


def fails(
    process: Process, code: str, status: int, *arguments: str, stdin: str = ""
) -> dict[str, Any]:
    """A command must fail with this code and exit status, for scripts and for people alike.

    Returns:
        The error object that ``--json`` printed.
    """
    scripted = command(process, *arguments, "--json", stdin=stdin)
    assert scripted.returncode == status, (scripted.stdout, scripted.stderr)
    assert scripted.stderr == ""
    error: dict[str, Any] = json.loads(scripted.stdout)["error"]
    assert error["code"] == code, error
    assert error["exit"] == status
    assert error["message"]
    assert error["remedy"]
    spoken = command(process, *arguments, stdin=stdin)
    assert spoken.returncode == status
    said_once(spoken.stderr, code)
    return error


def misused(process: Process, *arguments: str, names: str) -> None:
    """A command must be refused as wrongly used (exit 2), naming what is wrong with it."""
    scripted = command(process, *arguments, "--json")
    assert scripted.returncode == 2, (scripted.stdout, scripted.stderr)
    error = json.loads(scripted.stdout)["error"]
    assert error["code"] == "RPL-1002"
    assert names in error["message"]
    spoken = command(process, *arguments)
    assert spoken.returncode == 2
    assert spoken.stdout == ""
    assert names in spoken.stderr
    assert "Traceback" not in spoken.stderr


def said_once(text: str, code: str) -> None:
    """One clear error for people: its code and sentence on one line, the remedy on the next."""
    lines = text.splitlines()
    assert len(lines) == 2, text
    assert lines[0].startswith(f"{code}: ")
    assert len(lines[0]) > len(code) + 10
    assert lines[1].startswith("  → ")
    assert len(lines[1]) > 10


class Serving:
    """Both daemons with a running job ``main`` over one written disk."""

    def __init__(self, both: Pair, reference: Path) -> None:
        self.both = both
        self.reference = reference
        self.watched: list[Path] = []
        self._pids = self._running_pids()

    def _running_pids(self) -> tuple[int, int]:
        assert self.both.receiver.running, self.both.logs()
        assert self.both.source.running, self.both.logs()
        return self.both.receiver.pid, self.both.source.pid

    def restarted(self) -> None:
        """A test has itself started a daemon again."""
        self._pids = self._running_pids()

    # --- nothing changed ------------------------------------------------------------------------

    def world(self) -> dict[str, Any]:
        """All that bad input must leave as it is; figures that grow by themselves are left out."""
        with AdminClient(self.both.directory / "rr/control.sock", "receiver") as client:
            jobs, sources = client.call("job.list"), client.call("source.list")
            activations = client.call("activation.list")
        names = ("id", "name", "source", "error", "epoch")
        disks = ("path", "size", "intermediate")
        return {
            "jobs": [
                {name: job[name] for name in names}
                | {"disks": [{key: disk[key] for key in disks} for disk in job["disks"]]}
                for job in jobs
            ],
            "sources": [
                (source["name"], source["connected"], source["disks"]) for source in sources
            ],
            "activations": activations,
            "files": sorted(str(path) for path in self.both.storage.rglob("*")),
            "identity": _digest(self.both.directory / "ss" / "identity.json"),
            "authority": [_digest(p) for p in sorted(self.both.storage.glob("authority/*"))],
            "watched": [_digest(path) for path in self.watched],
        }

    def refused(
        self, code: str, status: int, *arguments: str, stdin: str = "", source: bool = False
    ) -> dict[str, Any]:
        """A command of the receiver (or the source) fails as in :func:`fails`, changing nothing."""
        before = self.world()
        process = self.both.source if source else self.both.receiver
        error = fails(process, code, status, *arguments, stdin=stdin)
        assert self.world() == before
        return error

    # --- everything goes on ---------------------------------------------------------------------

    def still_serves(self) -> None:
        """Same processes, the sync goes on, and its next checkpoint is the frozen disk."""
        assert self._running_pids() == self._pids
        self.both.synced()
        self.both.checkpoint("--hold")
        assert same_content(self.both.intermediate(), self.reference)
        self.both.receiver.run("job", "resume", self.both.job)
        self.both.synced()
        log = self.both.logs()
        assert "Traceback" not in log, log


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


@contextlib.contextmanager
def scribbler(where: Path) -> Iterator[None]:
    """A modest writer: some random kilobytes, fifty times a second, until the block ends."""
    ended = threading.Event()

    def scribble() -> None:
        with (where / "scribble").open("wb", buffering=0) as file:
            while not ended.wait(0.02):
                os.pwrite(file.fileno(), os.urandom(4096), int.from_bytes(os.urandom(1)) * 4096)

    thread = threading.Thread(target=scribble, name="scribbler")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(30)


@contextlib.contextmanager
def written_disk(directory: Path) -> Iterator[tuple[str, Path]]:
    """A small mounted ext4 that is written all the time: its device and its backing file."""
    image = directory / "source.img"
    with (
        loop_device(image, DISK_SIZE) as device,
        mounted(device, directory / "mnt", "ext4") as where,
        scribbler(where),
    ):
        yield device, image


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[Serving]:
    """A pair with a job over a written disk, past its first pass."""
    with written_disk(directory) as (device, image), pair([device]) as both:
        yield begin(both, image)


def begin(both: Pair, image: Path) -> Serving:
    """Create the job ``main`` of an enrolled pair and wait for its first pass."""
    reference = both.directory / "reference.img"
    both.keep_reference(image, reference)
    both.create("--name", "main", "--freeze-budget", "30s")
    both.synced()
    return Serving(both, reference)


def logged(process: Process, text: str, seconds: float = 30.0) -> None:
    """Wait until a daemon has logged this."""
    until(lambda: text in process.log.read_text(), seconds, f"{text!r} in {process.log}")
