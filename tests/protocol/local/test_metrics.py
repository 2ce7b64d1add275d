"""Metrics over real HTTP: computed at each scrape, and gone when the server is closed."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import urllib.request
from collections.abc import Iterable

import pytest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from protocol.errors import LocalFault
from protocol.local import metrics
from protocol.local.metrics import MetricsServer
from protocol.local.values import Address

ANY = Address("127.0.0.1", 0)


def scrape(server: MetricsServer) -> str:
    with urllib.request.urlopen(f"http://{server.address}/metrics", timeout=10) as answer:
        body: bytes = answer.read()
    return body.decode()


def test_each_scrape_asks_for_a_report() -> None:
    asked: list[int] = []

    def report() -> Iterable[Metric]:
        asked.append(len(asked) + 1)
        yield GaugeMetricFamily("replicad_dirty_bytes", "Dirty.", value=asked[-1])
        errors = CounterMetricFamily("replicad_errors", "Errors.", labels=["code"])
        errors.add_metric(["RPL-3009"], 2)
        yield errors

    with MetricsServer(ANY, report) as server:
        assert asked == []
        assert server.address.port != 0
        first, second = scrape(server), scrape(server)
    assert "replicad_dirty_bytes 1.0\n" in first
    assert "replicad_dirty_bytes 2.0\n" in second
    assert 'replicad_errors_total{code="RPL-3009"} 2.0\n' in second
    assert "python_info" not in second, "the registry is the daemon's own"


def test_two_servers_do_not_share_metrics() -> None:
    def one() -> Iterable[Metric]:
        yield GaugeMetricFamily("one", "One.", value=1)

    def two() -> Iterable[Metric]:
        yield GaugeMetricFamily("two", "Two.", value=2)

    with MetricsServer(ANY, one) as first, MetricsServer(ANY, two) as second:
        assert "two" not in scrape(first)
        assert "two 2.0" in scrape(second)


def test_closing_ends_the_thread_and_frees_the_port() -> None:
    before = set(threading.enumerate())
    server = MetricsServer(ANY, tuple)
    address = server.address
    server.close()
    assert set(threading.enumerate()) == before
    MetricsServer(address, tuple).close()


def test_a_port_that_is_taken_is_named() -> None:
    with MetricsServer(ANY, tuple) as server:
        with pytest.raises(LocalFault, match=f"uses the metrics address {server.address}"):
            MetricsServer(server.address, tuple)


def test_an_address_that_is_not_ours_is_a_configuration_error() -> None:
    with pytest.raises(LocalFault, match=r"metrics address 192\.0\.2\.1:1: cannot listen"):
        MetricsServer(Address("192.0.2.1", 1), tuple)


def test_connections_that_say_a_byte_now_and_then_keep_prometheus_out_no_longer() -> None:
    """Each has its five seconds anew with every byte; so the eldest is turned out."""
    before = threading.active_count()
    with metrics.MetricsServer(Address("127.0.0.1", 0), lambda: ()) as server:
        slow = [socket.create_connection(server.address) for _ in range(40)]
        for sock in slow:
            with contextlib.suppress(ConnectionError):
                sock.send(b"G")
        begun = time.monotonic()
        with urllib.request.urlopen(f"http://{server.address}/metrics", timeout=10) as page:
            assert page.status == 200
        assert time.monotonic() - begun < metrics.SILENT_SECONDS - 1
        assert threading.active_count() <= before + 2 + metrics.SCRAPES_MAX
        for sock in slow:
            sock.close()


def test_idle_connections_hold_few_threads_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics._Handler, "timeout", 0.3)
    before = threading.active_count()
    with metrics.MetricsServer(Address("127.0.0.1", 0), lambda: ()) as server:
        idle = [socket.create_connection(server.address) for _ in range(50)]
        assert threading.active_count() <= before + 1 + metrics.SCRAPES_MAX
        deadline = time.monotonic() + 20
        while True:
            try:
                with urllib.request.urlopen(f"http://{server.address}/metrics", timeout=5) as page:
                    assert page.status == 200
                break
            except OSError:
                assert time.monotonic() < deadline
        for each in idle:
            each.close()
