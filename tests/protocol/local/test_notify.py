"""sd_notify against a real datagram socket, in the file system and in the abstract namespace."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.local import notify
from protocol.local.notify import Notifier, watchdog_interval


@pytest.fixture(params=["file", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[socket.socket, Notifier]]:
    """The service manager's end, and a notifier that was told about it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        if request.param == "file":
            name = str(tmp_path / "notify")
            listener.bind(name)
        else:
            name = f"@replicad-test-{os.getpid()}"
            listener.bind("\0" + name[1:])
        listener.setblocking(False)
        notifier = Notifier({"NOTIFY_SOCKET": name})
        yield listener, notifier
        notifier.close()


def test_every_message(manager: tuple[socket.socket, Notifier]) -> None:
    listener, notifier = manager
    assert notifier.ready("listening")
    assert notifier.status("copying\nREADY=1")
    assert notifier.watchdog()
    assert notifier.stopping()
    received = [listener.recv(4096) for _ in range(4)]
    assert received == [
        b"READY=1\nSTATUS=listening",
        b"STATUS=copying READY=1",
        b"WATCHDOG=1",
        b"STOPPING=1",
    ]


def test_a_status_is_bounded_and_an_empty_one_is_not_sent(
    manager: tuple[socket.socket, Notifier],
) -> None:
    listener, notifier = manager
    assert notifier.status("x" * 100_000)
    assert len(listener.recv(200_000)) == len("STATUS=") + notify.LONGEST_STATUS
    assert not notifier.status(" \n")


def test_a_manager_that_does_not_read_is_not_waited_for(
    manager: tuple[socket.socket, Notifier],
) -> None:
    _listener, notifier = manager
    delivered = [notifier.watchdog() for _ in range(10_000)]
    assert delivered[0]
    assert not delivered[-1]


def test_without_a_manager_nothing_is_sent() -> None:
    assert not Notifier({}).ready()
    assert not Notifier({"NOTIFY_SOCKET": "vsock:2:1"}).ready()


def test_a_manager_that_is_gone_is_survived(tmp_path: Path) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "none")})
    assert not notifier.ready()
    notifier.close()
    assert not notifier.ready()


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_interval(environment: dict[str, str], interval: float | None) -> None:
    assert watchdog_interval(environment) == interval


def test_signs_of_life_twice_an_interval_while_healthy(
    manager: tuple[socket.socket, Notifier],
) -> None:
    listener, notifier = manager
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise asyncio.CancelledError

    health = iter([True, False, True])
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(notify.keep_alive(notifier, 10.0, health.__next__, pause))
    assert pauses == [5.0, 5.0, 5.0]
    assert listener.recv(100) == b"WATCHDOG=1"
    assert listener.recv(100) == b"WATCHDOG=1"
    with pytest.raises(BlockingIOError):
        listener.recv(100)


def test_no_signs_of_life_where_none_are_expected() -> None:
    asyncio.run(notify.keep_alive(Notifier({}), None))
