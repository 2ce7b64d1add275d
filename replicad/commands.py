"""What administrators ask of the source: its control socket's methods.

The receiver owns the job, so all but ``status`` are questions to it; the answers are what the
receiver's own commands print.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec

from protocol.admin.method import Final, Method
from protocol.errors import from_peer
from protocol.views import SourceStatus
from protocol.wire.messages import Answer, Ask

if TYPE_CHECKING:
    from replicad.daemon import Daemon

UPDATE_SECONDS = 1.0
"""Between updates of a status that is watched."""


class Limit(msgspec.Struct, frozen=True):
    """Parameters of ``limit``: bytes per second on the wire, 0 for unlimited."""

    bandwidth: int


class Checkpoint(msgspec.Struct, frozen=True):
    """Parameters of ``checkpoint`` and ``cutover``."""

    wait: bool = False
    hold: bool = False


class Verify(msgspec.Struct, frozen=True):
    """Parameters of ``verify``."""

    wait: bool = False
    repair: bool = False


class Commands:
    """The methods, for the daemon that they are about."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def methods(self) -> dict[str, Method[Any]]:
        """The control socket's methods."""
        return {
            "status": Method(self._status),
            "status.watch": Method(self._watch),
            "pause": Method(self._pause),
            "resume": Method(self._resume),
            "limit": Method(self._limit, Limit),
            "checkpoint": Method(self._checkpoint, Checkpoint),
            "cutover": Method(self._cutover, Checkpoint),
            "verify": Method(self._verify, Verify),
        }

    async def _status(self, _: object) -> SourceStatus:
        """What this source is doing."""
        return self._daemon.status()

    async def _watch(self, _: object) -> AsyncIterator[object]:
        """The status once a second, until the client goes."""
        while True:
            yield self._daemon.status()
            await asyncio.sleep(UPDATE_SECONDS)

    async def _pause(self, _: object) -> object:
        """Pause the job."""
        return await self._ask("pause")

    async def _resume(self, _: object) -> object:
        """Resume the job, or release its held checkpoint."""
        return await self._ask("resume")

    async def _limit(self, params: Limit) -> object:
        """Change the job's bandwidth."""
        return await self._ask("limit", bandwidth=params.bandwidth)

    async def _checkpoint(self, params: Checkpoint) -> AsyncIterator[object]:
        """Take a checkpoint; with ``wait``, updates until it is committed."""
        async for item in self._order("checkpoint", params.wait, hold=params.hold):
            yield item

    async def _cutover(self, params: Checkpoint) -> AsyncIterator[object]:
        """Take the last checkpoint; with ``wait``, updates until it is committed."""
        async for item in self._order("cutover", params.wait, hold=params.hold):
            yield item

    async def _verify(self, params: Verify) -> AsyncIterator[object]:
        """Compare the copies with the disks; with ``wait``, updates until that is done."""
        async for item in self._order("verify", params.wait, repair=params.repair):
            yield item

    async def _ask(self, action: str, **values: Any) -> Any:
        """Have the receiver, which owns the job, do it."""
        link = self._daemon.reachable()
        answer = await link.request(
            Ask(id=link.new_id(), action=action, **values),  # type: ignore[arg-type]
            Answer,
        )
        return msgspec.json.decode(answer.result)

    async def _order(self, action: str, wait: bool, **how: bool) -> AsyncIterator[object]:
        asked = await self._ask(action, **how)
        if not wait:
            yield Final(asked)
            return
        while True:
            found = await self._ask("show", request=asked["request"])
            if found.get("result") is not None:
                yield Final(found["result"])
                return
            if (error := found.get("error")) is not None:
                raise from_peer(error["code"], error["message"], error.get("remedy", ""))
            yield found["job"]
            await asyncio.sleep(0.2)
