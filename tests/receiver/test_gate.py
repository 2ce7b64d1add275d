"""The door: strangers are few, those we know are safe, and every socket is closed once."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from receiver.gate import Crowd, Gate, Visit, Welcome, listen

pytestmark = pytest.mark.timeout(60)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(40):
            await work()

    uvloop.run(bounded())


class House:
    """A gate on loopback whose guests say one byte to be known, and then stay."""

    def __init__(self, strangers: int = 4, most: int = 2000, crowd: Crowd | None = None) -> None:
        self.known = 0
        self.crowd = Crowd(most) if crowd is None else crowd
        welcome: Welcome = self.welcome
        self.gate = Gate(listen("127.0.0.1", 0), welcome, strangers, self.crowd)
        self.serving = asyncio.ensure_future(self.gate.serve())

    async def welcome(self, sock: socket.socket, visit: Visit) -> None:
        loop = asyncio.get_running_loop()
        if await loop.sock_recv(sock, 1) != b"k":
            return
        visit.known()
        self.known += 1
        await loop.sock_sendall(sock, b"!")
        await loop.sock_recv(sock, 1)

    async def guest(self, says: bytes = b"", address: str = "127.0.0.1") -> socket.socket:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setblocking(False)
        sock.bind((address, 0))
        await loop.sock_connect(sock, ("127.0.0.1", self.gate.port))
        if says:
            await loop.sock_sendall(sock, says)
        return sock

    async def leave(self) -> None:
        self.serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.serving


async def hears(sock: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, 1)


async def closed(sock: socket.socket) -> bool:
    try:
        return await hears(sock) == b""
    except ConnectionResetError:
        return True


def test_a_thousand_silent_ones_do_not_keep_an_honest_one_out() -> None:
    async def work() -> None:
        house = House(strangers=8)
        silent = [await house.guest() for _ in range(1000)]
        honest = await house.guest(b"k")
        assert await hears(honest) == b"!"
        late = [await house.guest() for _ in range(50)]  # nor does a flood afterwards send it away
        assert await closed(silent[0])
        await asyncio.get_running_loop().sock_sendall(honest, b"x")
        assert await closed(honest)  # it left by itself
        assert house.gate.refused >= 1000 + 50 - 8
        for sock in [*silent, *late, honest]:
            sock.close()
        await house.leave()

    run(work)


def test_the_eldest_stranger_goes_first() -> None:
    async def work() -> None:
        house = House(strangers=2)
        guests = []
        for number in range(3):
            guests.append(await house.guest())
            while len(house.crowd) < min(number + 1, 2):  # noqa: ASYNC110 - the gate accepts
                await asyncio.sleep(0.001)
        assert await closed(guests[0])
        for guest in guests[1:]:
            await asyncio.get_running_loop().sock_sendall(guest, b"k")
            assert await hears(guest) == b"!"
        for guest in guests:
            guest.close()
        await house.leave()

    run(work)


def test_a_flood_from_one_address_turns_out_only_its_own() -> None:
    async def work() -> None:
        house = House(strangers=4)
        slow = await house.guest(address="127.0.0.2")
        flood = [await house.guest(address="127.0.0.3") for _ in range(60)]
        assert await closed(flood[0])
        await asyncio.get_running_loop().sock_sendall(slow, b"k")
        assert await hears(slow) == b"!"
        for sock in [*flood, slow]:
            sock.close()
        await house.leave()

    run(work)


def test_gates_share_their_crowd() -> None:
    async def work() -> None:
        crowd = Crowd(1)
        one, other = House(crowd=crowd), House(crowd=crowd)
        guest = await one.guest(b"k")
        assert await hears(guest) == b"!"
        late = await other.guest(b"k")
        assert await closed(late)
        assert other.gate.refused == 1
        guest.close()
        late.close()
        await one.leave()
        await other.leave()

    run(work)


def test_a_bug_in_one_visit_ends_only_that_visit() -> None:
    async def work() -> None:
        house = House()

        async def broken(sock: socket.socket, visit: Visit) -> None:
            raise KeyError("oops")

        house.gate._welcome = broken
        guest = await house.guest()
        assert await closed(guest)
        house.gate._welcome = house.welcome
        other = await house.guest(b"k")
        assert await hears(other) == b"!"
        guest.close()
        other.close()
        await house.leave()

    run(work)


def test_no_descriptor_is_left_and_a_taken_socket_is_not_closed() -> None:
    async def work() -> None:
        house = House(strangers=2)
        before = len(os.listdir("/proc/self/fd"))
        kept: list[socket.socket] = []

        async def takes(sock: socket.socket, visit: Visit) -> None:
            kept.append(sock)
            visit.take()
            visit.known()
            await asyncio.sleep(60)

        silent = [await house.guest() for _ in range(10)]
        house.gate._welcome = takes
        guest = await house.guest()
        while not kept:  # noqa: ASYNC110 - the gate accepts
            await asyncio.sleep(0.001)
        await house.leave()
        assert kept[0].fileno() >= 0
        for sock in [*silent, guest, *kept]:
            sock.close()
        assert len(os.listdir("/proc/self/fd")) == before - 1  # the listener is gone too

    run(work)
