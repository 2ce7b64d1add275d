"""``./run bench [--quick] [--json] [NAME ...]``: all questions, or those named.

``./run bench kills`` and ``./run bench wire`` are campaigns, with words of their own: ``--help``.
"""

from __future__ import annotations

import importlib
import json
import sys

from bench.compare import Options

QUESTIONS = ("full_pass",)
CAMPAIGNS = ("kills", "wire")
"""They compare nothing: they look for what breaks, and say how long it took to mend itself."""


def main(arguments: list[str]) -> int:
    """Run and print; 2 for an unknown question."""
    if arguments and arguments[0] in CAMPAIGNS:
        code: int = importlib.import_module(f"bench.{arguments[0]}").main(arguments[1:])
        return code
    options = Options(quick="--quick" in arguments)
    names = [argument for argument in arguments if not argument.startswith("-")] or QUESTIONS
    if unknown := [name for name in names if name not in QUESTIONS]:
        known = ", ".join((*QUESTIONS, *CAMPAIGNS))
        print(f"no such question: {', '.join(unknown)} (there are: {known})")
        return 2
    contests = [importlib.import_module(f"bench.{name}").run(options) for name in names]
    if "--json" in arguments:
        print(json.dumps([contest.as_dict() for contest in contests]))
    else:
        print("\n\n".join(map(str, contests)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
