"""The catalog: its tables side by side over one store, so that a transaction spans them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from receiver.catalog.activations import Activations
from receiver.catalog.checkpoints import Checkpoints
from receiver.catalog.disks import Disks
from receiver.catalog.jobs import Jobs
from receiver.catalog.sources import Sources
from receiver.catalog.store import Store

if TYPE_CHECKING:
    import contextlib
    from pathlib import Path


class Catalog:
    """Use from one thread only: the one that makes it.

    Attributes:
        activations, sources, jobs, disks, checkpoints: one object a table.
    """

    def __init__(self, path: Path) -> None:
        self._store = Store(path)
        self.activations = Activations(self._store)
        self.sources = Sources(self._store)
        self.jobs = Jobs(self._store)
        self.disks = Disks(self._store)
        self.checkpoints = Checkpoints(self._store)

    def transaction(self) -> contextlib.AbstractContextManager[None]:
        """Make several changes all or nothing; nested ones join the outermost."""
        return self._store.transaction()

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
