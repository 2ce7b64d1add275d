"""What the receiver remembers is on stable storage before anybody is told that it is."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from receiver.memory import Memory
from tests.receiver.test_session import eventually, opened, run
from tests.support.datalink import Harness

pytestmark = pytest.mark.timeout(60)


def test_an_ack_waits_for_the_record_of_what_it_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, entered = threading.Event(), threading.Event()
    real = Memory.note

    def note(self: Memory, acked: dict[int, int]) -> None:
        entered.set()
        assert gate.wait(20)
        real(self, acked)

    monkeypatch.setattr(Memory, "note", note)

    async def work() -> None:
        harness = Harness()
        async with opened(harness) as (_, (link,)):
            await link.write(0)
            await link.fence()
            await eventually(entered.is_set)
            await eventually(lambda: harness.disks[0].syncs)
            await asyncio.sleep(0.1)  # whoever does not wait has acknowledged by now
            assert link.connection.acked == -1
            gate.set()
            await link.acks(1)

    run(work)


def test_each_record_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    real = os.pwrite

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        steps.append("write")
        return real(descriptor, data, offset)

    memory = Memory.open(tmp_path, "job1")
    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(os, "fdatasync", lambda _: steps.append("sync"))
    changes: list[Callable[[], None]] = [
        lambda: memory.begin("s", "b", "job1"),
        lambda: memory.note({0: 1}),
        lambda: memory.end([]),
    ]
    for change in changes:
        change()
        assert steps == ["write", "sync"]
        steps.clear()
    memory.close()
