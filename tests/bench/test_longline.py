"""The proxy is a line as it says: it delays, limits, cuts, and changes no byte."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from bench.images import MIB
from bench.longline import ROUND_TRIP, LongLine, long_line
from tests.support.pair import until
from tests.support.ports import free_ports

HOST = "127.0.0.1"


@pytest.fixture
def far() -> Iterator[socket.socket]:
    with socket.create_server((HOST, 0)) as listener:
        yield listener


@contextlib.contextmanager
def line_to(far: socket.socket, rate: float = 1e9) -> Iterator[tuple[LongLine, int]]:
    (port,) = free_ports(1)
    with long_line((f"{HOST}:{port}", f"{HOST}:{far.getsockname()[1]}"), rate=rate) as line:
        yield line, port


def echo(far: socket.socket) -> threading.Thread:
    """Answer each byte that comes, until the end."""

    def serve() -> None:
        sock, _ = far.accept()
        with sock:
            while data := sock.recv(MIB):
                sock.sendall(data)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_a_word_and_its_answer_take_a_round_trip(far: socket.socket) -> None:
    thread = echo(far)
    with line_to(far) as (_, port), socket.create_connection((HOST, port)) as sock:
        took = []
        for _ in range(3):
            begun = time.monotonic()
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            took.append(time.monotonic() - begun)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
    thread.join(10)
    assert min(took) >= ROUND_TRIP - 0.002


def test_every_byte_arrives_not_faster_than_the_line(far: socket.socket) -> None:
    thread = echo(far)
    rate, data = 20e6, os.urandom(5 * MIB)
    with line_to(far, rate) as (_, port), socket.create_connection((HOST, port)) as sock:
        begun = time.monotonic()

        def say() -> None:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

        saying = threading.Thread(target=say)
        saying.start()
        heard = bytearray()
        while piece := sock.recv(MIB):
            heard += piece
        seconds = time.monotonic() - begun
        saying.join(10)
    thread.join(10)
    assert len(heard) == len(data)
    assert bytes(heard) == data
    assert seconds >= len(data) / rate


@pytest.mark.parametrize("near_first", [True, False])
def test_what_both_have_ended_stands_no_more(far: socket.socket, near_first: bool) -> None:
    """Or a cut would often hit what nobody uses."""
    with line_to(far) as (line, port):
        near = socket.create_connection((HOST, port))
        other, _ = far.accept()
        until(lambda: line.standing() == 1, 5)
        ends = (near, other) if near_first else (other, near)
        ends[0].sendall(b"bye")
        ends[0].shutdown(socket.SHUT_WR)
        assert ends[1].recv(3) == b"bye"
        assert ends[1].recv(1) == b""
        assert line.standing() == 1
        ends[1].sendall(b"all")
        ends[1].close()
        assert ends[0].recv(3) == b"all"
        assert ends[0].recv(1) == b""
        until(lambda: line.standing() == 0, 5)
        ends[0].close()


def test_it_cuts_what_stands(far: socket.socket) -> None:
    with line_to(far) as (line, port), socket.create_connection((HOST, port)) as sock:
        other, _ = far.accept()
        with other:
            assert line.cuts() == 0
            line.cut(0.5)
            sock.settimeout(10)
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
            until(lambda: line.cuts() >= 1, 5)
            with contextlib.suppress(ConnectionResetError):
                assert other.recv(1) == b""


def test_who_is_not_there_is_not_reached(far: socket.socket) -> None:
    port = far.getsockname()[1]
    (near,) = free_ports(1)
    far.close()
    with (
        long_line((f"{HOST}:{near}", f"{HOST}:{port}")),
        socket.create_connection((HOST, near)) as sock,
    ):
        sock.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""
