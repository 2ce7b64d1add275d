"""The catalog on a thread of its own, so that the loop never waits for a disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from protocol.errors import CATALOG_UNUSABLE
from receiver.catalog import Catalog
from receiver.catalog.store import UNREADABLE

T = TypeVar("T")


class Shelf:
    """One thread, one :class:`Catalog`. ``await shelf.do(lambda catalog: ...)``."""

    def __init__(self, catalog: Catalog, thread: ThreadPoolExecutor, path: Path) -> None:
        self._catalog = catalog
        self._thread = thread
        self._path = path

    @classmethod
    async def open(cls, path: Path) -> Shelf:
        """Open the catalog in ``path``.

        Raises:
            LocalFault: CATALOG_UNUSABLE.
        """
        thread = ThreadPoolExecutor(1, "catalog")
        try:
            catalog = await asyncio.get_running_loop().run_in_executor(thread, Catalog, path)
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(catalog, thread, path)

    async def do(self, work: Callable[[Catalog], T]) -> T:
        """Run ``work`` in the catalog's thread; one at a time, in the order asked.

        Shielded: a caller that is cancelled does not leave half a decision behind.

        Raises:
            LocalFault: CATALOG_UNUSABLE: its disk is full or failed; nothing was changed.
        """
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.shield(loop.run_in_executor(self._thread, work, self._catalog))
        except UNREADABLE as error:
            raise CATALOG_UNUSABLE.fault(path=self._path, problem=str(error)) from error

    async def close(self) -> None:
        """Finish what was asked and close."""
        await self.do(lambda catalog: catalog.close())
        self._thread.shutdown()
