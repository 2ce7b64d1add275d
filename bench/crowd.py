"""A crowd of idle sources, as a process of its own: python -m bench.crowd PORT COUNT DIRECTORY.

Sources are enrolled before, by the product's own code (:func:`enrol_all`). Here each dials, greets,
offers a disk, and then only beats, with the product's own state machine of a control connection. On
standard output: ``ready`` when all stand, and after each line on standard input what was seen
since the last one, as JSON: how many stand, and the longest time between two signs of life that
any of them had from the receiver.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvloop

from protocol.errors import Fault
from protocol.identity import RECEIVER_NAME, load_identity
from protocol.wire.control import ControlConnection, Role
from protocol.wire.greeting import Greeting
from protocol.wire.jobs import DiskInfo
from protocol.wire.messages import Inventory
from replicad.config import Config, Source, State
from replicad.enrol import enrol

HOST = "127.0.0.1"
DIALLING = 20
"""Connections that are made at one time."""


def enrolled(directory: Path, number: int, code: str, port: int) -> None:
    """Enrol a source."""
    state = directory / f"source-{number}"
    enrol(
        Config(source=Source(name=f"idle{number:04}"), state=State(directory=state)),
        code,
        HOST,
        port,
    )


def enrol_all(directory: Path, count: int, code: str, port: int) -> None:
    """Enrol so many sources; their state directories lie in ``directory``."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: enrolled(directory, number, code, port), range(count)))


class Idle:
    """One source. ``longest``: seconds between two signs of life, at most; ``standing``."""

    def __init__(self, state: Path, port: int) -> None:
        self._identity = load_identity(state)
        self._port = port
        self._heard = time.monotonic()
        self.longest = 0.0
        self.standing = False

    def silent(self) -> float:
        """The longest silence since the last call, one that goes on included."""
        longest = max(self.longest, time.monotonic() - self._heard)
        self.longest = 0.0
        return longest

    async def live(self, dialling: asyncio.Semaphore) -> None:
        """Until the connection ends."""
        context = self._identity.client_context()
        async with dialling:
            reader, writer = await asyncio.open_connection(
                HOST, self._port, ssl=context, server_hostname=RECEIVER_NAME
            )
        name = self._identity.name
        greeting = Greeting(software="replicad bench", name=name)
        core = ControlConnection(Role.SOURCE, greeting, name, time.monotonic())
        try:
            await self._converse(core, reader, writer)
        except (Fault, OSError) as error:
            print(f"{name}: {error}", file=sys.stderr)
        finally:
            self.standing = False
            writer.close()

    async def _converse(
        self, core: ControlConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(core.take_output())
        while True:
            wait = max(0.01, min(60.0, core.due(time.monotonic()) - time.monotonic()))
            try:
                async with asyncio.timeout(wait):
                    data = await reader.read(65536)
            except TimeoutError:
                writer.write(core.beat(time.monotonic()))
                continue
            now = time.monotonic()
            if not data:
                core.ended()
                return
            self.longest, self._heard = max(self.longest, now - self._heard), now
            for _ in core.receive(data, now):
                if not self.standing:
                    self.standing = True
                    disk = DiskInfo(path="/dev/vda", size=1 << 40, kind="disk")
                    writer.write(core.send(Inventory(disks=(disk,))))
            writer.write(core.take_output())


async def _crowd(states: list[Path], port: int) -> None:
    sources = [Idle(state, port) for state in states]
    dialling = asyncio.Semaphore(DIALLING)
    lives = [asyncio.create_task(source.live(dialling)) for source in sources]
    while not all(source.standing for source in sources):
        if any(life.done() for life in lives):
            raise SystemExit("a source could not connect")
        await asyncio.sleep(0.05)
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    for source in sources:
        source.silent()
    while await loop.run_in_executor(None, sys.stdin.readline):
        said = {
            "standing": sum(source.standing for source in sources),
            "silent": max(source.silent() for source in sources),
        }
        print(json.dumps(said), flush=True)


def main(port: int, count: int, directory: Path) -> None:
    """Live."""
    states = [directory / f"source-{number}" for number in range(count)]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_crowd(states, port))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
