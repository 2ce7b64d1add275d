"""A data connection that says nothing is ended, one whose disk is slow is not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from protocol.wire.frames import Ping, Pong
from tests.support.datalink import Harness, Link

pytestmark = pytest.mark.timeout(60)

BEAT = 0.2
PATIENCE = 3 * BEAT


def with_session(work: Callable[[Harness, Link], Awaitable[None]]) -> None:
    """One connection of a session with a short heartbeat."""

    async def case() -> None:
        harness = Harness(heartbeat=BEAT)
        session = harness.session()
        try:
            link = Link(session, 0)
            await link.frame()  # ready
            await work(harness, link)
            link.sock.close()
        finally:
            harness.disks[0].write_gate.set()
            await session.close()
            harness.close()

    asyncio.run(case())


async def until_end(link: Link) -> list[object]:
    """What is said until the connection ends."""
    found: list[object] = []
    try:
        while True:
            found.append((await link.frame())[0])
    except (EOFError, OSError):
        return found


def test_the_receiver_says_that_it_is_here_and_ends_who_does_not() -> None:
    async def work(_: Harness, link: Link) -> None:
        begun = asyncio.get_running_loop().time()
        said = await until_end(link)
        seconds = asyncio.get_running_loop().time() - begun
        assert said
        assert set(said) == {Pong(0)}
        assert seconds >= PATIENCE

    with_session(work)


def test_who_gives_signs_of_life_is_kept() -> None:
    async def work(_: Harness, link: Link) -> None:
        for number in range(12):
            await link.send(Ping(number))
            await asyncio.sleep(BEAT / 2)
        assert not link.over.is_set()

    with_session(work)


def test_a_frame_that_only_signs_of_life_fill_is_the_end() -> None:
    """A bit of its length has flipped: it would be complete in an hour."""

    async def work(_: Harness, link: Link) -> None:
        loop = asyncio.get_running_loop()
        frame = bytearray(link.sealed(*link.data(0)))
        frame[1] ^= 4
        await loop.sock_sendall(link.sock, frame)
        ended = asyncio.create_task(until_end(link))
        for number in range(100):
            if ended.done():
                break
            with contextlib.suppress(OSError):
                await loop.sock_sendall(link.sock, link.sealed(Ping(number)))
            await asyncio.sleep(BEAT / 2)
        assert ended.done()

    with_session(work)


def test_a_slow_disk_is_no_reason() -> None:
    async def work(harness: Harness, link: Link) -> None:
        disk = harness.disks[0]
        disk.write_gate.clear()
        await link.write(0)
        reading = asyncio.create_task(until_end(link))
        await asyncio.sleep(3 * PATIENCE)
        assert not link.over.is_set()
        disk.write_gate.set()
        await link.send(Ping(1))
        await asyncio.sleep(BEAT)
        assert not link.over.is_set()
        assert 0 in disk.written
        reading.cancel()

    with_session(work)
