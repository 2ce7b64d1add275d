"""A seed on the line: trouble for a while, then quiet, and what must be true then.

The job goes on by itself within a bounded time, without a person; the next checkpoint is identical;
neither daemon keeps a descriptor, a thread or a connection more than before; nobody reconnects like
mad; what was sent is what was written and what the trouble caught in flight; and no old connection
writes anything: whatever it said is said again while the disks stand still.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.support.arena import Arena, arena
from tests.support.line import RECEIVER, Line
from tests.support.loops import MIB
from tests.support.pair import until
from tests.support.plans import Plan, plan

STRIKE_SECONDS = 3.0
"""That a plan waits for its trouble, when nothing was said that it could happen to."""

HEARTBEAT = 1
"""Seconds of the receiver's ``[limits] heartbeat``: silence is noticed after three."""

RECOVER_SECONDS = 30.0
"""From the quiet line until it works again, at the heartbeat of the campaign: a handshake that
nobody answers (15 s), silence (3.5 s), and the longest wait between attempts (10 s)."""

CALM_FACTOR = 10.0
"""Then comes a checkpoint, which may take so many times what it took at the beginning."""

CALM_SECONDS = 1.5
"""What it takes at least, on a machine that has nothing else to do."""

IN_FLIGHT = 24 * MIB
"""Bytes that one lost session may have under way at the arena's rate."""

SETTLE_SECONDS = 30.0
"""In which what was replaced is closed: handshakes of which nothing comes have 15 s."""

