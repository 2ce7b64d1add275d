"""``./run test-vm [KERNEL...]``: every check on every kernel, and a table of what came out."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence

from tests.vm import campaign, images
from tests.vm.mirror import MirrorFailed, NoMirror


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="./run test-vm", description=__doc__)
    names = ", ".join(images.KERNELS)
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help=f"which of {names}")
    parser.add_argument("--check", action="append", help="only this check; again for more")
    parser.add_argument("--brief", action="store_true", help="some checks, the quick ones")
    parser.add_argument("--fresh", action="store_true", help="build every image anew")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.kernels) - set(images.KERNELS):
        parser.error(f"no kernel {', '.join(sorted(unknown))}; there are {names}")
    if asked.fresh:
        shutil.rmtree(images.cache(), ignore_errors=True)
    checks = campaign.BRIEF_CHECKS if asked.brief else campaign.EVERYTHING
    if asked.check:
        if unknown := set(asked.check) - {check.name for check in checks}:
            parser.error(f"no check {', '.join(sorted(unknown))}")
        checks = tuple(check for check in checks if check.name in asked.check)
    results: list[campaign.Result] = []
    try:
        for name in asked.kernels or list(images.KERNELS):
            for result in campaign.run_kernel(images.KERNELS[name], checks, print):
                mark = "ok" if result.passed else f"FAILED\n{result.said}"
                print(f"vm: {name} {result.check}: {mark} ({result.seconds:.1f} s)", flush=True)
                results.append(result)
    except (NoMirror, MirrorFailed, images.BuildFailed) as error:
        print(f"vm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vm: stopped", file=sys.stderr)
        return 130
    finally:
        print(campaign.table(results))
    return 0 if results and all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
