"""What of the product is replaced while the whole way is played: its view of the world outside."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

import protocol.link.data
import receiver.checkpoint
import receiver.datapath
import receiver.disk.base
import receiver.session
import receiver.sessions
import replicad.answers
import replicad.engine.passes
import replicad.jobdisk
import replicad.planner
import replicad.recovery
import replicad.tracker.disk
import replicad.transfer
from tests.properties import invariants
from tests.properties import kernel as sim
from tests.properties.batches import COMPARE, DATA, WINDOW
from tests.properties.clockwork import SteppedLane
from tests.properties.ends import CountingMap, SimReader, SimSender, WatchedConnection

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.properties.wholeway import WholeWay


class Silent:
    """A log that nobody reads: a walk would fill pages with what is normal in it."""

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_, **__: None


LOGGING = (
    receiver.datapath,
    receiver.session,
    receiver.sessions,
    receiver.checkpoint,
    replicad.recovery,
    replicad.engine.passes,
    replicad.answers,
)


def play(world: WholeWay, stack: contextlib.ExitStack) -> None:
    """Until ``stack`` is closed."""

    def put(module: Any, name: str, value: object) -> None:
        stack.enter_context(mock.patch.object(module, name, value))

    for module in LOGGING:
        put(module, "_log", Silent())

    async def nothing(*_: object) -> None:
        """No snapshot is let go."""

    put(replicad.planner, "DATA_LIMITS", DATA)
    put(replicad.planner, "COMPARE_LIMITS", COMPARE)
    put(replicad.engine.passes, "TAKE", 3)
    put(replicad.engine.passes, "RESWEEP", 2)
    put(
        replicad.jobdisk,
        "DiskReader",
        lambda path, **_: SimReader(world.disk, path, world.directory),
    )
    put(replicad.recovery, "DirtyMap", CountingMap)
    put(replicad.jobdisk, "boot_id", lambda: world.kernel.boot)
    put(replicad.tracker.disk, "inspect", sim.inspect)
    put(replicad.tracker.disk, "size_and_sequence", sim.size_and_sequence)
    put(replicad.transfer, "Sender", SimSender)
    put(protocol.link.data, "dial", world.dial)
    put(receiver.session, "DataConnection", type("It", (WatchedConnection,), {"world": world}))
    put(receiver.session, "time", world.clock)
    put(receiver.datapath, "time", world.clock)
    put(receiver.datapath, "LINGER_MS", 0)
    put(receiver.sessions, "job_to_run", lambda *_: world.job)
    put(receiver.sessions, "open_disks", lambda *a, **k: world.receiver.open_disks(*a, **k))  # noqa: PLW0108
    put(receiver.sessions, "WINDOW_BYTES", WINDOW)
    put(receiver.sessions, "SessionLane", lambda _: SteppedLane(world.receiver.jobs))
    put(receiver.disk.base, "os", world.os)
    put(receiver.checkpoint, "preserve", partial(invariants.preserve, world))
    put(receiver.checkpoint, "_record", partial(invariants.record, world))
    put(receiver.checkpoint, "_let_go", nothing)
