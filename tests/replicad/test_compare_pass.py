"""A compare pass against a receiver that is late or goes away, and a disk that dies meanwhile."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence

import pytest

from protocol.wire.frames import Digests, Frame
from protocol.wire.limits import ANSWER_BYTES, BLOCK
from replicad.engine.passes import run_pass
from replicad.feed import Work
from replicad.planner import Sweep
from tests.support.copying import GRANULE, GRANULES, Bench, in_bench

pytestmark = pytest.mark.timeout(120)

Answers = list[tuple[Frame, bytes]]


def test_a_comparison_sends_only_what_differs() -> None:
    async def case(made: Bench) -> None:
        await made.sync()
        made.tracker.write(made.path, 30, b"y" * GRANULE, seen=False)
        made.disk.suspect_all("the tracker may have missed 1 write")
        assert made.disk.trust == "comparing: the tracker may have missed 1 write"
        async with await made.transfer() as transfer:
            await run_pass(transfer, made.disks)
            assert transfer.acked_bytes == made.disk.differing_bytes == GRANULE
        assert made.equal()
        assert made.disk.trust == "tracked without a gap since the compare pass"
        # All of it, the 64 KiB that differ once more, and what is sent.
        taken = made.disk.recovery
        assert taken is not None
        assert taken.bytes_read == (GRANULES + 16 + 1) * GRANULE
        assert taken.bytes_sent == GRANULE

    in_bench(case)


def test_what_differs_is_asked_for_once() -> None:
    """The answer says what the small blocks are; who looks closer asks nobody."""

    async def case(made: Bench) -> None:
        await made.sync()
        for granule in (0, 31, 32, 599):
            made.tracker.write(made.path, granule, b"y" * GRANULE, seen=False)
        made.disk.suspect_all("a test")
        asked: list[Digests] = []

        def answer(frame: Frame, answers: Answers) -> Answers:
            if isinstance(frame, Digests):
                asked.append(frame)
            return answers

        made.receiver.answer = answer
        await made.sync()
        assert made.equal()
        assert made.disk.differing_bytes == 4 * GRANULE
        assert sum(length for each in asked for _, length, _ in each.ranges) == made.disk.size

    in_bench(case)


def test_what_may_be_answered_counts_as_in_flight() -> None:
    """Else a receiver that answers and never acknowledges would fill the source's memory."""

    async def case(made: Bench) -> None:
        await made.sync()
        made.disk.suspect_all("a test")
        made.receiver.answer = lambda frame, answers: [] if isinstance(frame, Digests) else answers
        transfer = await made.transfer()
        async with transfer:
            passing = asyncio.create_task(run_pass(transfer, made.disks))
            while not any(sender.frames for sender in transfer._senders.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert transfer._inflight.bytes == -(-made.disk.size // BLOCK) * ANSWER_BYTES
            passing.cancel()
            await asyncio.wait([passing])

    in_bench(case)


@pytest.mark.parametrize("gone", [range(32, 48), range(32, 34), range(64), range(GRANULES)])
def test_a_sector_that_dies_before_the_closer_look(gone: range) -> None:
    """What can be read is compared all the same, and what cannot stays dirty: the rest of its block
    too, until it can be sent."""

    async def case(made: Bench) -> None:
        await made.sync()
        for granule in (1, 33, 40, 599):
            made.tracker.write(made.path, granule, b"y" * GRANULE, seen=False)
        made.disk.suspect_all("a test")
        read = made.disk.reader._preadv
        looking = False

        def dying(fd: int, into: Sequence[memoryview], offset: int) -> int:
            end = offset + sum(len(each) for each in into)
            if looking and offset < gone.stop * GRANULE and end > gone.start * GRANULE:
                raise OSError(errno.EIO, "Input/output error")
            return read(fd, into, offset)

        def answer(_: Frame, answers: Answers) -> Answers:
            nonlocal looking
            looking = True
            return answers

        made.disk.reader._preadv = dying
        made.receiver.answer = answer
        transfer = await made.transfer()
        async with transfer, asyncio.timeout(60):
            await run_pass(transfer, made.disks)
        held = made.disk.live_map
        assert held.flying_granules == held.suspect_granules == 0
        wrong = [
            granule
            for granule in range(GRANULES)
            if made.path.read_bytes()[granule * GRANULE : (granule + 1) * GRANULE]
            != made.receiver.disks[0][granule * GRANULE : (granule + 1) * GRANULE]
        ]
        assert set(wrong) == {1, 33, 40, 599} & set(gone)
        assert all(held.dirty_within(granule, granule + 1) for granule in wrong)
        made.disk.reader._preadv = read
        made.disk.reader.try_again()
        await made.sync()
        assert made.equal()

    in_bench(case)


def test_a_closer_look_that_ends_after_its_session_changes_nothing() -> None:
    """A sender that reads a dying disk is left behind, and may come to an end much later."""

    async def case(made: Bench) -> None:
        await made.sync()
        made.tracker.write(made.path, 30, b"y" * GRANULE, seen=False)
        made.disk.suspect_all("a test")
        looked = asyncio.Event()
        late: list[tuple[Work, object]] = []
        transfer = await made.transfer()

        def keep(work: Work, found: object) -> None:
            late.append((work, found))
            transfer._loop.call_soon_threadsafe(looked.set)

        transfer._looked_from_thread = keep  # type: ignore[method-assign]
        async with transfer:
            passing = asyncio.create_task(run_pass(transfer, made.disks))
            await looked.wait()
            passing.cancel()
            await asyncio.wait([passing])
        transfer.release()
        held = made.disk.live_map
        again = Sweep(held, 0, "compare").take_many(99)  # the next session has begun
        flying, compared = held.flying_granules, transfer.sent.compared
        assert flying >= 16
        for work, _ in late:
            transfer._looked_closer(work, ())
        assert (held.flying_granules, transfer.sent.compared) == (flying, compared)
        for batch in again:
            held.lost(batch)
        await made.sync()
        assert made.equal()

    in_bench(case)
