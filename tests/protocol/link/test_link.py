"""The asyncio side of the wire: answers in their order, peers that do not read, backoff."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Fault, PeerFault
from protocol.link import control as module
from protocol.link.backoff import Backoff
from protocol.link.control import ControlLink
from protocol.link.data import AnswerReader, send_all
from protocol.wire.crypto import Direction
from protocol.wire.frames import Ack, Frame, Ready, encode_meta
from protocol.wire.greeting import Greeting
from protocol.wire.jobs import JobOrder
from protocol.wire.messages import Answer, Ask, Inventory, Refused
from protocol.wire.rules import Role
from tests.support.datalink import KEYS

pytestmark = pytest.mark.timeout(60)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await work()

    uvloop.run(bounded())


# --- data -----------------------------------------------------------------------------------


class Answers:
    """An AnswerReader and the receiver's end of its connection."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.frames: list[object] = []
        self.ends: list[Fault] = []
        self._sealer = KEYS.sealer(0, Direction.FROM_RECEIVER)
        self.reader = AnswerReader(
            self.ours, KEYS, 0, lambda frame, _: self.frames.append(frame), self.ends.append
        )

    def say(self, frame: Frame) -> None:
        into = memoryview(bytearray(256))
        sealed = self._sealer.seal(encode_meta(frame), into)
        self.theirs.sendall(into[: sealed.size])

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0.001)

    def close(self) -> None:
        self.reader.close()
        self.ours.close()
        self.theirs.close()


@pytest.mark.parametrize(
    ("said", "heard", "ready", "code"),
    [
        ((Ready(), Ack(1)), [Ack(1)], True, None),
        ((Ack(1),), [], False, "RPL-3002"),
        ((Ready(), Ready()), [], True, "RPL-3002"),
    ],
)
def test_the_first_answer_and_no_other_is_ready(
    said: tuple[Frame, ...], heard: list[Frame], ready: bool, code: str | None
) -> None:
    async def work() -> None:
        it = Answers()
        for frame in said:
            it.say(frame)
        await it.settle()
        assert it.frames == heard
        assert (it.reader.ready.done() and not it.reader.ready.cancelled()) is ready
        assert [fault.code for fault in it.ends] == ([code] if code else [])
        it.close()

    run(work)


def test_the_end_of_the_stream_is_told_once() -> None:
    async def work() -> None:
        it = Answers()
        it.say(Ready())
        it.theirs.close()
        await it.settle()
        assert [fault.code for fault in it.ends] == ["RPL-3009"]
        it.close()

    run(work)


def test_send_all_sends_all_of_it_and_stops_when_told() -> None:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        content = random.Random(1).randbytes(4 << 20)
        got = bytearray()

        def read() -> None:
            while len(got) < len(content):
                got.extend(other.recv(1 << 16))

        reader = threading.Thread(target=read)
        reader.start()
        send_all(one, memoryview(content), lambda: False)
        reader.join()
        assert bytes(got) == content
        with pytest.raises(PeerFault, match="RPL-3009"):
            send_all(one, memoryview(content), lambda: True)
        other.close()
        with pytest.raises(PeerFault, match="RPL-3009"):
            send_all(one, memoryview(content), lambda: False)


@given(st.integers(0, 1 << 30), st.integers(1, 40))
def test_backoff_grows_stays_within_and_begins_again(seed: int, attempts: int) -> None:
    backoff = Backoff(0.25, 30.0, random.Random(seed))
    for number in range(attempts):
        step = min(30.0, 0.25 * 2**number)
        assert step / 2 <= backoff.next() <= step
    backoff.reset()
    assert backoff.next() <= 0.25


# --- control --------------------------------------------------------------------------------


class Talk:
    """Both ends of a control connection, greeted, on loopback."""

    async def __aenter__(self) -> Self:
        accepted: asyncio.Future[tuple[Any, Any]] = asyncio.get_running_loop().create_future()
        self.server = await asyncio.start_server(
            lambda r, w: accepted.set_result((r, w)), "127.0.0.1", 0
        )
        port = self.server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        greeting = Greeting(software="test", name="web01")
        self.source = ControlLink(Role.SOURCE, greeting, "web01", reader, writer)
        self.receiver = ControlLink(Role.RECEIVER, greeting, "web01", *await accepted)
        await self.source.__aenter__()
        await self.receiver.__aenter__()
        await asyncio.gather(self.source.greet(), self.receiver.greet())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.source.__aexit__()
        await self.receiver.__aexit__()
        self.server.close()
        await self.server.wait_closed()


async def heard(link: ControlLink, into: list[object]) -> None:
    try:
        async for message in link.messages():
            into.append(message)  # noqa: PERF401 - what came before a fault counts
    except Fault as fault:
        into.append(fault)


def test_requests_are_answered_refused_timed_out_and_cancelled() -> None:
    async def work() -> None:
        async with Talk() as talk:
            said: list[object] = []
            asked: list[object] = []
            tasks = [
                asyncio.create_task(heard(talk.source, said)),
                asyncio.create_task(heard(talk.receiver, asked)),
            ]
            source, receiver = talk.source, talk.receiver
            asks = [
                asyncio.create_task(
                    source.request(Ask(id=source.new_id(), action="show"), Answer, limit)
                )
                for limit in (10.0, 10.0, 0.01, 10.0)
            ]
            while len(asked) < 4:  # noqa: ASYNC110 - until they have come
                await asyncio.sleep(0.001)
            receiver.send(Answer(answers=1))
            receiver.send(Refused(code="RPL-4005", message="no", remedy="wait", answers=2))
            assert (await asks[0]).answers == 1
            with pytest.raises(PeerFault, match="RPL-4005"):
                await asks[1]
            with pytest.raises(PeerFault, match="no answer"):
                await asks[2]
            asks[3].cancel()
            with pytest.raises(asyncio.CancelledError):
                await asks[3]
            receiver.send(Answer(answers=3))  # too late: nobody is disturbed by it
            receiver.send(JobOrder(revision=1, want="none"))
            while not said:  # noqa: ASYNC110 - until it has come
                await asyncio.sleep(0.001)
            assert [type(each) for each in said] == [JobOrder]
            last = asyncio.create_task(
                source.request(Ask(id=source.new_id(), action="show"), Answer)
            )
            await asyncio.sleep(0.01)
            receiver.abort()
            with pytest.raises(PeerFault, match="RPL-3009"):
                await last
            await asyncio.gather(*tasks)

    run(work)


def test_a_peer_that_reads_nothing_is_cut_and_not_collected_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "UNREAD_MAX", 1 << 16)

    async def work() -> None:
        async with Talk() as talk:
            said: list[object] = []
            listening = asyncio.create_task(heard(talk.receiver, said))
            order = JobOrder(revision=1, want="run", job="x", name="n" * 30_000)

            def flood() -> None:
                for _ in range(10_000):
                    talk.receiver.send(order)

            with pytest.raises(Fault, match="RPL-3009"):
                flood()
            await listening
            assert isinstance(said[-1], Fault)
            assert "reads nothing" in said[-1].sentence
            assert talk.receiver.closed.is_set()

    run(work)


def test_what_is_said_on_a_closed_connection_is_refused() -> None:
    async def work() -> None:
        async with Talk() as talk:
            talk.source.abort()
            with pytest.raises(Fault, match="RPL-3009"):
                talk.source.send(Inventory(disks=()))

    run(work)
