"""One job that lives through many deaths: two mounted disks that are always written, both daemons.

An ext4 and an xfs disk (so that there are two disks to keep in step), the receiver's storage on an
xfs of its own (so that snapshots are kept). What a round needs is here: start a daemon that may die
while it starts, choose where it dies, get a held checkpoint and compare it byte for byte with what
the source was while frozen, and see that nothing was left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from protocol.errors import Fault
from protocol.local.crash import VARIABLE
from replicad.dirtymap.bitmap import PAGE_WORDS, page_count
from replicad.dirtymap.header import HEADER_BYTES, MapRefusedError, decode_newest
from tests.support.frozen import is_frozen
from tests.support.load import written_bytes
from tests.support.loops import MIB, flush, loop_device, mounted
from tests.support.pair import Pair, Process, busy_writer, pair, same_content, until

Side = Literal["source", "receiver"]

SIZES = {"ext4": 96 * MIB, "xfs": 300 * MIB}
BALLAST = 24 * MIB
"""Bytes on each disk that are written once: sent again, they would show."""

STORAGE = 2048 * MIB
RATE = "3M"
"""Of random 4 KiB writes to each disk, a second."""

HELD_SECONDS = 120.0
"""In which a job has to get from any death to the next held checkpoint."""


class Arena:
    """The scene. Make with :func:`arena`."""

    def __init__(
        self, both: Pair, disks: dict[str, tuple[str, Path, Path]], directory: Path
    ) -> None:
        """``disks``: device, image and mount point by kind of filesystem."""
        self.both = both
        self.devices = [device for device, _, _ in disks.values()]
        self.mounts = [where for _, _, where in disks.values()]
        self.ballast_at = 0
        self._references = []
        for kind, (_, image, _) in disks.items():
            reference = directory / f"reference-{kind}.img"
            both.keep_reference(image, reference)
            self._references.append(reference)
        self._wishes = {side: both.directory / f"die-{side}" for side in ("source", "receiver")}
        for wish in self._wishes.values():
            wish.write_text("")

    # --- daemons ------------------------------------------------------------------------------

    def process(self, side: Side) -> Process:
        """A daemon."""
        return self.both.source if side == "source" else self.both.receiver

    def arm(self, side: Side, wish: str) -> None:
        """Choose where a daemon dies (``NAME:TIMES``); empty: nowhere."""
        self._wishes[side].write_text(wish)

    def start(self, side: Side) -> bool:
        """Start a daemon; whether it lived until it answered."""
        process = self.process(side)
        try:
            process.start(**{VARIABLE: f"@{self._wishes[side]}"})
        except AssertionError:
            if process.running:
                raise
            return False
        return True

    def died(self, side: Side) -> str | None:
        """Where a daemon died of its own hand; None while it runs.

        Raises:
            AssertionError: it ended in another way.
        """
        process = self.process(side)
        code = process.exit_code()
        if code is None:
            return None
        said = process.said()
        # Mostly its last line: another thread may still have written until the signal was there.
        died = re.findall(r"^died at (.+)$", said, re.MULTILINE)
        if code != -signal.SIGKILL or not died:
            raise AssertionError(f"{side} ended with {code}: {said[-2000:]}")
        return str(died[-1])

    def killed(self, side: Side) -> None:
        """kill -9, from outside."""
        self.process(side).kill()

    def tell_to_end(self, side: Side) -> None:
        """SIGTERM; nobody waits."""
        os.kill(self.process(side).pid, signal.SIGTERM)

    # --- the job ------------------------------------------------------------------------------

    def ask(self, method: str, **params: Any) -> Any:
        """A method of the receiver; None when it refuses, or dies meanwhile."""
        try:
            return self.both.receiver.ask(method, **params)
        except Fault:
            return None

    def act(self, action: str, **params: Any) -> Any:
        """A method about our job."""
        return self.ask(f"job.{action}", job=self.both.job, **params)

    def view(self) -> dict[str, Any]:
        """The job; empty while the receiver cannot be asked.

        Raises:
            AssertionError: it is in error: no death may need a person.
        """
        view: dict[str, Any] = self.act("show") or {}
        if view.get("state") == "error":
            raise AssertionError(f"the job needs a person: {view['error']}")
        return view

    def held(self, seconds: float = HELD_SECONDS) -> dict[str, Any]:
        """Until a checkpoint is held. One is asked for again whenever none is wanted: who asked
        for the first may have died with the receiver."""
        asked = 0.0

        def there() -> Any:
            nonlocal asked
            view = self.view()
            if view and not view["held"] and time.monotonic() >= asked:
                asked = time.monotonic() + 0.5
                self.act("checkpoint", hold=True)
            return view.get("held") and view

        view: dict[str, Any] = until(there, seconds, "a held checkpoint", step=0.05)
        return view

    def identical(self, view: dict[str, Any]) -> None:
        """The held disks are what the source's disks were while frozen, byte for byte."""
        for disk, reference in zip(view["disks"], self._references, strict=True):
            copy = Path(disk["intermediate"])
            assert same_content(copy, reference), f"{disk['path']} differs at {view['epoch']}"

    def resume(self) -> None:
        """Go on after a hold or a pause."""
        self.act("resume")
        until(lambda: self.view().get("state") == "syncing", HELD_SECONDS, "syncing", step=0.05)

    # --- figures ------------------------------------------------------------------------------

    def written(self) -> int:
        """Bytes written to the source's disks since they exist."""
        return sum(map(written_bytes, self.devices))

    def sent(self) -> int:
        """Logical bytes that were acknowledged to the source since its daemon started."""
        job = self.both.status()["job"] or {}
        return int(job.get("logical_bytes", 0))

    def in_flight(self) -> int:
        """Bytes that were under way without an answer: what is sent a second time. Read from
        the maps, which outlive a source that died."""
        return sum(map(_in_flight, (self.both.directory / "sr").glob("*.map")))

    def log_end(self) -> int:
        """How long the source's log is."""
        return self.both.source.log.stat().st_size

    def passes(self, since: int) -> set[str]:
        """The kinds of the passes that began since a place in the source's log, beside delta."""
        with self.both.source.log.open("rb") as log:
            log.seek(since)
            lines = log.read().decode(errors="replace").splitlines()
        kinds: set[str] = set()
        for line in lines:
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if said.get("event") == "pass.began":
                    kinds |= set(said["disks"].values())
        return kinds - {"delta"}

    # --- nothing is left ----------------------------------------------------------------------

    def clean(self) -> None:
        """Nothing is frozen, half made, or anybody's who is dead. While a checkpoint is held."""
        assert not [where for where in self.mounts if is_frozen(where)]
        runtime, storage = self.both.directory / "sr", self.both.storage
        names = {path.name for path in runtime.iterdir()}
        assert not names & {"frozen.json"}
        maps = {name for name in names if ".map" in name}
        assert maps == {f"{self.both.job}-{number}.map" for number in range(len(self.devices))}
        assert {path.name for path in (storage / "disks").iterdir()} == {self.both.job}
        epoch = self.act("show")["epoch"]
        kept = {path.name for path in (storage / "snapshots" / self.both.job).iterdir()}
        assert kept == {str(epoch)}
        assert not list((storage / "authority").glob(".*"))


