"""Sessions over real sockets and fake disks: what an ack means, and what a fence means."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import Fault, PeerFault
from protocol.wire.data import DataHello
from protocol.wire.frames import Ack, Frame, Ready
from receiver.session import Session
from tests.support.datalink import GRANULE, KEYS, Harness, Link, disk_fault

pytestmark = pytest.mark.timeout(60)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """On the daemon's own loop; nothing may take longer than it can."""

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await work()

    uvloop.run(bounded())


@contextlib.asynccontextmanager
async def opened(harness: Harness, links: int = 1) -> AsyncIterator[tuple[Session, list[Link]]]:
    session = harness.session()
    ends = [Link(session, index) for index in range(links)]
    for end in ends:
        assert isinstance((await end.frame())[0], Ready)
    try:
        yield session, ends
    finally:
        for disk in harness.disks:
            disk.sync_gate.set()
            disk.write_gate.set()
        await session.close()
        for end in ends:
            end.sock.close()
        harness.close()


async def eventually(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110 - threads set it
        await asyncio.sleep(0.001)


def test_an_ack_waits_for_the_sync_that_began_after_the_write() -> None:
    async def work() -> None:
        harness = Harness()
        disk = harness.disks[0]
        async with opened(harness) as (_, (link,)):
            disk.sync_gate.clear()
            await link.write(0)
            await link.fence()
            await eventually(lambda: disk.busy)  # the first sync has begun, and hangs
            await link.write(GRANULE)
            await eventually(lambda: GRANULE in disk.written)
            assert link.connection.acked == -1
            disk.sync_gate.set()
            await link.acks(1)
            assert link.acked == 1  # not of what came while it was under way
            assert disk.durable >= {0}
            await link.fence()
            await link.acks(3)
            assert disk.durable == {0, GRANULE}

    run(work)


def test_a_frame_is_acknowledged_without_a_fence() -> None:
    async def work() -> None:
        async with opened(Harness()) as (_, (link,)):
            for number in range(5):  # each by itself: the wake-up after a group was synced
                await link.write(number * GRANULE)
                await link.acks(number)

    run(work)


def test_no_wake_up_is_lost_between_the_count_and_the_group() -> None:
    """A worker that adds to the count after the loop has reset it, for a frame that was in the
    group already: the next frame must still wake the sync."""

    async def work() -> None:
        async with opened(Harness()) as (session, (link,)):
            await link.write(0)
            await link.acks(0)
            session.wrote(GRANULE, fence=False)  # counted late: nothing is pending
            await eventually(lambda: session._unsynced == 0)
            await link.write(GRANULE)
            await link.acks(1)

    run(work)


@pytest.mark.parametrize("other", [0, 1])
def test_a_failed_sync_acknowledges_nothing_and_ends_the_session(other: int) -> None:
    async def work() -> None:
        harness = Harness(disks=2)
        async with opened(harness) as (session, (link,)):
            harness.disks[other].fail_sync = disk_fault()
            await link.write(0)
            await link.fence()
            await eventually(lambda: harness.failed)
            assert link.connection.acked == -1
            assert session.over
            await link.write(GRANULE)
            await link.over.wait()
            assert link.connection.acked == -1
            assert [fault.code for fault in harness.failed] == ["RPL-4108"]

    run(work)


def test_a_write_that_failed_is_never_acknowledged() -> None:
    async def work() -> None:
        harness = Harness()
        async with opened(harness, links=2) as (_, (one, two)):
            await two.write(2 * GRANULE)
            await two.acks(0)
            harness.disks[0].fail_write = disk_fault()
            await one.write(0)
            await one.over.wait()
            assert one.connection.written == -1
            assert one.connection.acked == -1
            assert [fault.code for fault in harness.failed] == ["RPL-4108"]

    run(work)


def test_a_bug_in_a_worker_ends_the_session_visibly() -> None:
    async def work() -> None:
        harness = Harness()
        async with opened(harness) as (session, (link,)):
            harness.disks[0].fail_write = KeyError("oops")
            await link.write(0)
            await link.over.wait()
            assert [fault.code for fault in harness.failed] == ["RPL-1900"]
            assert session.over

    run(work)


def test_a_bug_in_a_sync_ends_the_session_visibly() -> None:
    async def work() -> None:
        harness = Harness()
        async with opened(harness) as (session, (link,)):
            harness.disks[0].fail_sync = KeyError("oops")
            await link.write(0)
            await eventually(lambda: harness.failed)
            assert harness.failed[0].code == "RPL-1900"
            assert session.over

    run(work)


def test_close_waits_for_a_write_under_way_also_for_the_second_caller() -> None:
    async def work() -> None:
        harness = Harness()
        disk = harness.disks[0]
        async with opened(harness) as (session, (link,)):
            disk.write_gate.clear()
            await link.write(0)
            await eventually(lambda: disk.busy)
            first = asyncio.ensure_future(session.close())
            await asyncio.sleep(0)
            first.cancel()  # who closes is cancelled; the closing is not
            with pytest.raises(asyncio.CancelledError):
                await first
            second = asyncio.ensure_future(session.close())
            await asyncio.sleep(0.02)
            assert not second.done()
            assert disk.closed is False
            disk.write_gate.set()
            await second
            assert [disk.closed] == [True]
            assert harness.pool.leased == 0

    run(work)


def test_a_closed_session_admits_nobody() -> None:
    async def work() -> None:
        async with opened(Harness()) as (session, _):
            await session.close()
            with pytest.raises(PeerFault, match="RPL-3008"):
                Link(session, 7)

    run(work)


def test_connections_stuck_in_the_middle_of_a_frame_do_not_stop_another() -> None:
    async def work() -> None:
        harness = Harness(buffers=4, workers=2)
        async with opened(harness, links=4) as (session, links):
            loop = asyncio.get_running_loop()
            for stuck in links[:3]:
                data = stuck.sealed(*stuck.data(0))
                await loop.sock_sendall(stuck.sock, data[:-1])
            with pytest.raises(PeerFault, match="RPL-3010"):
                Link(session, 9)  # no buffer: refused, not made to wait
            await links[3].write(GRANULE)
            await links[3].acks(0)

    run(work)


def test_descriptors_are_given_back() -> None:
    async def work() -> None:
        harness = Harness()
        before = len(os.listdir("/proc/self/fd"))
        async with opened(harness, links=3) as (session, links):
            links[0].sock.close()
            await links[0].over.wait()
            links[1].sock.shutdown(socket.SHUT_WR)
            await links[1].over.wait()
            await session.close()
            for link in links:
                link.sock.close()
            assert len(os.listdir("/proc/self/fd")) == before

    run(work)


@pytest.mark.parametrize("what", ["other disk", "beyond", "still"])
def test_what_is_not_the_sessions_to_write_is_refused(what: str) -> None:
    async def work() -> None:
        harness = Harness()
        async with opened(harness) as (session, (link,)):
            data, content = link.data(0)
            if what == "other disk":
                data = data._replace(disk=1)
            elif what == "beyond":
                data, content = link.data(harness.disks[0].size)
            else:
                session.still = True
            await link.send(data, content)
            await link.over.wait()
            assert not harness.disks[0].written
            assert not harness.failed  # the peer's fault, not ours

    run(work)


def test_a_hello_of_another_session_is_refused() -> None:
    async def work() -> None:
        async with opened(Harness()) as (session, _):
            hello = DataHello(KEYS.session, 5, bytes(32))
            one, other = socket.socketpair()
            with one, other, pytest.raises(PeerFault, match="RPL-3011"):
                session.admit(hello, one)

    run(work)


STEP = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 2), st.integers(1, 4)),
    st.tuples(st.just("fence"), st.integers(0, 2), st.just(0)),
    st.tuples(st.just("hold"), st.integers(0, 1), st.just(0)),
    st.tuples(st.just("go"), st.integers(0, 1), st.just(0)),
    st.tuples(st.just("breathe"), st.just(0), st.integers(0, 3)),
    st.tuples(st.just("lose"), st.integers(0, 2), st.just(0)),
    st.tuples(st.just("break"), st.integers(0, 1), st.integers(0, 1)),
    st.tuples(st.just("close"), st.just(0), st.just(0)),
)


