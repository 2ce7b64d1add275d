"""Ports for daemons that are stopped and started again, and find theirs free each time."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket

FIRST, EACH, WORKERS = 12_000, 2_500, 8
"""Below 32,768, where Linux takes the ports of outgoing connections from
(net.ipv4.ip_local_port_range): one of those may be another's at any time. Each worker of
pytest-xdist has its own."""

_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
_turn = itertools.count(random.randrange(EACH))


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody uses now; this process gives none out twice in a row.

    Raises AssertionError when there are no more.
    """
    found: list[int] = []
    for number in itertools.islice(_turn, EACH):
        port = FIRST + _worker * EACH + number % EACH
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
            if len(found) == count:
                return found
    raise AssertionError(f"no {count} free ports")
