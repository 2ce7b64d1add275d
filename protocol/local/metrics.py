"""Serves metrics to Prometheus from the daemon's own report, computed when they are asked for.

There are no counters to keep in step with the truth: the daemon gives a function that turns
its report into metric families, and each scrape calls it. The function runs in a thread of
the HTTP server, so it may only read what is safe to read there (one frozen report object).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Self

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.registry import Collector

from protocol.errors import ALREADY_RUNNING, CONFIGURATION
from protocol.local.values import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from prometheus_client.core import Metric


class _FromReport(Collector):
    def __init__(self, report: Callable[[], Iterable[Metric]]) -> None:
        self._report = report

    def collect(self) -> Iterable[Metric]:
        return self._report()


class MetricsServer:
    """An HTTP server of one daemon's metrics, with a registry of its own.

    Attributes:
        address: where it listens; the port is the real one when 0 was asked for.
    """

    def __init__(self, address: Address, report: Callable[[], Iterable[Metric]]) -> None:
        """Listen and serve.

        Raises:
            LocalFault: ALREADY_RUNNING when the port is taken, CONFIGURATION when the
                address cannot be listened on.
        """
        # Described automatically, a report would be asked for before there is one.
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_FromReport(report))
        try:
            self._server, self._thread = start_http_server(
                address.port, address.host, registry=registry
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ALREADY_RUNNING.fault(path=f"the metrics address {address}") from error
            problem = f"cannot listen ({error.strerror})"
            raise CONFIGURATION.fault(
                path=f"metrics address {address}", problems=problem
            ) from error
        self.address = Address(address.host, self._server.server_port)

    def close(self) -> None:
        """Stop listening and wait for the server's thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
