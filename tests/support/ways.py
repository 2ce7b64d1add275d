"""Ways to a step at which a daemon is to die: what is done after it has been told where.

Most steps lie on the way to a checkpoint. Used by :mod:`tests.support.deaths`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from receiver.disk.files import MARK
from tests.support.arena import Arena, Side
from tests.support.loops import MIB
from tests.support.pair import until

DIE_SECONDS = 240.0
"""In which a daemon comes to the step that it is to die at: a verification under a permanent write
load waits a minute until it is sure."""

Way = Callable[[Arena, Side], None]


def checkpoint(arena: Arena, _: Side) -> None:
    """Ask for a checkpoint."""
    arena.act("checkpoint", hold=True)


def zeros(arena: Arena, side: Side) -> None:
    """The same, with zeros in it."""
    for where in arena.mounts:
        with (where / "zeros").open("wb") as file:
            file.write(bytes(MIB))
            os.fsync(file.fileno())
    checkpoint(arena, side)


def starts(arena: Arena, side: Side) -> None:
    """Start the daemon anew."""
    arena.killed(side)
    arena.start(side)


def source_goes(arena: Arena, _: Side) -> None:
    """The source is killed: the receiver closes its session."""
    arena.killed("source")


def source_comes(arena: Arena, _: Side) -> None:
    """The source is started anew: the receiver opens a session for it."""
    arena.killed("source")
    arena.start("source")


def pause(arena: Arena, _: Side) -> None:
    """Pause the job."""
    arena.act("pause")


def stops(arena: Arena, side: Side) -> None:
    """Tell the daemon to end."""
    arena.tell_to_end(side)


def hook_fails(arena: Arena, side: Side) -> None:
    """Ask for a checkpoint that cannot be taken."""
    arena.both.hook("pre-freeze", "50-fails", "exit 1")
    checkpoint(arena, side)


def map_is_lost(arena: Arena, _: Side) -> None:
    """Kill the source, take a dirty map away, start it: that disk is compared."""
    arena.killed("source")
    # After a death in its making there may be none.
    for path in (arena.both.directory / "sr").glob("*-1.map"):
        path.unlink()
    arena.start("source")


def disk_is_distrusted(arena: Arena, _: Side) -> None:
    """Mark an intermediate disk as one that cannot be vouched for, as a failed sync does."""
    arena.killed("receiver")
    disk = next((arena.both.storage / "disks" / arena.both.job).glob("1-*.raw"))
    os.setxattr(disk, MARK, f"{arena.both.job}:?".encode())
    arena.start("receiver")


def session_is_lost(arena: Arena, _: Side) -> None:
    """The receiver dies with frames in flight and comes back: the source takes them for lost."""
    arena.arm("receiver", "frame.received:2")
    checkpoint(arena, "source")
    until(lambda: arena.died("receiver"), DIE_SECONDS, "the receiver's death", step=0.02)
    arena.arm("receiver", "")
    arena.start("receiver")


def copy_is_damaged(arena: Arena, side: Side) -> None:
    """Another byte in a granule that nobody writes, soon after a write of ours, and a
    verification that repairs. While a session is open: otherwise it is noticed that somebody else
    wrote, and a comparison mends it before anybody verifies."""

    until(lambda: _copying(arena), DIE_SECONDS, "a session", step=0.05)
    _damage(arena)
    verifies(arena, side)


def _copying(arena: Arena) -> bool:
    view = arena.view()
    return bool(view.get("connected") and view["state"] == "syncing")


def _damage(arena: Arena) -> None:
    """Unless it is damaged still: a checkpoint may have mended it."""
    content = (arena.mounts[0] / "ballast").read_bytes()[MIB : MIB + 512]
    with Path(arena.act("show")["disks"][0]["intermediate"]).open("r+b") as file:
        arena.ballast_at = arena.ballast_at or file.read().index(content)
        file.seek(arena.ballast_at)
        if file.read(512) == content:
            file.seek(arena.ballast_at)
            file.write(bytes([content[0] ^ 1]))


def copy_is_damaged_again(arena: Arena, side: Side) -> None:
    """The same, when a session is open now."""
    if _copying(arena):
        copy_is_damaged(arena, side)


def verifies(arena: Arena, _: Side) -> None:
    """A verification that repairs."""
    arena.act("verify", repair=True)