@settings(max_examples=60)
@given(st.lists(STEP, max_size=30))
def test_no_ack_ever_covers_what_was_not_synced_after_it_was_written(
    steps: list[tuple[str, int, int]],
) -> None:
    async def work() -> None:
        harness = Harness(disks=2)
        broken: list[str] = []
        async with opened(harness, links=3) as (session, links):
            for link in links:
                watch(link, harness, broken)
            await play(session, links, harness, steps)
            for disk in harness.disks:
                disk.sync_gate.set()
            for link in links:  # nothing is lost either: what came is acknowledged
                await settled(session, link)
        assert not broken

    run(work)


async def settled(session: Session, link: Link) -> None:
    """All of a link is acknowledged, unless it or the session has ended meanwhile: a write that
    was sent to a broken disk may be carried out only now."""

    async def all_acked() -> None:
        await link.fence()
        await link.acks(len(link.sent) - 1)

    waiting = asyncio.ensure_future(all_acked())
    while not waiting.done() and not session.over and not link.over.is_set():
        await asyncio.wait([waiting], timeout=0.01)
    waiting.cancel()
    ended = await asyncio.gather(waiting, return_exceptions=True)
    if isinstance(ended[0], OSError | EOFError):
        await link.over.wait()
    if not session.over and not link.over.is_set():
        assert ended[0] is None


