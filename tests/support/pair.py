"""A receiver and a source as real processes, driven through their command lines.

``Pair`` keeps everything in one directory: configurations, state, runtime, logs. Processes can
be killed and started again at will; whatever is left at the end is killed, and the tracker's
pins are removed. Runtime directories lie in memory (/dev/shm), as in production.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from prometheus_client.parser import text_string_to_metric_families

from protocol.admin.client import AdminClient
from replicad.tracker import pin_directory
from tests.support.ports import free_ports

BIN = Path(sys.executable).parent
PATIENCE = float(os.environ.get("REPLICAD_TEST_PATIENCE", "1"))
"""How many times slower than the machines that the tests are made for this one may be."""

START_SECONDS = 120.0
"""For a daemon to answer: a busy machine is slow, which is not what is judged."""

TEST_SECONDS = 90.0


class CommandFailed(AssertionError):
    """A command ended with another code than 0; ``code`` and ``error`` (its JSON) say how."""

    def __init__(self, command: Sequence[str], code: int, error: dict[str, Any]) -> None:
        super().__init__(f"{' '.join(command)}: exit {code}: {error}")
        self.code = code
        self.error = error


def until(
    condition: Callable[[], Any], seconds: float = TEST_SECONDS, what: str = "it", step: float = 0.1
) -> Any:
    """Wait for a true value of ``condition`` and return it; AssertionError when it never is."""
    seconds *= PATIENCE
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen in {seconds:g} s")
        time.sleep(step)
    return found


class Process:
    """One daemon: ``replicad`` or ``receiver`` with its configuration file."""

    def __init__(self, program: str, config: Path, log: Path, control: Path) -> None:
        self.program = program
        self.config = config
        self.log = log
        self._control = control
        self._process: subprocess.Popen[bytes] | None = None
        self._begun = 0

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def exit_code(self) -> int | None:
        """How it ended (minus the signal's number); None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def said(self) -> str:
        """Its log since it was started last."""
        return self.log.read_bytes()[self._begun :].decode()

    def start(self, **environment: str) -> None:
        """Start it and wait until it answers on its control socket."""
        with self.log.open("ab") as log:
            self._begun = log.tell()
            self._process = subprocess.Popen(
                [str(BIN / self.program), "--config", str(self.config), "run"],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **environment},
            )
        until(self._answers, START_SECONDS, f"{self.program} answering", step=0.02)

    def _answers(self) -> bool:
        if not self.running:
            raise AssertionError(f"{self.program} ended: {self.log.read_text()[-2000:]}")
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(str(self._control))
            return True
        return False

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self, seconds: float = 20.0) -> int:
        """SIGTERM; its exit code. It must end in time."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(seconds)
        self._process = None
        return code

    def run(self, *arguments: str, code: int = 0, stdin: str = "") -> Any:
        """A command of its program with ``--json``: the decoded answer.

        Another exit code than ``code`` raises CommandFailed; with ``code`` other than 0 the
        error object is returned.
        """
        command = [str(BIN / self.program), "--config", str(self.config), *arguments, "--json"]
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TEST_SECONDS * PATIENCE,
            check=False,
        )
        answer = json.loads(done.stdout) if done.stdout.strip() else {"stderr": done.stderr}
        if done.returncode != code:
            raise CommandFailed(command, done.returncode, answer)
        return answer["error"] if code and "error" in answer else answer

    def ask(self, method: str, **params: Any) -> Any:
        """What a method of the control socket answers: a command without its start-up."""
        with AdminClient(self._control, self.program, TEST_SECONDS * PATIENCE) as client:
            return client.call(method, **params)


class Pair:
    """A receiver and a source on loopback. Make with :func:`pair`."""

    def __init__(
        self,
        directory: Path,
        disks: Sequence[str],
        tracker: str = "auto",
        receiver_host: str = "127.0.0.1",
    ) -> None:
        """``receiver_host``: where the receiver listens. The source always dials 127.0.0.1,
        so with another address of the loopback something can be put in between."""
        self.directory = directory
        self.disks = list(disks)
        self.receiver_host = receiver_host
        self.control, self.data, self.metrics_r, self.metrics_s = free_ports(4)
        for name in ("rs", "rr", "ss", "sr", "hooks"):
            (directory / name).mkdir(mode=0o755)
        self.hooks = directory / "hooks"
        self.storage = directory / "rs"
        receiver_toml, source_toml = directory / "receiver.toml", directory / "replicad.toml"
        receiver_toml.write_text(
            f'[listen]\ncontrol = "{receiver_host}:{self.control}"\n'
            f'data = "{receiver_host}:{self.data}"\nmetrics = "127.0.0.1:{self.metrics_r}"\n'
            f'[storage]\ndirectory = "{directory}/rs"\n[runtime]\ndirectory = "{directory}/rr"\n'
        )
        source_toml.write_text(
            f'[source]\nname = "web01"\ndisks = {json.dumps(self.disks)}\n'
            f'[metrics]\nlisten = "127.0.0.1:{self.metrics_s}"\n'
            f'[hooks]\ndirectory = "{directory}/hooks"\n[state]\ndirectory = "{directory}/ss"\n'
            f'[runtime]\ndirectory = "{directory}/sr"\n[tracker]\nenabled = "{tracker}"\n'
        )
        self.receiver = Process(
            "receiver", receiver_toml, directory / "receiver.log", directory / "rr/control.sock"
        )
        self.source = Process(
            "replicad", source_toml, directory / "replicad.log", directory / "sr/control.sock"
        )
        self.job = ""

    def start(self) -> None:
        """Start both, enrol, and wait until the source is connected and has said its disks."""
        self.receiver.start()
        self.source.start()
        self.enrol()

    def enrol(self) -> None:
        """Enrol the source with a fresh activation code, given on standard input."""
        code = self.receiver.run("activation", "create")["code"]
        self.source.run("enroll", "-", "--receiver", f"127.0.0.1:{self.control}", stdin=code)
        until(self._offered, what="the source's inventory")

    def _offered(self) -> bool:
        found = self.receiver.run("source", "list")
        return any(source["connected"] and source["disks"] for source in found)

    def create(self, *options: str) -> dict[str, Any]:
        """Create (and by default start) a job; it becomes ``self.job``."""
        view: dict[str, Any] = self.receiver.run("job", "create", "--source", "web01", *options)
        self.job = view["id"]
        return view

    def show(self) -> dict[str, Any]:
        """``job show --json``, without the cost of a command: it is polled."""
        view: dict[str, Any] = self.receiver.ask("job.show", job=self.job)
        return view

    def state(self, *wanted: str, seconds: float = TEST_SECONDS) -> dict[str, Any]:
        """Wait until the job is in one of these states."""
        view: dict[str, Any] = until(
            lambda: (v := self.show())["state"] in wanted and v, seconds, f"state {wanted}"
        )
        return view

    def status(self) -> dict[str, Any]:
        """``replicad status --json``: the source's own view, counters of its process."""
        view: dict[str, Any] = self.source.ask("status")
        return view

    def synced(self, seconds: float = TEST_SECONDS) -> dict[str, Any]:
        """Wait until every disk has had its first pass and is tracked without a gap.

        Passes are counted since the source's daemon started: one that finds nothing to do
        after a restart counts as well.
        """

        def first(disk: dict[str, Any]) -> bool:
            return bool(disk["passed"] or not disk["dirty_bytes"])

        def done() -> Any:
            view = self.show()
            if view["state"] == "error":
                raise AssertionError(view["error"])
            return view["state"] == "syncing" and all(map(first, view["disks"])) and view

        view: dict[str, Any] = until(done, seconds, "the first pass")
        return view

    def checkpoint(self, *options: str) -> dict[str, Any]:
        """``job checkpoint --wait``."""
        taken: dict[str, Any] = self.receiver.run("job", "checkpoint", self.job, "--wait", *options)
        return taken

    def intermediate(self, number: int = 0) -> Path:
        """The path of an intermediate disk."""
        return Path(self.show()["disks"][number]["intermediate"])

    def hook(self, phase: str, name: str, script: str) -> Path:
        """An executable shell hook."""
        folder = self.hooks / f"{phase}.d"
        folder.mkdir(exist_ok=True)
        path = folder / name
        path.write_text(f"#!/bin/sh\nset -e\n{script}\n")
        path.chmod(0o755)
        return path

    def keep_reference(self, image: Path, reference: Path) -> None:
        """A frozen.d hook that copies the loop device's backing file while it is frozen.

        With a lock: a hook outlives a killed daemon, and must not write over a later one's copy.
        """
        lock = self.directory / "reference.lock"
        command = f"cp --sparse=always '{image}' '{reference}'"
        self.hook("frozen", f"10-{reference.name}", f'exec 9>"{lock}"\nflock 9\n{command}')

    def resume(self) -> None:
        """Release a held checkpoint or a pause, and wait until it syncs."""
        self.receiver.run("job", "resume", self.job)
        self.state("syncing")

    def clean(self, sent: int = 0, seconds: float = TEST_SECONDS) -> dict[str, Any]:
        """Wait until nothing is dirty and at least ``sent`` logical bytes have come in all."""

        def done() -> Any:
            view = self.show()
            dirty = sum(disk["dirty_bytes"] for disk in view["disks"])
            settled = view["state"] == "syncing" and not dirty
            return settled and view["logical_bytes"] >= sent and view

        view: dict[str, Any] = until(done, seconds, "a clean copy")
        return view

    def metrics(self, side: Literal["receiver", "source"]) -> dict[str, float]:
        """What a scrape gives, summed over labels, by the name of the sample."""
        port = self.metrics_r if side == "receiver" else self.metrics_s
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return found

    def metric(self, side: Literal["receiver", "source"], name: str, value: float) -> None:
        """Wait until a scrape gives it: what is scraped is made anew once a second only."""
        until(lambda: self.metrics(side).get(name) == value, 10, f"{name} being {value:g}")

    def logs(self) -> str:
        """The last of both logs, for the message of a failure."""
        return "\n".join(p.log.read_text()[-3000:] for p in (self.receiver, self.source))

    def close(self) -> None:
        """Kill both, remove pins and directory."""
        self.source.kill()
        self.receiver.kill()
        pins = pin_directory(self.directory / "sr")
        if pins.is_dir():
            shutil.rmtree(pins)
        shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def pair(
    disks: Sequence[str],
    *,
    start: bool = True,
    tracker: str = "auto",
    receiver_host: str = "127.0.0.1",
) -> Iterator[Pair]:
    """A receiver and a source that is enrolled with it; both are killed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="replicad-test-", dir="/dev/shm"))
    directory.chmod(0o755)
    both = Pair(directory, disks, tracker, receiver_host)
    try:
        if start:
            both.start()
        yield both
    except BaseException:
        for process in (both.receiver, both.source):
            if process.log.exists():
                print(process.log.name, process.log.read_text()[-4000:])
        raise
    finally:
        both.close()


def same_content(one: Path, other: Path) -> bool:
    """Whether two files or devices hold the same bytes (cmp)."""
    return subprocess.run(["cmp", "-s", str(one), str(other)], check=False).returncode == 0


@contextlib.contextmanager
def busy_writer(where: Path, rate: str = "10M") -> Iterator[None]:
    """A writer that never stops: fio random 4 KiB writes, and files that come and go.

    fio's jobs are threads here: as processes they leave our process group and outlive the kill.
    """
    fio = subprocess.Popen(
        [
            *("fio", "--name=w", "--size=32M", "--rw=randwrite", "--bs=4k", f"--rate={rate}"),
            *("--ioengine=psync", "--time_based", "--runtime=600", "--fsync=32"),
            *("--refill_buffers", "--buffer_compress_percentage=0", "--thread"),
            f"--directory={where}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    churn = subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(__file__).with_name("churn.py"))],
        cwd=where,
        start_new_session=True,
    )
    try:
        yield
    finally:
        for each in (fio, churn):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(each.pid, signal.SIGKILL)
            each.wait()
