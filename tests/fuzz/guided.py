"""One target under libFuzzer, in a process of its own: ``python -m tests.fuzz.guided TARGET ...``.

Our packages are instrumented as they are imported, so this must happen before the targets are.
"""

from __future__ import annotations

import sys

import atheris

INSTRUMENTED = ["protocol", "receiver", "replicad"]


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.registry import all_targets

        targets = all_targets()  # which imports them, and so what they test
    target = targets[sys.argv[1]]
    list(target.seeds())  # keys and certificates are made once, not in the first input
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