def watch(link: Link, harness: Harness, broken: list[str]) -> None:
    """Look at every ack when it is sent; an exception from here would only end the session."""
    send = link.connection.send

    def watched(frame: Frame, payload: bytes = b"") -> None:
        if isinstance(frame, Ack):
            covered = {offset for offset in link.sent[: frame.sequence + 1] if offset >= 0}
            if not (covered <= harness.disks[0].durable and harness.disks[1].syncs):
                broken.append(f"frame {frame.sequence} of {link.index} is not durable")
        send(frame, payload)

    link.connection.send = watched  # type: ignore[method-assign]


async def play(  # noqa: C901 - one branch a step
    session: Session, links: list[Link], harness: Harness, steps: list[tuple[str, int, int]]
) -> None:
    offset = 0
    for what, which, count in steps:
        link = links[which]
        gone = session.over or link.sock.fileno() < 0
        if what == "write" and not gone:
            for _ in range(count):
                with contextlib.suppress(OSError):
                    await link.write(offset)
                offset += GRANULE
        elif what == "fence" and not gone:
            with contextlib.suppress(OSError):
                await link.fence()
        elif what == "hold":
            harness.disks[which].sync_gate.clear()
        elif what == "go":
            harness.disks[which].sync_gate.set()
        elif what == "breathe":
            await asyncio.sleep(count / 1000)
        elif what == "lose" and not gone:
            link.sock.close()
            await link.over.wait()
        elif what == "break":
            fault = disk_fault()
            if count:
                harness.disks[which].fail_sync = fault
            else:
                harness.disks[which].fail_write = fault
        elif what == "close":
            for disk in harness.disks:
                disk.sync_gate.set()
            await session.close()


def test_bytes_are_counted_beyond_the_life_of_a_connection() -> None:
    async def work() -> None:
        async with opened(Harness(), links=2) as (session, links):
            for link in links:
                await link.write(0)
                await link.acks(0)
            links[0].sock.close()
            await links[0].over.wait()
            await eventually(lambda: len(session._connections) == 1)
            assert session.logical_bytes == 2 * GRANULE
            assert session.wire_bytes > 2 * GRANULE

    run(work)


def test_the_first_fault_is_the_one_that_is_told() -> None:
    async def work() -> None:
        harness = Harness()
        told: list[Fault] = []
        session = harness.session(lambda _, fault: told.append(fault))
        session.fail(disk_fault())
        session.fail(disk_fault())
        await session.close()
        session.fail(disk_fault())
        harness.close()
        assert len(told) == 1

    run(work)
