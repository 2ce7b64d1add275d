"""What a monitoring system and a service manager see of both daemons."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support.loops import MIB, loop_device, mounted
from tests.support.pair import Pair, Process, busy_writer, pair, until
from tests.support.ports import free_ports

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

MEASURES = {
    "speed_bytes_per_second",
    "remaining_seconds",
    "dirty_bytes",
    "in_flight_bytes",
    "logical_bytes_total",
    "wire_bytes_total",
    "lag_seconds",
    "pass",
    "freeze_seconds_count",
    "freeze_seconds_bucket",
    "tracker_misses_total",
    "reconnects_total",
    "errors_total",
}
"""Of both sides, with the prefixes ``replicad_`` and ``receiver_``."""


class Prometheus:
    """A real server that scrapes both daemons four times a second."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1/"

    def get(self, path: str, **query: str) -> Any:
        url = self._url + path + "?" + urllib.parse.urlencode(query)
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[float]:
        """The values of an instant query, one for each series."""
        return [float(one["value"][1]) for one in self.get("query", query=expression)["result"]]

    def ready(self) -> bool:
        with contextlib.suppress(OSError):
            return len(self.query("up == 1")) == 2
        return False


@contextlib.contextmanager
def prometheus(both: Pair) -> Iterator[Prometheus]:
    (port,) = free_ports(1)
    config = both.directory / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 250ms, scrape_timeout: 250ms}\nscrape_configs:\n"
        f"- {{job_name: source, static_configs: [{{targets: ['127.0.0.1:{both.metrics_s}']}}]}}\n"
        f"- {{job_name: receiver, static_configs: [{{targets: ['127.0.0.1:{both.metrics_r}']}}]}}\n"
    )
    log = (both.directory / "prometheus.log").open("wb")
    server = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={both.directory}/tsdb",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=log,
        stderr=log,
    )
    try:
        found = Prometheus(port)
        until(found.ready, 30, "prometheus scraping both")
        yield found
    finally:
        server.terminate()
        server.wait()
        log.close()


def test_prometheus_sees_every_measure(tmp_path: Path) -> None:
    with (
        loop_device(tmp_path / "disk.img", 160 * MIB) as device,
        mounted(device, tmp_path / "mnt", "ext4") as where,
        busy_writer(where, "5M"),
        pair([device]) as both,
        prometheus(both) as server,
    ):
        both.create("--freeze-budget", "10s")
        both.synced()
        both.hook("pre-freeze", "50-fails", "exit 1")
        both.receiver.run("job", "checkpoint", both.job, "--wait", code=1)
        (both.hooks / "pre-freeze.d" / "50-fails").unlink()
        both.checkpoint()
        both.receiver.kill()
        both.receiver.start()
        both.state("syncing")
        until(lambda: server.query("replicad_reconnects_total > 0"), what="the reconnection")
        assert server.query("replicad_freeze_seconds_count") == [1]
        assert server.query('replicad_errors_total{code="RPL-6005"}') == [1]
        # The new receiver is scraped, and has had the job's report, a moment later.
        until(lambda: server.query("receiver_epoch") == [1], 20, "the epoch of the new receiver")
        until(
            lambda: (
                server.query('receiver_pass{pass="delta"} or receiver_pass{pass="idle"}') == [1]
            ),
            *(20, "the pass in the new receiver"),
        )
        assert server.query("replicad_epoch") == [1]
        assert server.query("replicad_tracker_misses_total") == [0]
        grown = "max_over_time(replicad_wire_bytes_total[1m]) - min_over_time({}[1m])"
        assert server.query(grown.format("replicad_wire_bytes_total"))[0] > 0
        (frozen,) = server.query("replicad_freeze_seconds_sum / replicad_freeze_seconds_count")
        assert 0 < frozen < 10
        both.receiver.run("job", "show", both.job)
        wanted = {f"{side}_{measure}" for side in ("replicad", "receiver") for measure in MEASURES}
        # The time that is left is there while something is sent, and a scrape comes by then.
        until(lambda: wanted <= set(server.get("label/__name__/values")), what="every measure")
        for port in (both.metrics_s, both.metrics_r):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
                checked = subprocess.run(
                    ["promtool", "check", "metrics"],
                    input=page.read(),
                    capture_output=True,
                    check=False,
                )
            assert checked.returncode == 0, checked.stderr.decode()


class ServiceManager:
    """What systemd does with a daemon's notifications: read them at once, all of them."""

    def __init__(self, process: Process, path: Path) -> None:
        self.said: list[dict[str, str]] = []
        self._process = process
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._reading = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._socket.bind(str(self._path))
        self._reading.start()
        self._process.start(NOTIFY_SOCKET=str(self._path), WATCHDOG_USEC="1000000")
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", str(self._path))
        self._reading.join()
        self._socket.close()

    def _read(self) -> None:
        while message := self._socket.recv(4096):
            self.said.append(dict(line.split("=", 1) for line in message.decode().splitlines()))

    def heard(self, key: str, *parts: str) -> int:
        """How often a ``key`` was said with all these parts in its value."""
        values = [said.get(key, "") for said in list(self.said)]
        return sum(bool(value) and all(part in value for part in parts) for value in values)


def test_the_service_manager_is_told(tmp_path: Path) -> None:
    """As systemd would see it: ready, a status line, signs of life, and the end."""
    with (
        loop_device(tmp_path / "disk.img", 32 * MIB) as device,
        pair([device], start=False) as both,
        ServiceManager(both.receiver, both.directory / "receiver.notify") as of_receiver,
        ServiceManager(both.source, both.directory / "source.notify") as of_source,
    ):
        for manager in (of_receiver, of_source):
            until(lambda: manager.heard("READY"), what="ready")  # noqa: B023
            until(lambda: manager.heard("WATCHDOG") >= 3, what="signs of life")  # noqa: B023
        both.enrol()
        both.create("--name", "move")
        until(lambda: of_source.heard("STATUS", "syncing", "move"), what="the status line")
        for process, manager in ((both.source, of_source), (both.receiver, of_receiver)):
            assert process.stop() == 0
            until(lambda: manager.heard("STOPPING"), 5, "the end announced")  # noqa: B023
            assert manager.heard("READY") == 1
            assert "READY" in manager.said[0]
