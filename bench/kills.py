"""``./run bench kills``: every named step at which a daemon can die, and pairs of both sides.

    ./run bench kills                        all steps, then 24 pairs
    ./run bench kills --pairs 300 --seed 7   more pairs, in another order; --pairs all for all
    ./run bench kills --only sender.put      one step (or several, with commas), no pairs;
                                             or a pair: sender.put+sync.done
    ./run bench kills --json                 the table as data

Each death is followed by a checkpoint that is compared byte for byte with the source as it was
while frozen. The table says for each what was in flight (and so is sent again), what the recovery
had to do, and how long it took. Needs root.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from protocol.local.crashpoints import POINTS, Point
from tests.support.arena import Arena, arena
from tests.support.deaths import STEADY, Row, both_live, die_in_turn, die_twice, pairs
from tests.support.lives import Lives

HEAD = ("died at", "side", "grade", "resent MB", "sent MB", "written MB", "died s", "back s")

Deed = Callable[[Arena], Row]


def line(row: Row) -> str:
    """A row of the table."""
    points, sides = " + ".join(row.points), " + ".join(row.sides)
    resent, sent, written = row.resent_bytes / 1e6, row.sent_bytes / 1e6, row.written_bytes / 1e6
    return (
        f"{points:40} {sides:19} {row.grade:8} {resent:10.2f} {sent:10.2f} {written:10.2f}"
        f" {row.die_seconds:8.2f} {row.recover_seconds:8.2f}"
    )


def head() -> str:
    """The table's first line."""
    names = f"{HEAD[0]:40} {HEAD[1]:19} {HEAD[2]:8}"
    return f"{names} {HEAD[3]:>10} {HEAD[4]:>10} {HEAD[5]:>10} {HEAD[6]:>8} {HEAD[7]:>8}"


def _once(point: Point) -> tuple[str, Deed]:
    return point.name, lambda scene: die_in_turn(scene, point)


def _twice(first: Point, second: Point) -> tuple[str, Deed]:
    return f"{first.name}+{second.name}", lambda scene: die_twice(scene, first, second)


def chosen(only: str) -> Iterator[tuple[str, Deed]]:
    """What ``--only`` names."""
    known = {point.name: point for point in POINTS}
    for word in only.split(","):
        names = word.split("+")
        if not all(name in {point.name for point in STEADY} for name in names):
            raise SystemExit(f"{word}: not a step that a running job passes (see crashpoints.py)")
        yield _once(known[names[0]]) if len(names) == 1 else _twice(*(known[n] for n in names[:2]))


def go(scene: Arena, deeds: Iterable[tuple[str, Deed]], tell: Callable[[Row], None]) -> list[str]:
    """One deed after the other; the names of those that failed, with why."""
    failed = []
    for name, deed in deeds:
        try:
            tell(deed(scene))
        except (AssertionError, OSError) as error:
            failed.append(f"{name}: {error}")
            print(f"FAILED {name} (./run bench kills --only {name})", file=sys.stderr)
            traceback.print_exc()
            print(scene.both.logs(), file=sys.stderr)
            both_live(scene)
            scene.held()
            scene.resume()
    return failed


def main(arguments: list[str]) -> int:
    """Run, print, and end with 1 when anything failed."""
    parser = argparse.ArgumentParser("./run bench kills")
    parser.add_argument("--pairs", default="24", help="how many pairs; all")
    parser.add_argument("--seed", type=int, default=1, help="the order of the pairs")
    parser.add_argument("--only", default="", help="steps, or pairs with +, with commas")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    rows: list[Row] = []

    def tell(row: Row) -> None:
        rows.append(row)
        if not options.json:
            print(line(row), flush=True)

    deeds: list[tuple[str, Deed]]
    if options.only:
        deeds = list(chosen(options.only))
    else:
        most = None if options.pairs == "all" else int(options.pairs)
        deeds = [_once(point) for point in STEADY]
        deeds += [_twice(*pair) for pair in islice(pairs(options.seed), most)]
    begun = time.monotonic()
    if not options.json:
        print(head(), flush=True)
    with tempfile.TemporaryDirectory(prefix="replicad-kills-") as directory:
        with arena(Path(directory)) as scene:
            lives = Lives(scene, tell)
            lives.begin()
            failed = go(scene, deeds, tell)
            if not options.only:
                lives.end()
    seconds = time.monotonic() - begun
    if options.json:
        said = {"rows": [row.as_dict() for row in rows], "failed": failed, "seconds": seconds}
        print(json.dumps(said))
    else:
        deaths = sum(len(row.points) for row in rows)
        print(f"{deaths} deaths in {seconds:.0f} s, {len(failed)} failed")
        for failure in failed:
            print(f"  {failure}")
    return 1 if failed else 0
