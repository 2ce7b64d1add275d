"""Near peers are sent to without BBR's timers; far ones, and all others, as the system has it.

With the kernel's own BBR, whose module only root may load.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator

import pytest

from protocol.link.congestion import AUTO, NEAR_SECONDS, Congestion, choose, of, round_trip
from protocol.local.values import read_congestion
from tests.support.faraway import DEVICE, HERE, THERE, far_away

ATTEMPTS = 20
"""On a busy machine a handshake may take a millisecond."""


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
        yield before, congestion.connected(), sock


@pytest.mark.root
def test_a_near_peer_is_sent_to_without_pacing() -> None:
    for _ in range(ATTEMPTS):
        with connected("bbr") as (before, after, sock):
            assert before == "cubic"
            length = round_trip(sock)
            assert length is not None
            assert after == ("cubic" if length < NEAR_SECONDS else "bbr")
            if length < NEAR_SECONDS:
                return
    pytest.fail("a peer on this machine was never near")


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


def test_what_the_kernel_does_not_have_is_no_reason_not_to_copy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with connected("cubic", "bbr9") as (before, after, _):
        assert (before, after) == ("cubic", "cubic")
    assert "congestion.refused" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["bbr 9", "", "x" * 16, "a\0b", "bbr\n"])
def test_what_can_be_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must be a name that sysctl"):
        read_congestion(name)
    assert read_congestion("reno") == "reno"
    assert read_congestion(AUTO) == AUTO


@pytest.mark.root
def test_the_routes_own_stays() -> None:
    route = ["ip", "route", "replace", f"{THERE}/32", "dev", DEVICE, "congctl", "reno"]
    with far_away(0.005):
        subprocess.run(route, check=True, timeout=30)
        with connected("bbr", host=HERE, to=THERE) as (before, after, _):
            assert (before, after) == ("cubic", "reno")


@pytest.mark.root
def test_a_length_that_nobody_knows_is_no_near_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocol.link.congestion.round_trip", lambda _: None)
    with connected("bbr") as (before, after, _):
        assert (before, after) == ("cubic", "bbr")
