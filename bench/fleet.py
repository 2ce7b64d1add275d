"""Several sources of one receiver, each a real daemon."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.ours import Event, events_of
from protocol.local.sections import Runtime
from replicad.config import Config, RuntimeHere, Source, State
from replicad.enrol import enrol
from tests.support.pair import Pair, Process, pair, until
from tests.support.ports import free_ports

STARTING = 4
"""Daemons that are started at one time."""

ORDERING = 8
"""Orders to the receiver that are under way at one time."""


class Fleet:
    """A receiver and ``count`` sources, named ``s000`` and so on, with the same disks."""

    def __init__(self, both: Pair, count: int, disks: Sequence[Path]) -> None:
        self.receiver = both.receiver
        self._both = both
        self._disks = json.dumps([str(disk) for disk in disks])
        self.names = [f"s{number:03}" for number in range(count)]
        self.sources: dict[str, Process] = {}
        self.marks: dict[str, int] = {}

    def start(self) -> None:
        """Enrol and start all, and wait until all have offered their disks."""
        code = self.receiver.ask("activation.create", uses=len(self.names))["code"]
        ports = free_ports(len(self.names))
        for name, port in zip(self.names, ports, strict=True):
            self.sources[name] = self._make(name, port, code)
        with ThreadPoolExecutor(STARTING) as pool:
            list(pool.map(lambda source: source.start(), self.sources.values()))
        until(self._offered, what="the inventories")

    def _make(self, name: str, port: int, code: str) -> Process:
        place = self._both.directory / name
        for part in ("state", "run", "hooks"):
            (place / part).mkdir(parents=True, mode=0o755)
        config = place / "replicad.toml"
        config.write_text(
            f'[source]\nname = "{name}"\ndisks = {self._disks}\n'
            f'[metrics]\nlisten = "127.0.0.1:{port}"\n[hooks]\ndirectory = "{place}/hooks"\n'
            f'[state]\ndirectory = "{place}/state"\n[runtime]\ndirectory = "{place}/run"\n'
            '[tracker]\nenabled = "off"\n'
        )
        own = Config(
            source=Source(name=name),
            state=State(directory=place / "state"),
            runtime=RuntimeHere(directory=place / "run"),
        )
        assert isinstance(own.runtime, Runtime)
        enrol(own, code, "127.0.0.1", self._both.control)
        return Process("replicad", config, place / "log", place / "run/control.sock")

    def _offered(self) -> bool:
        seen = {s["name"]: s for s in self.receiver.ask("source.list")}
        return all(seen[name]["connected"] and seen[name]["disks"] for name in self.names)

    def create(self, name: str, disk: Path, bandwidth: str) -> str:
        """A job that waits to be started; its id."""
        view = self.receiver.run(
            *("job", "create", "--source", name, "--disk", str(disk), "--start", "manual"),
            *("--bandwidth", bandwidth),
        )
        return str(view["id"])

    def distrust(self, job: str, disk: Path) -> None:
        """What the job's copy holds is not to be believed: all of the disk is sent."""
        self.receiver.ask("job.set", job=job, changes={"accept": str(disk)})

    def begin(self, jobs: dict[str, str]) -> None:
        """Start jobs, by the name of their source, as good as at once."""
        for name in jobs:
            self.marks[name] = self.sources[name].log.stat().st_size
        with ThreadPoolExecutor(ORDERING) as pool:
            list(pool.map(lambda job: self.receiver.ask("job.start", job=job), jobs.values()))

    def ended(self, name: str) -> Event | None:
        """The end of the first pass since a source's job began; None while it goes on."""
        found = events_of(self.sources[name].log, self.marks[name])
        return next((event for event in found if event.name == "pass.ended"), None)

    def views(self) -> dict[str, dict[str, Any]]:
        """All jobs, by the name of their source."""
        return {view["source"]: view for view in self.receiver.ask("job.list")}

    def forget(self, job: str) -> None:
        """Cancel and delete."""
        self.receiver.ask("job.cancel", job=job)
        until(lambda: self.receiver.ask("job.show", job=job)["state"] == "finished", what="the end")
        self.receiver.ask("job.delete", job=job)

    def close(self) -> None:
        """Kill all sources."""
        for source in self.sources.values():
            source.kill()


@contextlib.contextmanager
def fleet(count: int, disks: Sequence[Path]) -> Iterator[Fleet]:
    """A fleet that stands."""
    with pair([], start=False) as both:
        both.receiver.start()
        made = Fleet(both, count, disks)
        try:
            made.start()
            yield made
        finally:
            made.close()
