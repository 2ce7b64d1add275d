"""Up to which gap between two dirty ranges is it cheaper to read the gap as well?

Reads pairs of 4 KiB granules that lie a given distance apart, once with two calls and once with
one call that reads the gap into a buffer that nobody looks at, alternating. The break-even is
what :data:`replicad.reader.GAP` should be near: below it a call costs more than the bytes.

    python -m bench.reader_gap PATH     a block device or a large file; O_DIRECT, read only
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import time

from protocol.link.buffers import Buffer

GRANULE = 4096
GAPS = tuple(1 << shift for shift in range(12, 19))
"""Bytes between the two granules: 4 KiB to 256 KiB."""
PAIRS = 300
ROUNDS = 7


def measure(descriptor: int, size: int, gap: int) -> tuple[float, float]:
    """Microseconds a pair: (two calls, one call), medians over alternating rounds."""
    wanted, trash = Buffer(2 * GRANULE), Buffer(gap)
    first, second = wanted.view[:GRANULE], wanted.view[GRANULE:]
    span = 2 * GRANULE + gap
    apart, together = [], []
    for round_ in range(ROUNDS):
        chance = random.Random(round_)
        places = [chance.randrange((size - span) // GRANULE) * GRANULE for _ in range(PAIRS)]
        begun = time.perf_counter()
        for place in places:
            os.preadv(descriptor, [first], place)
            os.preadv(descriptor, [second], place + GRANULE + gap)
        middle = time.perf_counter()
        for place in places:
            os.preadv(descriptor, [first, trash.view, second], place)
        apart.append(middle - begun)
        together.append(time.perf_counter() - middle)
    scale = 1e6 / PAIRS
    return statistics.median(apart) * scale, statistics.median(together) * scale


def main(arguments: list[str]) -> int:
    """Print a table, or JSON with ``--json``."""
    paths = [argument for argument in arguments if not argument.startswith("-")]
    if len(paths) != 1:
        print("usage: python -m bench.reader_gap PATH [--json]", file=sys.stderr)
        return 2
    descriptor = os.open(paths[0], os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        rows = [(gap, *measure(descriptor, size, gap)) for gap in GAPS]
    finally:
        os.close(descriptor)
    if "--json" in arguments:
        print(json.dumps([dict(zip(("gap", "two", "one"), row, strict=True)) for row in rows]))
        return 0
    print(f"{'gap':>10} {'two calls':>12} {'one call':>12} {'one / two':>10}")
    for gap, apart, together in rows:
        print(f"{gap:>10} {apart:>9.1f} us {together:>9.1f} us {together / apart:>10.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
