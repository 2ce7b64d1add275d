"""What a frame does is done in steps, and between two of them a fence is heard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from protocol.errors import SESSION_FENCED, Fault
from protocol.wire.frames import Digests, Segment
from protocol.wire.limits import BLOCK, BUFFER, DIGEST_SIZE
from receiver.applying import Applier
from receiver.comparing import RANGES_AT_ONCE

RANGES = 5 * RANGES_AT_ONCE


class Fenced:
    """A session that is fenced off while its first ranges are read."""

    size = 4 * RANGES * BLOCK
    still = False

    def __init__(self) -> None:
        self.over = False
        self.read_ranges = 0

    def disk(self, _: int) -> Any:
        return self

    def read(self, ranges: Sequence[tuple[int, int]], _: memoryview) -> int:
        self.read_ranges += len(ranges)
        self.over = True
        return sum(length for _, length in ranges)


def test_a_fence_waits_for_a_few_ranges_of_a_comparison_only() -> None:
    """They are small and far apart: a dying disk takes seconds for each."""
    session = Fenced()
    ranges = tuple(Segment(2 * number * BLOCK, BLOCK) for number in range(RANGES))
    applier = Applier(session, seed=1)
    payload = memoryview(bytes(RANGES * DIGEST_SIZE))
    with pytest.raises(Fault) as refused:
        applier.digests(Digests(0, BLOCK, ranges), payload, memoryview(bytearray(BUFFER)))
    assert refused.value.code == SESSION_FENCED.code
    assert session.read_ranges == RANGES_AT_ONCE
