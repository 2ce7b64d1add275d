"""For how long does a checkpoint freeze a filesystem that is busy?

ext4 on a loop disk in memory; fio writes 20 MB/s of random blocks, a database (SQLite) commits one
small transaction after the other, each synced. Frozen is what the daemon says; beside it stand the
longest time for which a writer, who knows nothing of us, could not write to the page cache, and the
longest commit. Each copy is held and must pass ``e2fsck``; the last one, of the unmounted disk, is
compared byte for byte.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.contest import MILLISECONDS, Figures, Goal, Options, Question, Scene
from bench.fio import beside
from bench.images import GIB, MIB
from bench.leftovers import scratch
from bench.loops import filesystem, sparse_loop
from bench.ours import Ours, ours
from tests.support.stall import Observer

WRITES = ("--rw=randwrite", "--bs=16k", "--rate=20m", "--ioengine=psync")

_DATABASE = """
import sqlite3, sys, time
base = sqlite3.connect(sys.argv[1], isolation_level=None)
base.execute("PRAGMA journal_mode=WAL")
base.execute("PRAGMA synchronous=FULL")
base.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, said TEXT)")
while True:
    begun = time.monotonic()
    base.execute("INSERT INTO t (said) VALUES (?)", ("x" * 200,))
    print(time.monotonic() - begun, flush=True)
    time.sleep(0.002)
"""


class Database:
    """A process that commits again and again, and says how long each commit took."""

    def __init__(self, where: Path, said: Path) -> None:
        self._said = said
        with said.open("wb") as out:
            command = [sys.executable, "-I", "-c", _DATABASE, str(where / "base.sqlite")]
            self._process = subprocess.Popen(command, stdout=out, stdin=subprocess.DEVNULL)
        self._read = 0

    def longest(self) -> float:
        """Seconds of the longest commit since the last call.

        Raises:
            AssertionError: it has ended, or committed nothing.
        """
        assert self._process.poll() is None, "the database has ended"
        with self._said.open("rb") as said:
            said.seek(self._read)
            lines = said.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._read += len(whole)
        assert whole, "the database committed nothing"
        return max(map(float, whole.split()))

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def frozen(we: Ours, observer: Observer, database: Database) -> Figures:
    """One checkpoint, held and checked."""
    observer.restart()
    database.longest()
    taken = we.both.checkpoint("--hold")
    observer.goes_on(20)
    figures = {
        "frozen": float(taken["frozen_seconds"]),
        "pause": observer.stalled,
        "commit": database.longest(),
    }
    check = ["e2fsck", "-fn", str(we.both.intermediate())]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    # 4 is "errors left", and a journal that wants to be played is none
    assert done.returncode == 0, f"the copy is damaged: {done.stdout}{done.stderr}"
    we.both.resume()
    we.both.synced()
    return figures


@contextlib.contextmanager
def scene(options: Options) -> Iterator[Scene]:
    """The busy disk; at the end it is unmounted and compared."""
    size = options.bytes(2 * GIB, 256 * MIB)
    with (
        scratch() as directory,
        sparse_loop(image := directory / "disk.img", size) as device,
        ours([device]) as we,
    ):
        with filesystem(device, directory / "mnt", "ext4") as where:
            database = Database(where, directory / "commits")
            try:
                with beside([*WRITES, f"--size={size // 2}"], where), Observer(where) as observer:
                    we.both.create()
                    we.both.synced()
                    yield Scene({"replicad": lambda: frozen(we, observer, database)}, size=size)
            finally:
                database.close()
        we.both.checkpoint("--hold")
        we.check(image)


QUESTION = Question(
    name="freeze",
    title="a checkpoint of a busy ext4: fio at 20 MB/s, a database that commits all the time",
    metrics={"frozen": MILLISECONDS, "pause": MILLISECONDS, "commit": MILLISECONDS},
    goals=(
        Goal("frozen: p95 under 300 ms", "frozen", "<=", 0.3, statistic="p95"),
        Goal("a writer's longest pause", "pause", "<=", None, statistic="max"),
        Goal("the database's longest commit", "commit", "<=", None, statistic="max"),
    ),
    scene=scene,
    rounds=(20, 3),
    root=True,
    warm_up=False,
)
