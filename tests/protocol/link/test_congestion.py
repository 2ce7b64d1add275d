"""Near peers are sent to without BBR's timers; far ones, and all others, as the system has it.

With the kernel's own BBR, whose module only root may load.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from protocol.link.congestion import AUTO, Congestion, choose, of, round_trip
from protocol.local.values import read_congestion
from tests.support.faraway import HERE, THERE, far_away


@contextlib.contextmanager
def connected(
    system: str, fixed: str = AUTO, *, host: str = "127.0.0.1", to: str = ""
) -> Iterator[tuple[str, str, socket.socket]]:
    """What a socket has before and after it is connected, where the system's default is this."""
    with socket.create_server((host, 0)) as listener, socket.socket() as sock:
        choose(sock, system)
        congestion = Congestion(sock, fixed)
        before = of(sock)
        sock.settimeout(10.0)
        sock.connect((to or host, listener.getsockname()[1]))
        congestion.connected()
        yield before, of(sock), sock


@pytest.mark.root
def test_a_near_peer_is_sent_to_without_pacing() -> None:
    with connected("bbr") as (before, after, sock):
        assert (before, after) == ("cubic", "cubic")
        length = round_trip(sock)
        assert length is not None
        assert 0 < length < 0.001


@pytest.mark.root
def test_a_far_peer_is_sent_to_as_the_system_has_it() -> None:
    with (
        far_away(0.005),
        connected("bbr", host=HERE, to=THERE) as (before, after, sock),
    ):
        assert (before, after) == ("cubic", "bbr")
        length = round_trip(sock)
        assert length is not None
        assert 0.01 < length < 1.0


@pytest.mark.parametrize("system", ["reno", "cubic"])
def test_what_has_no_timers_is_left_as_it_is(system: str) -> None:
    with connected(system) as (before, after, _):
        assert (before, after) == (system, system)


@pytest.mark.root
@pytest.mark.parametrize(("system", "fixed"), [("cubic", "bbr"), ("bbr", "bbr"), ("bbr", "reno")])
def test_what_is_fixed_stays_fixed(system: str, fixed: str) -> None:
    with connected(system, fixed) as (before, after, _):
        assert (before, after) == (fixed, fixed)


@pytest.mark.parametrize("name", ["bbr9", "", "x" * 99, "a\0b"])
def test_what_the_kernel_does_not_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="this kernel has none of that name; see sysctl"):
        read_congestion(name)


def test_what_it_has_is_taken() -> None:
    assert read_congestion("reno") == "reno"
    assert read_congestion(AUTO) == AUTO


@pytest.mark.root
def test_a_length_that_nobody_knows_is_no_near_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocol.link.congestion.round_trip", lambda _: None)
    with connected("bbr") as (before, after, _):
        assert (before, after) == ("cubic", "bbr")
