"""The source's end of a session against a receiver that is late, lies, or goes away."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import INTERNAL, PROTOCOL, Fault
from protocol.wire.crypto import SessionKeys
from protocol.wire.frames import Ack, Data, Diff, Digests, Frame
from replicad.bell import Bell
from replicad.config import Tuning
from replicad.engine.disks import DiskSet
from replicad.engine.passes import JobSweep, run_pass
from replicad.feed import Work
from replicad.tracker import NoTracker
from replicad.transfer import Transfer
from tests.support.copying import GRANULE, GRANULES, Bench, Receiver, in_bench

pytestmark = pytest.mark.timeout(120)

Answers = list[tuple[Frame, bytes]]


def test_a_first_copy_and_a_delta_make_the_disks_equal() -> None:
    async def case(made: Bench) -> None:
        await made.sync()
        assert made.equal()
        for granule in (0, 17, 599):
            made.tracker.write(made.path, granule, b"x" * GRANULE)
        assert not made.equal()
        await made.sync()
        assert made.equal()
        assert made.disk.passed == 2
        assert made.disk.trust == "tracked without a gap since the full pass"

    in_bench(case)


def test_tracking_that_began_anew_between_two_sessions_is_a_gap() -> None:
    """Nobody drained meanwhile: opening the session is what finds it out."""

    async def case(made: Bench) -> None:
        await made.sync()
        made.tracker.write(made.path, 30, b"y" * GRANULE, seen=False)
        made.tracker.token = "t1"
        await made.transfer()
        assert made.disk.live_map.suspect_granules == GRANULES
        await made.sync()
        assert made.equal()

    in_bench(case)


@given(cut=st.integers(0, 3_000_000), seed=st.integers(0, 9))
def test_cut_at_any_byte_the_next_session_makes_them_equal(cut: int, seed: int) -> None:
    async def case(made: Bench) -> None:
        chance = random.Random(seed)
        if seed % 2:
            await made.sync()
            for granule in chance.sample(range(GRANULES), 300):
                made.tracker.write(made.path, granule, chance.randbytes(GRANULE))
            made.disk.suspect_all("a test")
            await made.disks.drain()
        made.receiver.cut_after = cut
        transfer = await made.transfer()
        try:
            async with transfer:
                await run_pass(transfer, made.disks)
        except Fault:
            await made.disks.drain()
        # What was in flight is not touched before the next session has fenced this one off.
        transfer.release()
        assert made.disk.live_map.flying_granules == 0
        made.receiver.cut_after = None
        await made.sync()
        assert made.equal()

    in_bench(case)


class Chime(Bell):
    """Notes what there was to see each time it rang."""

    def __init__(self, seen: Callable[[], object]) -> None:
        super().__init__()
        self.rung: list[object] = []
        self._seen = seen

    def ring(self) -> None:
        self.rung.append(self._seen())


def test_a_pass_says_that_it_begins_and_how_it_ends() -> None:
    async def case(made: Bench) -> None:
        bell = made.disks.bell = Chime(lambda: (made.disk.kind, made.disk.passed))
        await made.sync()
        assert bell.rung == [("full", 0), ("idle", 1)]
        # Not what is sent for a checkpoint: something is frozen.
        bell.rung.clear()
        made.tracker.write(made.path, 1, b"x" * GRANULE)
        await made.disks.drain()
        async with await made.transfer() as transfer:
            await run_pass(transfer, made.disks, whole=True)
        assert made.disk.passed == 2
        assert bell.rung == []

    in_bench(case)


def test_a_pass_says_that_it_is_broken_off() -> None:
    async def case(made: Bench) -> None:
        bell = made.disks.bell = Chime(lambda: (made.disk.kind, made.disk.passed))
        made.receiver.cut_after = 100_000
        transfer = await made.transfer()
        with pytest.raises(Fault):
            async with transfer:
                await run_pass(transfer, made.disks)
        assert bell.rung == [("full", 0), ("idle", 0)]
        transfer.release()

    in_bench(case)


@pytest.mark.parametrize(("courtesy", "watched"), [("auto", 1), ("off", 0)])
def test_a_disk_is_read_with_courtesy_unless_that_is_switched_off(
    courtesy: Literal["auto", "off"], watched: int
) -> None:
    async def case(made: Bench) -> None:
        opened, disks = made.receiver.open(), made.disks.disks
        tuning = Tuning(courtesy=courtesy)
        transfer = Transfer("127.0.0.1", opened, disks, made.pacer, "auto", tuning=tuning)
        assert len(transfer._watch._disks) == watched

    in_bench(case)


def test_extents_are_as_large_as_is_told() -> None:
    async def case(made: Bench) -> None:
        assert made.disks.extent_bytes() == 1 << 20
        fixed = DiskSet("j", made.path.parent, NoTracker("not here"), made.worker, extent=64 << 10)
        assert fixed.extent_bytes() == 64 << 10

    in_bench(case)


def test_connections_are_made_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver greets nobody before all are there: one after the other would never end."""
    arrived: list[int] = []

    async def case(made: Bench) -> None:
        all_there = asyncio.Event()
        converse = Receiver._converse

        async def patient(self: Receiver, keys: SessionKeys, index: int, *ends: Any) -> None:
            arrived.append(index)
            if len(arrived) == 2:
                all_there.set()
            await all_there.wait()
            await converse(self, keys, index, *ends)

        monkeypatch.setattr(Receiver, "_converse", patient)
        async with asyncio.timeout(5), await made.transfer() as transfer:
            await run_pass(transfer, made.disks)
        assert made.equal()

    in_bench(case)
    assert sorted(arrived) == [0, 1]


