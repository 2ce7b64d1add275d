"""``./run bench wire``: a seeded bad line between the daemons, and how long they take to recover.

    ./run bench wire --seeds 500             seeds 0 to 499; in each something else happens
    ./run bench wire --from 500 --seeds 100  others
    ./run bench wire --seed 17               one, again and again the same
    ./run bench wire --heartbeat 10          as users have it; 1 by default, to be done sooner
    ./run bench wire --json                  every seed as data

After each seed the line is quiet, and within 45 s (a busy machine has more: tests/support/storm.py)
a checkpoint must be held that is identical to the frozen source, without a person, a leak, a storm
of connections, or more bytes than need be. The table says for each kind of trouble how long that
took. Needs root.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from pathlib import Path

from tests.support.plans import plan
from tests.support.storm import HEARTBEAT, Outcome, storm


def table(outcomes: list[Outcome]) -> str:
    """By kind of trouble."""
    kinds: defaultdict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        kinds[outcome.kind].append(outcome)
    head = f"{'what':24} {'seeds':>5} {'struck':>6} {'median s':>9} {'max s':>7}"
    lines = [f"{head} {'control':>8} {'data':>6}"]
    for kind, found in sorted(kinds.items()):
        seconds = [outcome.recover_seconds for outcome in found]
        control, data = (statistics.mean(o.connections[i] for o in found) for i in (0, 1))
        struck = sum(outcome.struck > 0 for outcome in found)
        lines.append(
            f"{kind:24} {len(found):5} {struck:6} {statistics.median(seconds):9.2f}"
            f" {max(seconds):7.2f} {control:8.1f} {data:6.1f}"
        )
    seconds = [outcome.recover_seconds for outcome in outcomes] or [0.0]
    struck = sum(outcome.struck > 0 for outcome in outcomes)
    lines.append(
        f"{'all':24} {len(outcomes):5} {struck:6} {statistics.median(seconds):9.2f}"
        f" {max(seconds):7.2f}"
    )
    return "\n".join(lines)


def campaign(seeds: list[int], heartbeat: int) -> tuple[list[Outcome], list[str]]:
    """Outcomes, and the seeds that failed with why. A failure ends the pair; another goes on."""
    outcomes: list[Outcome] = []
    failed: list[str] = []
    left = list(seeds)
    while left:
        with tempfile.TemporaryDirectory(prefix="replicad-wire-") as directory:
            try:
                with storm(Path(directory), heartbeat) as it:
                    while left:
                        outcomes.append(it.round(left.pop(0)))
                        print(outcomes[-1], file=sys.stderr, flush=True)
            except (AssertionError, OSError) as error:
                seed = seeds[len(seeds) - len(left) - 1]
                failed.append(f"seed {seed} ({plan(seed).kind}): {error}")
                print(f"FAILED: ./run bench wire --seed {seed}", file=sys.stderr)
                print(plan(seed), file=sys.stderr)
                traceback.print_exc()
    return outcomes, failed


def main(arguments: list[str]) -> int:
    """Run, print, and end with 1 when a seed failed."""
    parser = argparse.ArgumentParser("./run bench wire")
    parser.add_argument("--seeds", type=int, default=500, help="how many")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first of them")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--heartbeat", type=int, default=HEARTBEAT, help="seconds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    seeds = list(range(options.first, options.first + options.seeds))
    if options.seed is not None:
        seeds = [options.seed]
    begun = time.monotonic()
    outcomes, failed = campaign(seeds, options.heartbeat)
    seconds = time.monotonic() - begun
    if options.json:
        rows = [outcome.as_dict() for outcome in outcomes]
        print(json.dumps({"seeds": rows, "failed": failed, "seconds": seconds}))
    else:
        print(table(outcomes))
        print(f"{len(seeds)} seeds in {seconds:.0f} s, {len(failed)} failed")
        for failure in failed:
            print(f"  {failure}")
    return 1 if failed else 0
