"""How the whole way comes to rest: passes until nothing differs, and a checkpoint of it."""

from __future__ import annotations

import random
from typing import Any

from protocol.wire.messages import Commit
from receiver.checkpoint import commit
from replicad.feed import Work
from replicad.planner import take_everything
from tests.properties.batches import DATA
from tests.properties.kernel import GRANULE, HALF, SIZE
from tests.properties.wholeway import WholeWay

BREAKS = 0.3
"""How often, of the times that it could, something breaks while the server works."""

ROUNDS = 60
"""More than any state needs; a session that never gets anywhere is a fault too."""


def disturb(world: WholeWay, chance: random.Random) -> None:
    """The server goes on writing, near what was written before; and its writes are drained."""
    writes = world.kernel.writes
    what = chance.randrange(8)
    if what == 0 and world.source.disk.map is not None:
        world.drain()
    elif what == 1 and writes:
        world.kernel.land(chance.randrange(len(writes)), chance.choice([HALF, SIZE]))
    elif what == 2:
        first, whole = chance.randrange(10), chance.random() < 0.5
        world.write(first, chance.randrange(1, 4), shift=0, zeros=False, whole=whole)
    elif what == 3 and world.source.reading:
        at = chance.randrange(len(world.source.reading))
        work, _ = world.source.reading[at]
        world.source.reading[at] = (work, world.source.reader.begin(work.ranges))
    elif what == 5 and chance.random() < BREAKS:
        world.miss(chance.randrange(10), 1)
    elif what == 4 and chance.random() < BREAKS:
        break_something(world, chance)
    world.leave_if_failed()
    world.check()


def break_something(world: WholeWay, chance: random.Random) -> None:
    """In the middle of it the session ends, in one of the ways in which sessions end."""
    what = chance.randrange(4)
    if what == 0:
        world.kill_source()
    elif what == 1:
        world.kill_receiver(chance, power=True)
    else:
        world.leave()


def move_on(world: WholeWay, chance: random.Random, *, busy: bool = False) -> None:
    """Everything that is under way goes on until nothing is left of it, in some order.
    ``busy``: and the server works."""
    for _ in range(2000):
        world.settle()
        if busy:
            disturb(world, chance)
            if world.source.transfer is None:
                return  # what it has sent stays on the wire
        waiting = [cable for cable in world.cables if cable.coming or cable.back]
        if world.receiver.jobs.waiting:
            world.run_job(chance.randrange(100))
        elif waiting:
            cable = chance.choice(waiting)
            if cable.coming and (chance.random() < 0.5 or not cable.back):
                cable.deliver(chance.choice([1, 3000, 1 << 20]))
            else:
                cable.answer(1 << 20)
        elif world.receiver.loop._scheduled:  # type: ignore[attr-defined]
            world.clock.now += 0.1
            if not world.receiver.loop.settle():
                return
        else:
            return
    raise AssertionError("the receiver never comes to rest")


def finish_pass(world: WholeWay, chance: random.Random, *, busy: bool = False) -> None:
    """Send everything that there is to send, and hear the answers. ``busy``: see move_on."""
    source = world.source
    for _ in range(ROUNDS):
        while source.transfer is not None and source.plan():
            pass
        while source.reading and source.senders:
            before = len(source.reading)
            if busy:
                disturb(world, chance)
                source = world.source
                if source.transfer is None:
                    return
                if len(source.reading) != before:
                    break
            world.send(chance.randrange(before), chance.randrange(2))
            if len(source.reading) == before:
                break  # no room: hear answers first
        for line in range(len(world.source.senders)):
            world.ask(line)
        move_on(world, chance, busy=busy)
        world.leave_if_failed()
        source = world.source
        source.finish_pass()
        if source.running is None:
            return
    raise AssertionError("a pass never ends")


def only_threads(world: WholeWay) -> None:
    """The receiver's threads do what they have to; nothing arrives meanwhile."""
    world.settle()
    while world.receiver.jobs.waiting:
        world.run_job(0)


def connect(world: WholeWay, chance: random.Random) -> None:
    """A session, whatever it takes."""
    for _ in range(ROUNDS):
        world.leave_if_failed()
        if world.source.transfer is not None:
            return
        world.ask_for_session()
        if chance.random() < 0.5:
            move_on(world, chance)
        else:
            only_threads(world)  # what older sessions have on the wire is late
        world.take_session(heard=True)
    raise AssertionError("there is never a session")


def come_to_rest(world: WholeWay, chance: random.Random) -> None:
    """Passes until the receiver lacks nothing; nobody writes meanwhile."""
    world.medium.fail_sync = False
    world.land_all()
    for _ in range(ROUNDS):
        connect(world, chance)
        world.drain()
        finish_pass(world, chance)
        held = world.source.disk.map
        if world.source.transfer is not None and held is not None and held.clean:
            world.check()
            return
        if world.source.running is None:
            world.source.run()
            finish_pass(world, chance)
        world.check()
    raise AssertionError("the copy never comes close")


def checkpoint(world: WholeWay, chance: random.Random, writes: int) -> None:
    """Come close, write a little, freeze, take it all, thaw, write again, send, commit."""
    come_to_rest(world, chance)
    for _ in range(writes):
        world.write(chance.randrange(68), chance.randrange(1, 6), shift=0, zeros=False, whole=True)
    world.drain()
    source = world.source
    if source.disk.suspect:
        return  # events were missed: no checkpoint now
    world.frozen = bytes(world.disk)
    works = [_frozen(world, batch) for batch in take_everything(source.disk.live_map, 0, DATA)]
    for _ in range(writes):
        world.write(chance.randrange(68), chance.randrange(1, 6), shift=0, zeros=False, whole=True)
    source.run(lambda: [works.pop(0)] if works else ())
    finish_pass(world, chance)
    assert source.running is None
    if source.transfer is None:
        return
    assert not works
    _commit(world, chance)
    world.check()


def _frozen(world: WholeWay, batch: Any) -> Work:
    work = Work(world.source.disk, batch, "data", batch.ranges(GRANULE, SIZE))
    assert world.frozen is not None
    content = b"".join(world.frozen[at : at + length] for at, length in work.ranges)
    work.frozen = memoryview(content)
    return work


def _commit(world: WholeWay, chance: random.Random) -> None:
    transfer = world.source.transfer
    assert transfer is not None
    message = Commit(
        id=2,
        session=transfer.session,
        job="job-1",
        epoch=world.job.epoch + 1,
        consistency="filesystem",
        frozen_seconds=0.1,
        taken="2027-01-15T08:00:00Z",
        request="r",
    )
    shelf: Any = world.receiver.sessions._shelf
    committing = world.receiver.loop.start(
        commit(shelf, world.directory, world.receiver.sessions, "web01", message)
    )
    for _ in range(ROUNDS):
        move_on(world, chance)
        if committing.done():
            break
    committing.result()
    world.preserved = world.frozen = None
