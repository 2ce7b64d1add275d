"""``./run test-mutations [NAME...]``: break each promise, see that the tests notice, print a table.

Without names all are applied; ``--quick`` applies those that CI applies, ``--list`` only lists.
First everything must pass unbroken. Exit code 0: all were noticed.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from tests.mutations.document import document
from tests.mutations.listed import MUTATIONS
from tests.mutations.mutation import Mutation
from tests.mutations.runner import Copy, Verdict


def chosen(names: list[str], *, quick: bool) -> list[Mutation]:
    """The mutations that are named, or all; SystemExit for a name that there is not."""
    by_name = {mutation.name: mutation for mutation in MUTATIONS}
    if unknown := [name for name in names if name not in by_name]:
        sys.exit(f"no such mutation: {', '.join(unknown)} (see --list)")
    wanted = [by_name[name] for name in names] or list(MUTATIONS)
    return [mutation for mutation in wanted if mutation.quick or not quick]


def row(verdict: Verdict) -> str:
    """One line of the table."""
    mutation = verdict.mutation
    caught = [test for test in mutation.tests if test not in verdict.survived]
    said = ", ".join(test.split("/")[-1] for test in caught)
    if verdict.survived:
        said = f"SURVIVED {', '.join(verdict.survived)}" + (f"; caught by {said}" if said else "")
    return f"{mutation.name:44} {mutation.promise:>2}  {verdict.seconds:6.1f} s  {said}"


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="./run test-mutations", description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--document", action="store_true", help="print docs/promises.md")
    parser.add_argument("--unbroken", action="store_true", help="only see that all tests pass")
    parser.add_argument("--show", action="store_true", help="what pytest said of survivors")
    options = parser.parse_args()
    if options.document:
        print(document(), end="")
        return 0
    mutations = chosen(options.names, quick=options.quick)
    if options.list:
        for mutation in mutations:
            print(f"{mutation.name:44} {mutation.promise:>2}  {', '.join(mutation.files)}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="replicad-mutations-") as directory:
        return apply_all(Copy(Path(directory)), mutations, options)


def apply_all(copy: Copy, mutations: list[Mutation], options: argparse.Namespace) -> int:
    """Unbroken first, then one after the other; the table as it comes."""
    tests = sorted({test for mutation in mutations for test in mutation.tests})
    passed, said = copy.passing(tests)
    if broken := set(tests) - set(passed):
        print(said)
        print(f"unbroken, these fail already: {', '.join(sorted(broken))}")
        return 1
    if options.unbroken:
        return 0
    verdicts = []
    for mutation in mutations:
        verdicts.append(verdict := copy.run(mutation))
        print(row(verdict), flush=True)
        if options.show and not verdict.caught:
            print(verdict.output)
    survivors = [verdict for verdict in verdicts if not verdict.caught]
    seconds = sum(verdict.seconds for verdict in verdicts)
    print(f"{len(verdicts)} mutations, {len(survivors)} survived, {seconds:.0f} s")
    return 1 if survivors else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
