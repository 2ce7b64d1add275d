"""A manager of the receiver with a real catalog, real files, and a clock that the test holds."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from protocol.errors import Fault
from protocol.wire.jobs import DiskInfo, JobOrder
from receiver.jobs.spec import JobSpec
from receiver.manager import Manager
from receiver.session import Session
from receiver.sessions import Sessions
from receiver.shelf import Shelf

SIZE = 1 << 20
DISK = DiskInfo(path="/dev/vda", size=SIZE, kind="disk")
NOW = 1_800_000_000.0


class Office:
    """What the manager needs of the daemon. ``orders`` are those that were told, by source."""

    def __init__(self, shelf: Shelf, storage: Path) -> None:
        self.now = NOW
        self.here: set[str] = set()
        self.orders: dict[str, list[JobOrder]] = {}
        self.storage = storage
        self.shelf = shelf
        self.manager = Manager(shelf, storage, self, lambda: self.now)
        self.sessions = Sessions(shelf, storage, 16 << 20, self._failed)
        self.manager.sessions = self.sessions

    def _failed(self, session: Session, fault: Fault) -> None:
        self.manager.happenings.session_failed(session, fault)

    def tell(self, source: str, order: JobOrder) -> None:
        self.orders.setdefault(source, []).append(order)

    def connected(self, source: str) -> bool:
        return source in self.here

    def on_this_machine(self, source: str) -> bool:
        return False

    async def enrol(self, name: str = "web01") -> None:
        def record(catalog: object) -> None:
            catalog.sources.enrol(name, fingerprint=name, serial="1", now=self.now)  # type: ignore[attr-defined]
            catalog.sources.offer(name, (DISK,))  # type: ignore[attr-defined]

        await self.shelf.do(record)

    async def job(self, source: str = "web01", **more: object) -> str:
        """A new job; its id."""
        view = await self.manager.create(JobSpec(source=source, **more))  # type: ignore[arg-type]
        return view.id


@contextlib.asynccontextmanager
async def office(storage: Path) -> AsyncIterator[Office]:
    """An office with the source ``web01`` enrolled."""
    shelf = await Shelf.open(storage / "catalog.db")
    try:
        made = Office(shelf, storage)
        await made.enrol()
        yield made
        await made.sessions.close_all()
        await made.manager.happenings.finish()
    finally:
        await shelf.close()
