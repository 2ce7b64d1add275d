"""What do 1,000 sources cost a receiver that have nothing to do?

All are enrolled and connected with TLS; they beat, and so does the receiver. The crowd is a
process of its own (``crowd.py``), so memory and CPU are the receiver's alone.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.contest import MEBIBYTES, SECONDS, Figures, Goal, Metric, Options, Question, Scale, Scene
from bench.crowd import enrol_all
from bench.images import MIB
from bench.leftovers import scratch
from bench.memory import status
from bench.ours import cpu_seconds
from protocol.wire.limits import HEARTBEAT
from tests.support.pair import Pair, pair

LATE = 1.0
"""Seconds by which a sign of life may come later than agreed and still be on time."""


class Crowd:
    """The process with the sources."""

    def __init__(self, both: Pair, count: int, directory: Path) -> None:
        self._both = both
        command = [sys.executable, "-m", "bench.crowd", str(both.control), str(count)]
        self._process = subprocess.Popen(
            [*command, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[1],
        )
        if self._hear() != "ready":
            self.close()
            raise AssertionError("the crowd does not stand")
        self._count = count

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def rest(self, seconds: float) -> Figures:
        """So long nothing happens; what that cost the receiver."""
        pid = self._both.receiver.pid
        self._say("begin")
        self._hear()
        used, begun = cpu_seconds(pid), time.monotonic()
        time.sleep(seconds)
        used, taken = cpu_seconds(pid) - used, time.monotonic() - begun
        self._say("end")
        seen = json.loads(self._hear())
        assert seen["standing"] == self._count, f"{seen['standing']} of {self._count} stand"
        return {"resident": status(pid, "VmRSS"), "cpu": used / taken, "silent": seen["silent"]}

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@contextlib.contextmanager
def crowd(both: Pair, count: int, directory: Path) -> Iterator[Crowd]:
    """A crowd that stands."""
    made = Crowd(both, count, directory)
    try:
        yield made
    finally:
        made.close()


def rested(both: Pair, count: int, seconds: float, directory: Path) -> Figures:
    """The receiver begins anew, so that its memory is of this crowd and not of an earlier one."""
    if both.receiver.running:
        both.receiver.stop()
    both.receiver.start()
    with crowd(both, count, directory) as sources:
        sources.rest(1.0)
        return sources.rest(seconds)


@contextlib.contextmanager
def scene(options: Options) -> Iterator[Scene]:
    """All are registered; crowds of several sizes connect. The goal is about the largest."""
    counts = [options.pick(100, 5), options.pick(300, 15), options.pick(1000, 60)]
    # long enough for several signs of life of each
    seconds = options.pick(30, 4)
    with pair([], start=False) as both, scratch() as directory:
        both.receiver.start()
        code = both.receiver.ask("activation.create", uses=counts[-1])["code"]
        enrol_all(directory, counts[-1], code, both.control)
        runs = {
            name: partial(rested, both, count, seconds, directory)
            for name, count in zip(NAMES, counts, strict=True)
        }
        at = dict(zip(NAMES, map(float, counts), strict=True))
        notes = [f"few, some, many: {counts[0]}, {counts[1]} and {counts[2]} are connected"]
        scale = Scale("resident", "sources that are connected", at, False)
        yield Scene(dict(runs), notes=notes, scale=scale)


NAMES = ("few", "some", "many")

QUESTION = Question(
    name="idle_sources",
    title="the receiver with 1,000 registered sources that are idle",
    metrics={"resident": MEBIBYTES, "cpu": Metric("% of a core", 100, 2), "silent": SECONDS},
    goals=(
        Goal("resident under 250 MiB", "resident", "<=", 250 * MIB, ours="many", statistic="max"),
        Goal("CPU under 5 % of one core", "cpu", "<=", 0.05, ours="many", statistic="max"),
        Goal(
            f"a sign of life every {HEARTBEAT:g} s, at most {LATE:g} s late",
            "silent",
            "<=",
            HEARTBEAT + LATE,
            ours="many",
            statistic="max",
        ),
    ),
    scene=scene,
    rounds=(5, 1),
    warm_up=False,
)
