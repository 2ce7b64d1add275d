"""What must hold of the whole way: after each step, at each ack, and at each record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from replicad.tracker import CannotTrack
from tests.properties.batches import WINDOW
from tests.properties.ends import CountingMap
from tests.properties.kernel import GRANULE, GRANULES, SIZE

if TYPE_CHECKING:
    from tests.properties.wholeway import WholeWay


@dataclass(eq=False)
class Sent:
    """A frame on its way: what the source read for it, and the batch it belongs to."""

    session: str
    index: int
    sequence: int
    work: Any
    content: list[tuple[int, bytes]]
    acked: bool = False


def check_ack(world: WholeWay, session: Any, index: int, sequence: int) -> None:
    """Promise 2, at the moment an ack is sent: what it covers is stable."""
    for sent in world.sent:
        if (sent.session, sent.index) != (session.id, index) or sent.sequence > sequence:
            continue
        if sent.acked:
            continue  # by an earlier one; what it carried may have been sent anew since
        sent.acked = True
        for offset, content in sent.content:
            held = bytes(world.medium.stable[offset : offset + len(content)])
            if sent.work.stage == "data" and held != content:
                world.violate("promise 2: an ack of what is not on stable storage")
            if held != bytes(world.medium.visible[offset : offset + len(content)]):
                world.violate("promise 2: an ack of a comparison with what is not stable")


def check(world: WholeWay) -> None:
    """Everything that can be said of a state, whatever led to it."""
    assert not world.violations, world.violations[0]
    _forget_answered(world)
    _check_alone(world)
    bound = world.allowed + CountingMap.returned
    assert world.sent_granules <= bound, (
        f"{world.sent_granules} granules were sent, {bound} were written, differed or were lost"
    )
    _check_clean(world)
    transfer = world.source.transfer
    if transfer is not None:
        window = transfer._inflight
        assert window.bytes <= WINDOW or window.batches == 1, "the window is not bounded"


def _forget_answered(world: WholeWay) -> None:
    held = world.source.disk.map
    if held is not None:
        out = held._outstanding
        mine = {id(batch) for batch in out}
        world.sent = [s for s in world.sent if id(s.work.batch) in mine or _older(world, s)]


def _older(world: WholeWay, sent: Sent) -> bool:
    """Sent by a process that is gone, or in a session that is over for us."""
    transfer = world.source.transfer
    return transfer is None or sent.session != transfer.session


def _check_alone(world: WholeWay) -> None:
    """Promise 3: no granule is in two unanswered frames, wherever they are."""
    seen: dict[int, Any] = {}
    for sent in world.sent:
        for first, count in sent.work.batch.segments:
            for granule in range(first, first + count):
                other = seen.setdefault(granule, sent.work.batch)
                assert other is sent.work.batch, f"promise 3: granule {granule} twice on its way"


def _check_clean(world: WholeWay) -> None:
    """Promise 1: what is called clean is stable on the receiver, as it was last written."""
    source = world.source
    held, tracked = source.disk.map, source.disk.tracked
    if held is None or tracked is None or held.header.generation != world.medium.generation:
        return
    try:
        if source.tracker.misses(tracked) != held.header.misses:
            return  # the next drain makes everything suspect
    except CannotTrack:
        return  # so does the next drain here
    bits = [np.unpackbits(b.words.view(np.uint8), bitorder="little") for b in held._file.bitmaps]
    lacking = (bits[0] | bits[1] | bits[2])[:GRANULES].astype(bool)
    lacking |= world.kernel.marked() | world.kernel.busy()
    differs = _granules(world.disk) != _granules(world.medium.stable)
    wrong = np.flatnonzero(differs.any(axis=1) & ~lacking)
    assert not wrong.size, f"promise 1: granule {wrong[0]} is clean but not what was written"


def _granules(content: bytearray) -> Any:
    return np.frombuffer(bytes(content) + bytes(GRANULES * GRANULE - SIZE), np.uint64).reshape(
        GRANULES, -1
    )


def preserve(world: WholeWay, *_: object) -> Any:
    """A reflink shares what the file holds; what of it is not stable is lost in a crash."""
    world.preserved = bytes(world.medium.visible)
    return SimpleNamespace(path=Path("/snapshot"), sentence="preserved")


def record(world: WholeWay, *_: object) -> Any:
    """The catalog says that the checkpoint exists: now it must be one."""
    if world.preserved != world.frozen:
        world.violate("promise 5: what is preserved is not the frozen disk")
    if bytes(world.medium.stable) != world.frozen:
        world.violate("promise 5: a checkpoint is recorded that a crash would undo")
    world.job.epoch += 1
    return world.job
