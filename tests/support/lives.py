"""Deaths at steps that a job, or a daemon, passes once: its beginning and its end.

Each of these makes the daemon die, starts it, and goes on where it was: nobody clears anything up
by hand. ``begin`` ends with a job that is in step, ``end`` with machines as they were before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from replicad.tracker import pin_directory
from tests.support.arena import Arena, Side
from tests.support.deaths import Row, both_live
from tests.support.pair import CommandFailed, until
from tests.support.ways import DIE_SECONDS

FREEZE_BUDGET = 30.0

Told = Callable[[Row], None]


class Lives:
    """The flows. ``told`` hears of each death."""

    def __init__(self, arena: Arena, told: Told) -> None:
        self._arena = arena
        self._told = told

    # --- dying --------------------------------------------------------------------------------

    def _die(self, side: Side, wish: str, how: Callable[[], object]) -> None:
        """Die at a step that ``how`` leads to, and be started again."""
        arena = self._arena
        written, begun = arena.written(), time.monotonic()
        arena.arm(side, wish)
        how()
        at = until(lambda: arena.died(side), DIE_SECONDS, f"death at {wish}", step=0.02)
        died = time.monotonic()
        resent = arena.in_flight()
        arena.arm(side, "")
        assert arena.start(side), arena.both.logs()
        seconds = round(time.monotonic() - died, 2)
        self._told(
            Row(
                points=(at,),
                sides=(side,),
                grade="begins" if resent == 0 else "full",
                resent_bytes=resent,
                sent_bytes=0,
                written_bytes=arena.written() - written,
                die_seconds=round(died - begun, 2),
                recover_seconds=seconds,
            )
        )

    def _start(self, side: Side) -> Callable[[], object]:
        return lambda: self._arena.start(side)

    # --- the beginning ------------------------------------------------------------------------

    def begin(self) -> None:
        """First starts, enrolment, a job, and its full pass, with a death at every step."""
        arena, both = self._arena, self._arena.both
        self._die("receiver", "authority.half_made", self._start("receiver"))
        arena.killed("receiver")
        (both.storage / "authority" / "server.pem").unlink()
        self._die("receiver", "file.unnamed", self._start("receiver"))
        self._die("source", "tracker.half_pinned:2", self._start("source"))
        self._enrol()
        self._die("receiver", "job.file_made:2", self._create)
        assert not arena.ask("job.list")
        assert not list((both.storage / "disks").iterdir()), "files of a job that does not exist"
        until(self._here, what="the source")
        arena.arm("source", "slot.described")
        self._die("receiver", "job.created", self._create)
        (job,) = arena.ask("job.list")
        both.job = job["id"]
        self._die("source", "slot.described", lambda: None)
        self._die("source", "sender.put:8", lambda: None)
        both.synced()
        self._identical()
        assert arena.passes(0) == {"full"}, "a kill in the full pass makes nobody compare"

    def _enrol(self) -> None:
        """The receiver dies while it certifies: the code is good for another try."""
        both = self._arena.both
        code = both.receiver.run("activation", "create")["code"]
        words = ("enroll", "-", "--receiver", f"127.0.0.1:{both.control}")

        def enrol() -> None:
            try:
                both.source.run(*words, stdin=code)
            except CommandFailed:
                return
            raise AssertionError("enrolled by a receiver that had died")

        self._die("receiver", "source.certified", enrol)
        both.source.run(*words, stdin=code)
        until(self._here, what="the source's inventory")

    def _here(self) -> bool:
        found = self._arena.ask("source.list") or []
        return any(source["connected"] and source["disks"] for source in found)

    def _create(self) -> Any:
        return self._arena.ask("job.create", source="web01", keep=1, freeze_budget=FREEZE_BUDGET)

    def _identical(self) -> None:
        arena = self._arena
        arena.identical(arena.held())
        arena.clean()
        arena.resume()

    # --- the end ------------------------------------------------------------------------------

    def end(self) -> None:
        """Jobs are cancelled and deleted, with a death at every step of it."""
        arena = self._arena
        self._die("source", "slot.unpublished", lambda: arena.act("cancel"))
        self._nothing_tracked()
        self._delete_dying()
        # Another job, whose source dies before it has filled its first map.
        arena.arm("source", "map.marked")
        log = arena.log_end()
        self._another()
        self._die("source", "map.marked", lambda: None)
        arena.both.synced()
        self._identical()
        assert arena.passes(log) == {"compare"}, "nobody calls that disk empty any more"
        self._die("source", "disks.untracked", lambda: arena.act("cancel"))
        self._nothing_tracked()
        assert arena.act("delete")
        self._another()
        arena.both.synced()
        self._die("source", "disks.closed", lambda: arena.act("cancel"))
        self._nothing_tracked()
        assert arena.act("delete")
        self._leftovers()
        self._last()

    def _another(self) -> None:
        until(self._here, what="the source")
        self._arena.both.job = self._create()["id"]

    def _delete_dying(self) -> None:
        """Delete the job three times: each time more of it is gone."""
        arena = self._arena
        for wish in ("job.half_deleted", "job.files_gone", "job.deleted"):
            self._die("receiver", wish, lambda: arena.act("delete"))
        assert not arena.ask("job.list")
        assert not list((arena.both.storage / "disks").iterdir())
        assert not list((arena.both.storage / "snapshots").iterdir())

    def _leftovers(self) -> None:
        """A job ends while the source is dead; the source dies while it removes what is left."""
        arena = self._arena
        self._another()
        arena.both.synced()
        arena.killed("source")
        arena.act("cancel")
        assert arena.act("delete")
        self._die("source", "leftover.removed", self._start("source"))
        self._nothing_tracked()

    def _nothing_tracked(self) -> None:
        runtime = self._arena.both.directory / "sr"
        until(lambda: not list(runtime.glob("*.map*")), DIE_SECONDS, "the maps' removal")

    def _last(self) -> None:
        """The source is told to end, and dies while it takes the programs out of the kernel."""
        arena = self._arena
        pins = pin_directory(arena.both.directory / "sr")
        self._die("source", "tracker.half_removed", lambda: arena.tell_to_end("source"))
        assert arena.both.source.stop() == 0
        assert not pins.exists(), "without a job the kernel is left as it was"
        assert arena.both.receiver.stop() == 0
        both_live(arena)
