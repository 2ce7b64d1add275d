"""The control port over real TLS on loopback: who is heard, who is sent away, what is nobody's."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from protocol import identity as identities
from protocol.errors import SOURCE_FORGOTTEN, Fault
from protocol.link.control import ControlLink, dial
from protocol.wire.greeting import Greeting
from protocol.wire.jobs import JobOrder, JobReport
from protocol.wire.messages import (
    CloseSession,
    Inventory,
    OpenDisk,
    OpenSession,
    SessionOpened,
)
from receiver.authority import Authority
from receiver.conversation import Conversations
from receiver.gate import Crowd, Gate, listen
from tests.support.office import DISK, SIZE, Office, office

pytestmark = pytest.mark.timeout(60)

REAL = dt.datetime.now(dt.UTC)


class Port:
    """A control port with an office behind it."""

    def __init__(self, it: Office, authority: Authority) -> None:
        self.it = it
        self.authority = authority
        self.talks = Conversations(it.manager, authority, 10.0)
        it.tell = self.talks.tell  # type: ignore[method-assign]
        it.connected = self.talks.connected  # type: ignore[method-assign]
        self.talks.data_port = 8703
        self.gate = Gate(listen("127.0.0.1", 0), self.talks.welcome, 8, Crowd(64))

    async def identity(self, name: str) -> identities.Identity:
        request = identities.make_request(name)
        made = self.authority.sign_source(request.request_pem, name, REAL)
        await self.it.shelf.do(
            lambda catalog: catalog.sources.enrol(
                name, fingerprint=made.fingerprint, serial="1", now=1.0, replaces=name
            )
        )
        return identities.issued(
            request, made.pem, self.authority.pem, address="127.0.0.1:1", receiver="r"
        )

    @contextlib.asynccontextmanager
    async def source(self, who: identities.Identity) -> AsyncIterator[Source]:
        greeting = Greeting(software="test", name=who.name, boot="elsewhere")
        link = await dial("127.0.0.1", self.gate.port, who.client_context(), greeting, who.name)
        async with link:
            await link.greet()
            made = Source(link)
            try:
                yield made
            finally:
                made.listening.cancel()
                await asyncio.gather(made.listening, return_exceptions=True)


class Source:
    """A connected source and what it has heard."""

    def __init__(self, link: ControlLink) -> None:
        self.link = link
        self.orders: list[JobOrder] = []
        self.end: Fault | None = None
        self.over = asyncio.Event()
        self.listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        try:
            async for message in self.link.messages():
                if isinstance(message, JobOrder):
                    self.orders.append(message)
        except Fault as fault:
            self.end = fault
        finally:
            self.over.set()

    async def offers(self) -> None:
        """Say the inventory and wait for the order."""
        self.link.send(Inventory(disks=(DISK,)))
        await until(lambda: self.orders)

    async def open(self, job: str) -> SessionOpened:
        disks = (OpenDisk(path=DISK.path, size=SIZE),)
        message = OpenSession(id=self.link.new_id(), job=job, disks=disks)
        return await self.link.request(message, SessionOpened)


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - sockets and threads bring it about
        await asyncio.sleep(0.002)


def sockets() -> int:
    """How many sockets this process has open."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


