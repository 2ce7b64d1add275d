"""``./run bench``: how fast is it, beside those whom people use today?

    ./run bench                    every question, full size; wants a quiet machine
    ./run bench --quick            every question, small: that all of it runs, in three minutes
    ./run bench full_pass delta    those named; --list says which there are
    ./run bench --json             as data; --svg DIR also draws what scales

Ends with 0; 1 when a question failed (a copy differs, a contestant broke) or, in a full run, a
goal is missed; 2 for a question that there is not; 130 when interrupted. Whatever happens, nothing
is left behind: no process, no loop device, no mount, no file.

``./run bench kills`` and ``./run bench wire`` are campaigns, with words of their own: ``--help``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from bench.contest import Answer, Options, Question, ask, tell
from bench.leftovers import clean_exit, reap
from bench.svg import plot
from bench.telling import SCHEMA, as_dict, machine, table

QUESTIONS = (
    *("full_pass", "mixed_image", "delta", "compare_pass", "cpu"),
    *("tracker_cost", "freeze", "memory", "drain", "idle_sources", "many_jobs"),
    *("long_line", "free_space", "foreground", "stages"),
)
CAMPAIGNS = ("kills", "wire")
"""They compare nothing: they look for what breaks, and say how long it took to mend itself."""


def load(name: str) -> Question:
    """The question of a file of this package."""
    question: Question = importlib.import_module(f"bench.{name}").QUESTION
    return question


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("./run bench", description="see bench/README.md")
    parser.add_argument("names", nargs="*", metavar="NAME", help="questions; all by default")
    parser.add_argument("--quick", action="store_true", help="small sizes, two rounds")
    parser.add_argument("--json", action="store_true", help="as data on standard output")
    parser.add_argument("--svg", type=Path, metavar="DIR", help="plots of what scales go there")
    parser.add_argument("--rounds", type=int, help="how often each contestant runs")
    parser.add_argument("--list", action="store_true", help="which questions there are")
    chosen = parser.parse_args(arguments)
    if chosen.rounds is not None and chosen.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if unknown := [name for name in chosen.names if name not in QUESTIONS]:
        known = ", ".join((*QUESTIONS, *CAMPAIGNS))
        parser.error(f"no such question: {', '.join(unknown)} (there are: {known})")
    return chosen


def one(name: str, options: Options) -> tuple[Answer | None, dict[str, Any]]:
    """Ask a question; what it gave, and that as data. A failure is told and is data as well."""
    question = load(name)
    begun = time.monotonic()
    if question.root and os.geteuid() != 0:
        return None, {"name": name, "title": question.title, "error": "needs root"}
    try:
        answer = ask(question, options)
    except (AssertionError, OSError) as error:
        traceback.print_exc()
        return None, {"name": name, "title": question.title, "error": str(error)}
    finally:
        reap()
    return answer, as_dict(answer, time.monotonic() - begun)


def main(arguments: list[str]) -> int:
    """Run and print."""
    if arguments and arguments[0] in CAMPAIGNS:
        code: int = importlib.import_module(f"bench.{arguments[0]}").main(arguments[1:])
        return code
    chosen = parse(arguments)
    if chosen.list:
        for name in QUESTIONS:
            print(f"{name:14} {load(name).title}")
        return 0
    options = Options(quick=chosen.quick, rounds=chosen.rounds)
    before, found, missed = machine(), [], 0
    for name in chosen.names or QUESTIONS:
        tell(name)
        answer, data = one(name, options)
        found.append(data)
        if answer is not None:
            missed += sum(not verdict.met for verdict in answer.verdicts)
            if chosen.svg is not None and answer.scale is not None:
                chosen.svg.mkdir(parents=True, exist_ok=True)
                (chosen.svg / f"{name}.svg").write_text(plot(answer))
        if not chosen.json:
            print(table(answer) if answer else f"{name}: FAILED: {data['error']}", end="\n\n")
            sys.stdout.flush()
    if chosen.json:
        said = {"schema": SCHEMA, "quick": chosen.quick, "machine": before, "questions": found}
        print(json.dumps(said))
    failed = sum(data["error"] is not None for data in found)
    if not chosen.json:
        print(f"{len(found)} questions, {failed} failed, {missed} goals missed")
        if chosen.quick:
            print("a quick run says that everything works, not how fast: its goals do not count")
    return 1 if failed or (missed and not chosen.quick) else 0


if __name__ == "__main__":
    with clean_exit():
        sys.exit(main(sys.argv[1:]))
