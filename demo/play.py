"""The play: enrol, copy, three checkpoints under load, each compared, one as it really is."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demo import hooks
from demo.compare import compare
from demo.daemons import CommandFailed, prepare, running, tail
from demo.disk import busy, image_disk, loop_disk
from demo.show import Taken

if TYPE_CHECKING:
    from demo.compare import Comparison
    from demo.daemons import Program
    from demo.show import Screen

CHECKPOINTS = 3
BETWEEN_SECONDS = 2.0
"""The source works for so long between two checkpoints, so that there is something to send."""

COPY_SECONDS = 600.0
CHECKPOINT_SECONDS = 120.0
REFERENCE_SPEED = 100 << 20
"""Bytes per second at which even a slow machine reads the witness: sets its freeze budget."""

LONGEST_BUDGET = 60.0
ORDINARY_BUDGET = 2.0


@dataclass(slots=True)
class Play:
    """What the scenes need of each other."""

    place: Path
    screen: Screen
    receiver: Program
    job: str
    logical: int = 0
    wire: int = 0

    def checkpoint(self, *, witness: bool) -> Taken:
        """Take one, hold it, compare, and let the job go on."""
        words = ("checkpoint", self.job, "--wait", "--hold", f"--timeout={CHECKPOINT_SECONDS:g}")
        result = self.receiver.ask("job", *words)
        job = self.show()
        comparison = self._compared(job, result["epoch"]) if witness else None
        self.receiver.ask("job", "resume", self.job)
        logical, wire = job["logical_bytes"] - self.logical, job["wire_bytes"] - self.wire
        self.logical, self.wire = job["logical_bytes"], job["wire_bytes"]
        frozen = result["frozen_seconds"]
        return Taken(result["epoch"], result["consistency"], frozen, logical, wire, comparison)

    def _compared(self, job: dict[str, Any], epoch: int) -> Comparison:
        seen = hooks.taken_at(self.place)
        if seen != epoch:
            raise CommandFailed(f"the witness is of epoch {seen}, the checkpoint of {epoch}")
        (disk,) = job["disks"]
        return compare(Path(disk["intermediate"]), hooks.reference(self.place))

    def show(self) -> dict[str, Any]:
        """The job as it is now."""
        job: dict[str, Any] = self.receiver.ask("job", "show", self.job)
        return job

    def since_now(self) -> dict[str, Any]:
        """The job as it is now, from which the bytes of the first checkpoint are counted."""
        job = self.show()
        self.logical, self.wire = job["logical_bytes"], job["wire_bytes"]
        return job

    def follow(self) -> None:
        """Show the progress until the first copy is complete and only changes are sent.

        Raises:
            CommandFailed: the job has an error, or it takes far too long.
        """
        deadline = time.monotonic() + COPY_SECONDS
        with self.screen.following() as shown, self.receiver.client() as client:
            while time.monotonic() < deadline:
                job = client.call("job.show", job=self.job)
                shown(job)
                if job["error"] is not None:
                    raise CommandFailed(f"{job['error']['code']}: {job['error']['message']}")
                if job["disks"] and all(disk["passed"] > 0 for disk in job["disks"]):
                    return
                time.sleep(0.2)
        raise CommandFailed(f"the first copy did not end in {COPY_SECONDS:g} s")


def play(place: Path, size: int, screen: Screen, *, root: bool) -> bool:
    """All of it in the directory ``place``; True when every comparison was identical."""
    with contextlib.ExitStack() as undo:
        if root:
            disk, mount = undo.enter_context(loop_disk(place, size))
            screen.step(f"{disk}: {size >> 20} MiB with ext4 on {mount}, a good half full")
            doing = undo.enter_context(busy(place, "files", mount))
        else:
            disk = image_disk(place, size)
            screen.step(f"{disk}: an image file of {size >> 20} MiB, a good half full")
            doing = undo.enter_context(busy(place, "blocks", Path(disk)))
        screen.step(f"busy with {doing}; it does not stop")
        hooks.install(place, disk, image=not root)
        receiver, replicad = prepare(place, disk)
        undo.enter_context(running(receiver))
        undo.enter_context(running(replicad))
        try:
            return _scenes(place, size, screen, receiver, replicad, root=root)
        except CommandFailed:
            for program in (receiver, replicad):
                screen.step(f"the end of {program.name}'s log:\n{tail(program.log)}")
            raise


def _scenes(
    place: Path, size: int, screen: Screen, receiver: Program, replicad: Program, *, root: bool
) -> bool:
    code = receiver.ask("activation", "create")["code"]
    address = (place / "address").read_text()
    replicad.ask("enroll", "-", "--receiver", address, given=f"{code}\n")
    screen.step(f"receiver and replicad run; enrolled at {address}")
    budget = min(LONGEST_BUDGET, 5 + size / REFERENCE_SPEED)
    options = ("--source", "demo", "--start", "now", f"--freeze-budget={budget:g}s")
    act = Play(place, screen, receiver, _when_connected(receiver, *options)["id"])
    try:
        screen.step("the first copy:")
        act.follow()
        job = act.since_now()
        screen.step(f"complete, tracked by {job['disks'][0]['tracker']}; three checkpoints follow")
        rows = []
        # an image is not frozen at all, so there is nothing to see without the witness
        for number in range(CHECKPOINTS + root):
            witness = number < CHECKPOINTS
            if not witness:
                hooks.remove_witness(place)
                receiver.ask("job", "set", act.job, f"freeze_budget={ORDINARY_BUDGET:g}s")
            time.sleep(BETWEEN_SECONDS)
            rows.append(act.checkpoint(witness=witness))
            about = f"frozen {rows[-1].frozen_seconds * 1000:.0f} ms, "
            about += str(rows[-1].comparison) if witness else "as it is without a witness"
            screen.step(f"checkpoint {rows[-1].epoch}: {about}")
    finally:
        with contextlib.suppress(CommandFailed):
            receiver.ask("job", "cancel", act.job)
    screen.table(rows)
    return all(row.comparison is None or row.comparison.identical for row in rows)


def _when_connected(receiver: Program, *options: str) -> dict[str, Any]:
    """Create the job as soon as the receiver knows the source's disks."""
    deadline = time.monotonic() + CHECKPOINT_SECONDS
    while True:
        source = receiver.ask("source", "show", "demo")
        if source["connected"] and source["disks"]:
            break
        if time.monotonic() > deadline:
            raise CommandFailed("the source does not connect")
        time.sleep(0.1)
    job: dict[str, Any] = receiver.ask("job", "create", *options)
    return job