def test_a_sender_that_shall_not_work_does_not_and_all_do_while_something_is_frozen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also that it is looked while something is sent, and that a forecast counts who works."""
    looks: list[int] = []

    async def case(made: Bench) -> None:
        async with await made.transfer() as transfer:
            now = transfer.processors
            now.concurrency.at_work = 1
            look = now._look

            def noted() -> None:
                looks.append(now.at_work)
                look()

            monkeypatch.setattr(now, "_look", noted)
            await run_pass(transfer, made.disks)
            first, second = transfer._senders[0], transfer._senders[1]
            assert first.frames > 1
            assert second.frames == 0
            for sender in (first, second):
                sender.read_bytes, sender.read_seconds = 10 << 20, 1.0
            assert transfer.read_rate == 10 << 20
            with transfer.hurry():
                assert now.at_work == 2
            assert now.at_work == 1
        assert made.equal()

    in_bench(case)
    assert looks[:1] == [1]


@pytest.mark.parametrize("refused", [0, 1])
def test_a_connection_that_is_refused_ends_the_others(
    refused: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def case(made: Bench) -> None:
        converse = Receiver._converse

        async def refusing(self: Receiver, keys: SessionKeys, index: int, *ends: Any) -> None:
            if index == refused:
                raise ConnectionError
            await converse(self, keys, index, *ends)

        monkeypatch.setattr(Receiver, "_converse", refusing)
        transfer = await made.transfer()
        with pytest.raises(Fault):
            async with asyncio.timeout(5), transfer:
                raise AssertionError("it was entered")
        assert not [thread for thread in threading.enumerate() if "sender" in thread.name]
        assert not [task for task in asyncio.all_tasks() if "Transfer" in repr(task)]
        transfer.release()
        monkeypatch.undo()
        await made.sync()
        assert made.equal()

    in_bench(case)


def answering(
    kind: type, change: Callable[[Answers], Answers]
) -> Callable[[Frame, Answers], Answers]:
    def answer(frame: Frame, answers: Answers) -> Answers:
        return change(answers) if isinstance(frame, kind) else answers

    return answer


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (Data, lambda _: [(Ack(5_000_000), b"")]),
        (Data, lambda _: [(Diff(0, 1), b"\0")]),
        (Digests, lambda answers: [(Ack(answers[0][0].sequence), b""), *answers]),
        (Digests, lambda answers: [(Diff(answers[0][0].sequence, 1), b"\0")]),
        (Digests, lambda answers: [(answers[0][0], b"")]),
        (Digests, lambda answers: [*answers, *answers]),
        (Digests, lambda answers: [(answers[0][0], b"\1" + answers[0][1][1:] + bytes(15 * 16))]),
    ],
    ids=[
        "ack-of-nothing",
        "diff-of-data",
        "ack-before-diff",
        "diff-size",
        "no-bits",
        "twice",
        "a-finer-digest-too-few",
    ],
)
def test_an_answer_that_cannot_be_true_ends_the_session(
    kind: type, change: Callable[[Answers], Answers]
) -> None:
    async def case(made: Bench) -> None:
        if kind is Digests:
            await made.sync()
            made.disk.suspect_all("a test")
        made.receiver.answer = answering(kind, change)
        transfer = await made.transfer()
        with pytest.raises(Fault) as refused:
            async with transfer:
                await run_pass(transfer, made.disks)
        assert refused.value.code == PROTOCOL.code
        assert made.disks.differ
        made.receiver.answer = None
        transfer.release()
        await made.sync()
        assert made.equal()

    in_bench(case)


def test_a_bug_in_a_sender_ends_the_session_and_does_not_hang_it() -> None:
    async def case(made: Bench) -> None:
        def refill() -> list[Work]:
            raise ZeroDivisionError

        transfer = await made.transfer()
        with pytest.raises(Fault) as refused:
            async with transfer, asyncio.timeout(20):
                await transfer.send(refill)
        assert refused.value.code == INTERNAL.code

    in_bench(case)


def test_cancelled_while_a_sender_reads_it_waits_for_the_sender() -> None:
    async def case(made: Bench) -> None:
        reading, go_on = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        read = made.disk.reader.read
        ended: list[bool] = []

        def slow(*arguments: object) -> int:
            loop.call_soon_threadsafe(reading.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
            ended.append(True)
            return read(*arguments)  # type: ignore[arg-type]

        made.disk.reader.read = slow  # type: ignore[method-assign, assignment]

        async def session() -> None:
            async with await made.transfer() as transfer:
                await transfer.send(JobSweep(made.disks).refill)

        task = asyncio.create_task(session())
        await reading.wait()
        for _ in range(20):  # also those that come while it is leaving
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended
        made.disk.reader.read = read  # type: ignore[method-assign]

    in_bench(case)
