"""The proxy of ``longline_proxy.py`` as a thing to use."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROUND_TRIP = 0.080
"""Seconds there and back: between two continents' near coasts."""

RATE = 100e6
"""Bytes a second each way."""


class LongLine:
    """The line. Make with :func:`long_line`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def _ask(self, order: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{order}\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def cut(self, every: float) -> None:
        """From now on cut one connection in so many connection-seconds; 0: none."""
        self._ask(f"cut {every}")

    def standing(self) -> int:
        """How many connections stand now."""
        return int(self._ask("seen")["standing"])

    def cuts(self) -> int:
        """How many connections were cut so far."""
        return int(self._ask("seen")["cuts"])


@contextlib.contextmanager
def long_line(*ways: tuple[str, str], rate: float = RATE) -> Iterator[LongLine]:
    """A line that carries from each first to each second address, until the end."""
    addresses = [address for way in ways for address in way]
    command = [sys.executable, "-m", "bench.longline_proxy"]
    process = subprocess.Popen(
        [*command, f"--rate={rate}", f"--delay={ROUND_TRIP / 2}", *addresses],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise AssertionError("the long line does not stand")
        yield LongLine(process)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