def _in_flight(path: Path) -> int:
    """Bytes in flight, and not suspect, of a dirty map's file."""
    content = path.read_bytes()
    try:
        _, header = decode_newest(content[:HEADER_BYTES])
    except MapRefusedError:
        return 0
    words = page_count(-(-header.size // header.granule)) * PAGE_WORDS
    bits = np.frombuffer(content, dtype="<u8", count=3 * words, offset=HEADER_BYTES)
    _, suspect, flying = np.split(bits, 3)
    return int(np.bitwise_count(flying & ~suspect).sum()) * header.granule


@contextlib.contextmanager
def arena(
    directory: Path,
    kinds: Sequence[str] = tuple(SIZES),
    *,
    snapshots: bool = True,
    host: str = "127.0.0.1",
) -> Iterator[Arena]:
    """Disks, storage and writers; the daemons do not run yet.

    ``kinds``: a disk for each. ``snapshots``: the storage is an xfs of its own. ``host``: where the
    receiver listens.
    """
    with contextlib.ExitStack() as stack:
        disks: dict[str, tuple[str, Path, Path]] = {}
        for kind in kinds:
            image = directory / f"{kind}.img"
            device = stack.enter_context(loop_device(image, SIZES[kind]))
            where = stack.enter_context(mounted(device, directory / kind, kind))
            (where / "ballast").write_bytes(os.urandom(BALLAST))
            disks[kind] = device, image, where
        devices = [device for device, _, _ in disks.values()]
        both = stack.enter_context(pair(devices, start=False, receiver_host=host))
        if snapshots:
            storage = stack.enter_context(loop_device(directory / "storage.img", STORAGE))
            stack.enter_context(mounted(storage, both.storage, "xfs"))
        # Last in, first out: nobody holds a mount when it is taken away.
        stack.callback(both.receiver.kill)
        stack.callback(both.source.kill)
        for where in (each[2] for each in disks.values()):
            flush(where)
            stack.enter_context(busy_writer(where, RATE))
        yield Arena(both, disks, both.directory)