THREADS_MORE = 40
"""Threads that pools may have made since the beginning; they are bounded, and made when needed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a seed led to.

    ``recover_seconds``: from the quiet line to an identical, held checkpoint. ``connections``: made
    of the control port and of the data port. ``struck``: troubles that happened, of those that
    were planned. ``wire_bytes``: given to data connections. ``dead``: connections that the line
    had lost and that still stood at the end.
    """

    seed: int
    kind: str
    recover_seconds: float
    connections: tuple[int, int]
    struck: int
    wire_bytes: int
    written_bytes: int
    dead: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Storm:
    """One pair behind two lines that lives through many seeds. Make with :func:`storm`."""

    def __init__(self, arena: Arena, control: Line, data: Line) -> None:
        self._arena = arena
        self._lines = {"control": control, "data": data}
        self._limit = 0.0
        self._open: dict[int, int] = {}
        self._threads: dict[int, int] = {}

    def begin(self) -> None:
        """First copy, first checkpoint; what the daemons have open then is what they may have."""
        arena = self._arena
        arena.both.start()
        arena.both.create("--freeze-budget", "30s")
        arena.both.synced()
        begun = time.monotonic()
        arena.identical(arena.held())
        calm = max(CALM_SECONDS, time.monotonic() - begun)
        self._limit = RECOVER_SECONDS + CALM_FACTOR * calm
        for pid in self._pids():
            self._open[pid], self._threads[pid] = _open(pid), _threads(pid)
        arena.resume()

    def _pids(self) -> tuple[int, int]:
        return self._arena.both.source.pid, self._arena.both.receiver.pid

    def round(self, seed: int) -> Outcome:
        """One seed.

        Raises:
            AssertionError: a promise is broken.
        """
        arena, script = self._arena, plan(seed)
        written, wire, made = arena.written(), self._wire(), self._made()
        struck = self._struck()
        logs = [(process.log, process.log.stat().st_size) for process in self._processes()]
        begun = time.monotonic()
        self._play(script, begun)
        quiet = time.monotonic()
        view = arena.held(self._limit)
        recovered = time.monotonic() - quiet
        copy = Path(view["disks"][0]["intermediate"])
        before = copy.stat().st_mtime_ns
        self._say_again()
        arena.identical(view)
        assert copy.stat().st_mtime_ns == before, "written while it stands at a checkpoint"
        control, data = (now - then for now, then in zip(self._made(), made, strict=True))
        dead = sum(line.bury() for line in self._lines.values())
        self._nothing_kept()
        sent, changed = self._wire() - wire, arena.written() - written
        struck = self._struck() - struck
        took = round(recovered, 2)
        outcome = Outcome(seed, script.kind, took, (control, data), struck, sent, changed, dead)
        seconds = time.monotonic() - begun
        assert control <= 6 + seconds, f"a storm: {outcome}"
        assert data <= 12 + 2 * seconds, f"a storm: {outcome}"
        sessions = 1 + data // 2 + control
        assert sent <= 1.25 * changed + sessions * IN_FLIGHT, outcome
        for log, at in logs:
            assert not _bugs(log, at), _bugs(log, at)
        arena.resume()
        return outcome

    def _processes(self) -> tuple[Any, Any]:
        return self._arena.both.source, self._arena.both.receiver

    def _made(self) -> tuple[int, int]:
        return self._lines["control"].made, self._lines["data"].made

    def _wire(self) -> int:
        job = self._arena.both.status()["job"] or {}
        return int(job.get("wire_bytes", 0))

    def _play(self, script: Plan, begun: float) -> None:
        """Let everything loose in its time, and make it quiet."""
        struck = self._struck()
        steps: list[tuple[float, Any]] = [
            (when, lambda t=trouble: self._lines[t.port].trouble(t))
            for when, trouble in script.troubles
        ]
        steps += [(when, self._lines[port].cut_all) for when, port in script.cuts]
        steps.append((script.ask, lambda: self._arena.act("checkpoint", hold=True)))
        for when, step in sorted(steps, key=lambda pair: pair[0]):
            time.sleep(max(0.0, begun + when - time.monotonic()))
            step()
        time.sleep(max(0.0, begun + script.seconds - time.monotonic()))
        with contextlib.suppress(AssertionError):
            until(lambda: self._struck() > struck, STRIKE_SECONDS, "any trouble", step=0.02)
        for line in self._lines.values():
            line.quiet()

    def _struck(self) -> int:
        return sum(line.struck for line in self._lines.values())

    def _say_again(self) -> None:
        """What data connections said in this round and before, once more, to the receiver."""
        for said in self._lines["data"].recordings[-4:]:
            with contextlib.suppress(OSError):
                with socket.create_connection(self._lines["data"].to, 5) as sock:
                    sock.settimeout(5)
                    sock.sendall(bytes(said[:MIB]))
                    while sock.recv(1 << 16):
                        pass
        del self._lines["data"].recordings[:-8]

    def _nothing_kept(self) -> None:
        """As many descriptors as at the beginning, soon; no more threads than pools have."""

        def more() -> dict[str, int]:
            names = ("source", "receiver")
            pairs = zip(names, self._pids(), strict=True)
            found = {name: _open(pid) - self._open[pid] for name, pid in pairs}
            return {name: count for name, count in found.items() if count > 1}

        with contextlib.suppress(AssertionError):
            until(lambda: not more(), SETTLE_SECONDS, "as few descriptors as before", step=0.05)
        assert not more(), {name: _descriptors(pid) for name, pid in zip(more(), self._pids())}  # noqa: B905
        for pid in self._pids():
            assert _threads(pid) <= self._threads[pid] + THREADS_MORE


def _open(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def _descriptors(pid: int) -> list[str]:
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(f"{entry.name} {entry.readlink()}")
    return found


def _bugs(log: Path, at: int) -> list[str]:
    """Lines of a log that nobody meant to write."""
    with log.open("rb") as file:
        file.seek(at)
        lines = file.read().decode(errors="replace").splitlines()
    return [line for line in lines if '.bug"' in line or "Traceback" in line]


@contextlib.contextmanager
def storm(directory: Path, heartbeat: int = HEARTBEAT) -> Iterator[Storm]:
    """A running pair with one written ext4 disk, behind two lines."""
    with (
        arena(directory, ["ext4"], snapshots=False, host=RECEIVER) as scene,
        Line(RECEIVER, scene.both.control) as control,
        Line(RECEIVER, scene.both.data, framed=True) as data,
    ):
        with scene.both.receiver.config.open("a") as config:
            config.write(f"[limits]\nheartbeat = {heartbeat}\n")
        it = Storm(scene, control, data)
        it.begin()
        yield it