def run(tmp_path: Path, work: Callable[[Port], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(40), office(tmp_path) as it:
            port = Port(it, Authority.open(tmp_path, REAL))
            serving = asyncio.create_task(port.gate.serve())
            try:
                await work(port)
            finally:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)
                await port.talks.finish()

    uvloop.run(bounded())


def test_a_source_closes_its_own_sessions_only(tmp_path: Path) -> None:
    async def work(port: Port) -> None:
        web, evil = await port.identity("web02"), await port.identity("evil")
        async with port.source(web) as source, port.source(evil) as other:
            await source.offers()
            job = await port.it.job("web02")
            opened = await source.open(job)
            other.link.send(CloseSession(session=opened.session))
            await other.offers()  # it has been heard
            assert port.it.sessions.of_job(job) is not None
            with pytest.raises(Fault, match="RPL-4003"):
                await other.open(job)
            source.link.send(CloseSession(session=opened.session))
            await until(lambda: port.it.sessions.of_job(job) is None)

    run(tmp_path, work)


def test_a_session_ends_with_the_connection_it_was_opened_on(tmp_path: Path) -> None:
    async def work(port: Port) -> None:
        web = await port.identity("web02")
        async with port.source(web) as source:
            await source.offers()
            job = await port.it.job("web02")
            await source.open(job)
        await until(lambda: port.it.sessions.of_job(job) is None)
        await until(lambda: not port.talks.connected("web02"))

    run(tmp_path, work)


def test_a_second_connection_of_a_source_replaces_the_first(tmp_path: Path) -> None:
    async def work(port: Port) -> None:
        web = await port.identity("web02")
        async with port.source(web) as first:
            await first.offers()
            job = await port.it.job("web02")
            await first.open(job)
            async with port.source(web) as second:
                await first.over.wait()
                assert first.end is not None
                assert first.end.code == "RPL-3008"
                await second.offers()
                opened = await second.open(job)
                await until(lambda: port.talks.connected("web02"))
                session = port.it.sessions.of_job(job)
                assert session is not None
                assert session.id == opened.session

    run(tmp_path, work)


def test_a_source_that_is_forgotten_while_it_connects_does_not_stay(tmp_path: Path) -> None:
    async def work(port: Port) -> None:
        web = await port.identity("web02")
        await port.it.shelf.do(lambda catalog: catalog.sources.forget("web02", 2.0))
        known = port.talks._known
        checked = 0

        async def late(presented: bytes) -> object:
            nonlocal checked
            checked += 1
            if checked == 1:  # the look at the handshake came before it was forgotten
                return await port.it.shelf.do(lambda catalog: catalog.sources.get("web01"))
            return await known(presented)

        port.talks._known = late  # type: ignore[assignment,method-assign]
        greeting = Greeting(software="test", name="web01")
        async with await dial(
            "127.0.0.1", port.gate.port, web.client_context(), greeting, "web01"
        ) as link:
            with contextlib.suppress(Fault):
                await link.greet()
            source = Source(link)
            await source.over.wait()
        assert checked == 2
        assert port.talks.count() == 0

    run(tmp_path, work)


def test_a_dismissed_source_is_told_why_and_heard_no_more(tmp_path: Path) -> None:
    async def work(port: Port) -> None:
        web = await port.identity("web02")
        async with port.source(web) as source:
            await source.offers()
            port.talks.dismiss("web02", SOURCE_FORGOTTEN.fault(name="web02"))
            await source.over.wait()
            assert source.end is not None
            assert source.end.code == "RPL-2007"
        assert port.talks.count() == 0

    run(tmp_path, work)


def test_a_report_about_anothers_job_ends_the_conversation(tmp_path: Path) -> None:
    async def work(port: Port) -> None:
        web, evil = await port.identity("web02"), await port.identity("evil")
        async with port.source(web) as source, port.source(evil) as other:
            await source.offers()
            job = await port.it.job("web02")
            other.link.send(JobReport(job="nonesuch", revision=1, state="syncing"))
            other.link.send(JobReport(job=job, revision=1, state="syncing"))
            await other.over.wait()
            assert port.talks.connected("web02")

    run(tmp_path, work)


def test_no_descriptor_is_left_by_strangers_that_are_turned_out(tmp_path: Path) -> None:
    async def work(port: Port) -> None:
        before = sockets()
        writers = []
        for _ in range(40):
            _, writer = await asyncio.open_connection("127.0.0.1", port.gate.port)
            writers.append(writer)
        web = await port.identity("web02")
        async with port.source(web) as source:  # one that we know gets in among them
            await source.offers()
        for writer in writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await until(lambda: sockets() <= before)

    run(tmp_path, work)
