"""The source's daemon ends when it is told to, whatever happens at that moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import pytest

from protocol.errors import CONNECTION_LOST
from protocol.identity import Identity
from replicad import daemon as module
from replicad.config import Config
from replicad.daemon import Daemon
from replicad.tracker import NoTracker


class BreakingLink:
    """A connection that is greeted and breaks at once."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def greet(self) -> None:
        pass

    async def messages(self) -> AsyncIterator[Any]:
        await asyncio.sleep(0.01)  # so that the telling has begun
        nothing: tuple[Any, ...] = ()
        for message in nothing:
            yield message
        raise CONNECTION_LOST.peer(peer="the receiver", detail="it broke")


def test_a_stop_while_the_connection_breaks_is_not_swallowed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def dial(*_: object) -> BreakingLink:
        return BreakingLink()

    async def telling(*_: object) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.1)  # the group is ending: now the stop comes

    who = Identity(
        name="web01", address="127.0.0.1:1", receiver="r", key_pem="", certificate_pem="",
        authority_pem="",
    )  # fmt: skip
    monkeypatch.setattr(module, "dial", dial)
    monkeypatch.setattr(module, "load_identity", lambda _: who)
    monkeypatch.setattr(Identity, "client_context", lambda _: None)
    monkeypatch.setattr(Daemon, "_tell", telling)

    async def case() -> None:
        connected = asyncio.create_task(Daemon(Config(), NoTracker("not here")).keep_connected())
        await asyncio.sleep(0.05)
        connected.cancel()
        await asyncio.wait([connected], timeout=5)
        assert connected.cancelled()

    asyncio.run(case())
