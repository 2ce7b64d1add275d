"""``./run fuzz [TARGET ...]``: every target, so many seconds each; findings are kept.

Two engines over the same targets. ``atheris`` is libFuzzer with the coverage of our own Python
code; it is no part of the locks (docs/decisions/0125) and is installed beside them when it is
first wanted. ``hypothesis`` makes input from the shapes of our messages; it is always there.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.fuzz.engines import ENGINES, EngineMissingError, Outcome, keep
from tests.fuzz.registry import Target, all_targets

PLACE = Path(__file__).resolve().parents[2] / ".fuzz"
"""Working corpora and findings; not committed."""


def main(arguments: list[str]) -> int:
    """0: nothing was found; 1: something was, and is kept; 2: usage; 130: interrupted."""
    options = _options(arguments)
    targets = all_targets()
    if options.list:
        for name, target in targets.items():
            doc = (target.run.__doc__ or "").strip().partition("\n")[0]
            print(f"{name:24} {len(target.kept()):3} kept  {doc}")
        return 0
    unknown = sorted(set(options.targets) - set(targets))
    if unknown:
        print(f"no such target: {', '.join(unknown)}; --list shows them", file=sys.stderr)
        return 2
    chosen = [targets[name] for name in options.targets or targets]
    outcomes: list[Outcome] = []
    try:
        for target in chosen:
            outcome = _run(target, options)
            outcomes.append(outcome)
            if not options.json:
                print(outcome, flush=True)
    except EngineMissingError as error:
        print(f"{error}; --engine hypothesis needs nothing", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped after {len(outcomes)} of {len(chosen)} targets", file=sys.stderr)
        _print(outcomes, as_json=options.json)
        return 130
    _print(outcomes, as_json=options.json)
    return 1 if any(outcome.findings for outcome in outcomes) else 0


def _run(target: Target, options: argparse.Namespace) -> Outcome:
    outcome = ENGINES[options.engine](target, options.seconds, PLACE)
    if options.keep and not outcome.findings:
        keep(target, PLACE)
    return outcome


def _print(outcomes: list[Outcome], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([outcome.as_dict() for outcome in outcomes]))
        return
    found = [path for outcome in outcomes for path in outcome.findings]
    inputs = sum(outcome.inputs for outcome in outcomes)
    print(f"{len(outcomes)} targets, {inputs} inputs, {len(found)} findings")
    for path in found:
        print(f"  {path}: when it is mended, move it to tests/fuzz/corpus/{path.parent.name}/")


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./run fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target (60)")
    parser.add_argument("--engine", choices=sorted(ENGINES), default="atheris")
    parser.add_argument(
        "--keep",
        action="store_true",
        help="afterwards keep the smallest inputs that reach new code in tests/fuzz/corpus",
    )
    parser.add_argument("--list", action="store_true", help="show the targets and end")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
