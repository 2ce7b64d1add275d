"""Sender threads leave the processors to others, except while something is frozen."""

from __future__ import annotations

import os

import pytest

from replicad.latency import NICE
from replicad.transfer import Transfer
from tests.replicad.engine.test_interrupted import run_case
from tests.support.copying import Bench

pytestmark = pytest.mark.timeout(60)


def niceness(transfer: Transfer) -> set[int]:
    """Of its senders."""
    threads = [sender.native_id for sender in transfer._senders.values()]
    return {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads if thread}


@pytest.mark.root
def test_senders_hurry_while_something_is_frozen() -> None:
    async def case(it: Bench) -> None:
        async with await it.transfer() as transfer:
            assert niceness(transfer) == {NICE}
            with transfer.hurry():
                assert niceness(transfer) == {0}
            assert niceness(transfer) == {NICE}

    run_case(case)
