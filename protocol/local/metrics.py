"""Serves metrics to Prometheus from the daemon's own report, computed when they are asked for.

There are no counters to keep in step with the truth: the daemon gives a function that turns
its report into metric families, and each scrape calls it. The function runs in a thread of
the HTTP server, so it may only read what is safe to read there (one frozen report object).
"""

from __future__ import annotations

import contextlib
import errno
import socket
import socketserver
import threading
from typing import TYPE_CHECKING, Any, Final, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.registry import Collector

from protocol.errors import ALREADY_RUNNING, CONFIGURATION
from protocol.local.values import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from prometheus_client.core import Metric


SCRAPES_MAX: Final = 8
"""Connections that are served at once: Prometheus needs one. Each has a thread. One more turns
out the eldest, which has had its time: any local user may make connections and say nothing, or a
byte now and then, and must not keep Prometheus out with them."""

TURN_SECONDS: Final = 1.0
"""For the thread of one that was turned out to end; it only has to see that nothing more comes."""

SILENT_SECONDS: Final = 5.0
"""A connection that says nothing for so long is closed."""


class _Handler(WSGIRequestHandler):
    timeout = SILENT_SECONDS

    def log_message(self, *_: object) -> None:
        """Nothing: a scrape every few seconds is not an event."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """A thread a connection, and not more than :data:`SCRAPES_MAX` of them."""

    daemon_threads = True

    def __init__(self, address: Address) -> None:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        self.address_family = found[0][0]
        self._slots = threading.Semaphore(SCRAPES_MAX)
        self._open: dict[Any, None] = {}  # in the order in which they came
        self._lock = threading.Lock()
        super().__init__((address.host, address.port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve it in a thread; the eldest of too many is hung up on, which ends its thread."""
        if not self._slots.acquire(blocking=False):
            self._turn_out()
            if not self._slots.acquire(timeout=TURN_SECONDS):
                self.shutdown_request(request)
                return
        with self._lock:
            self._open[request] = None
        super().process_request(request, client_address)

    def _turn_out(self) -> None:
        with self._lock:
            eldest = next(iter(self._open), None)
            if eldest is not None:
                del self._open[eldest]
                with contextlib.suppress(OSError):  # it has just hung up itself
                    eldest.shutdown(socket.SHUT_RDWR)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In the thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._open.pop(request, None)
            self._slots.release()

    def handle_error(self, *_: object) -> None:
        """Nothing: who hangs up in the middle, or stays silent, is no fault of ours."""

    def server_bind(self) -> None:
        """Without the reverse look-up of our own name that the base class makes."""
        socketserver.TCPServer.server_bind(self)
        self.server_name = str(self.server_address[0])
        self.server_port = int(self.server_address[1])
        self.setup_environ()


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
            self._server = _Server(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ALREADY_RUNNING.fault(path=f"the metrics address {address}") from error
            problem = f"cannot listen ({error.strerror})"
            raise CONFIGURATION.fault(
                path=f"metrics address {address}", problems=problem
            ) from error
        self._server.set_app(make_wsgi_app(registry))
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()
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
