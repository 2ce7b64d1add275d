"""Whatever is news of a job rings the bell, wherever in the engine it comes from: the daemon looks
at the news when it rings, and would otherwise tell the receiver a second late."""

from __future__ import annotations

import asyncio
import contextlib

from protocol.wire.jobs import CheckpointOrder
from replicad.engine.standing import News
from tests.replicad.engine.test_job import World, nothing_mounted, play

__all__ = ["nothing_mounted"]

LOOKS_SECONDS = 0.001
TURNS = 5
"""Of the loop, until who was woken by the bell has looked."""


class Listener:
    """Looks at the news when the bell rings, and at no other time."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.heard: list[News | None] = [None]
        self.missed: list[News | None] = []

    async def listen(self) -> None:
        bell = self.world.engine.standing.bell
        while True:
            await bell.heard(60)
            self.heard.append(self.world.engine.news())

    async def look(self) -> None:
        """All the time: is there news that was not heard?"""
        while True:
            news = self.world.engine.news()
            for _ in range(TURNS):
                await asyncio.sleep(0)
            # While something is frozen a pass does not ring: telling takes the loop's time.
            frozen = news is not None and news.state == "checkpointing"
            if self.heard[-1] != news == self.world.engine.news() and not frozen:
                self.missed.append(news)
            await asyncio.sleep(LOOKS_SECONDS)


def test_what_is_news_has_rung() -> None:
    async def case(world: World) -> None:
        listener = Listener(world)
        tasks = [asyncio.create_task(listener.listen()), asyncio.create_task(listener.look())]
        world.order("run")
        await world.synced()
        world.write(3)
        world.order("run", checkpoint=CheckpointOrder(request="a"))
        await world.until(lambda: 1 in world.receiver.committed)
        world.lose()
        await world.until(lambda: world.report.reconnects == 1)
        world.order("pause", state="paused")
        await world.state("paused")
        world.order("run")
        await world.synced()
        world.order("stop", state="finished")
        await world.state("finished")
        await world.until(lambda: not list(world.directory.glob("*.map")))
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert not listener.missed
        states = {news.state for news in listener.heard if news is not None}
        assert {"preparing", "syncing", "paused", "finished"} <= states
        assert any(news.passes for news in listener.heard if news is not None)

    play(case)
