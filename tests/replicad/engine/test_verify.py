"""Verifying over real threads and frames, with the receiver's disk in memory and ours to damage."""

from __future__ import annotations

import pytest

from protocol.wire.jobs import CheckpointOrder, DiskRange, VerifyOrder
from protocol.wire.messages import Verified, VerifyFailed
from replicad.engine import checkpoint, verify
from replicad.verification import Verification
from tests.replicad.engine.test_job import World, play
from tests.support.copying import GRANULE

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def nothing_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicad.engine.disks.mounts_to_freeze", lambda _: ())
    monkeypatch.setattr(checkpoint, "mounts_to_freeze", lambda _: ())
    monkeypatch.setattr(verify, "_writes_under_way", lambda _: False)
    monkeypatch.setattr(verify, "SETTLE_SECONDS", 0.05)


def damage(world: World, *granules: int) -> None:
    for granule in granules:
        world.receiver.disks[0][granule * GRANULE + 9] ^= 1


def said(world: World) -> list[Verified | VerifyFailed]:
    return [m for m in world.played.sent if isinstance(m, Verified | VerifyFailed)]


async def verdict(world: World) -> Verified:
    await world.until(lambda: said(world))
    found = said(world)[-1]
    assert isinstance(found, Verified)
    return found


def test_it_is_named_then_left_then_sent_with_a_checkpoint() -> None:
    async def case(world: World) -> None:
        world.order("run")
        await world.synced()
        damage(world, 5, 6, 63)
        order = VerifyOrder(request="v")
        world.order("run", verify=order)
        found = await verdict(world)
        wrong = [(each.offset // GRANULE, each.length // GRANULE) for each in found.ranges]
        assert wrong == [(5, 2), (63, 1)]
        assert (found.differing_bytes, found.repaired) == (3 * GRANULE, False)
        assert found.bytes_compared == 64 * GRANULE
        assert {(r.offset, r.length) for r in found.differing} == {
            (r.offset, r.length) for r in found.ranges
        }
        assert not world.equal, "it was sent without having been asked for"
        # The source forgets (it may be killed); the order brings it back.
        world.engine.standing.differing = ()
        world.engine.standing.verification = None
        known = (DiskRange(path=str(world.disk), offset=5 * GRANULE, length=59 * GRANULE),)
        world.order("run", differing=known, checkpoint=CheckpointOrder(request="c"))
        await world.until(lambda: 1 in world.receiver.committed)
        assert world.receiver.committed[1][0] == world.disk.read_bytes()

    play(case)


def test_what_it_has_found_so_far_survives_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "SETTLE_SECONDS", 600.0)  # it never comes to its end

    async def case(world: World) -> None:
        world.order("run")
        await world.synced()
        damage(world, 5, 60)
        world.order("run", verify=VerifyOrder(request="v"))
        runtime = world.engine._settings.runtime
        await world.until(lambda: list(runtime.glob("*.differs")))
        # A kill, and another process: nothing is known but what lies in the runtime directory.
        world.lose()
        standing = world.engine.standing
        standing.verification, standing.differing = None, ()
        world.order("run", checkpoint=CheckpointOrder(request="c"))
        await world.until(lambda: 1 in world.receiver.committed)
        assert world.receiver.committed[1][0] == world.disk.read_bytes()
        await world.until(lambda: not list(runtime.glob("*.differs")))

    play(case)


def test_a_repair_is_sent_and_compared_once_more() -> None:
    async def case(world: World) -> None:
        world.order("run")
        await world.synced()
        damage(world, 0, 40)
        world.order("run", verify=VerifyOrder(request="v", repair=True))
        found = await verdict(world)
        assert (found.differing_bytes, found.repaired, found.differing) == (2 * GRANULE, True, ())
        assert world.equal

    play(case)


def test_a_copy_that_does_not_take_the_repair_is_not_called_repaired() -> None:
    async def case(world: World) -> None:
        world.order("run")
        await world.synced()
        damage(world, 7)
        world.receiver.written = lambda: damage(world, 7)
        world.order("run", verify=VerifyOrder(request="v", repair=True))
        found = await verdict(world)
        assert (found.differing_bytes, found.repaired) == (GRANULE, False)
        assert [(each.offset, each.length) for each in found.differing] == [(7 * GRANULE, GRANULE)]

    play(case)


def test_a_write_that_lands_when_a_repair_is_looked_at_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The disk has it at the first look; that it has ended is known by the second."""
    ascertain = verify.Verifier._ascertain
    world_now: list[World] = []

    def ended(verifier: verify.Verifier, verification: Verification) -> None:
        (world,) = world_now
        assert verification.open == 1, "the write was not seen to land"
        ascertain(verifier, verification)
        world.tracker.write(world.disk, 7, b"w" * GRANULE)

    monkeypatch.setattr(verify.Verifier, "_ascertain", ended)

    async def case(world: World) -> None:
        world_now.append(world)
        world.order("run")
        await world.synced()
        damage(world, 7)

        def lands() -> None:
            world.receiver.written = lambda: None
            world.tracker.write(world.disk, 7, b"w" * GRANULE, seen=False)

        world.receiver.written = lands
        world.order("run", verify=VerifyOrder(request="v", repair=True))
        found = await verdict(world)
        assert (found.differing_bytes, found.repaired) == (GRANULE, True)
        await world.until(lambda: world.equal)

    play(case)


def test_a_checkpoint_in_between_does_not_make_a_repair_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It sends what was found once more, and whether that holds is looked at anew."""
    ascertain = verify.Verifier._ascertain
    order = VerifyOrder(request="v", repair=True)
    world_now: list[World] = []

    def asked(verifier: verify.Verifier, verification: Verification) -> None:
        ascertain(verifier, verification)
        (world,) = world_now
        if 1 not in world.receiver.committed:
            world.order("run", verify=order, checkpoint=CheckpointOrder(request="c"))

    monkeypatch.setattr(verify.Verifier, "_ascertain", asked)

    async def case(world: World) -> None:
        world_now.append(world)
        world.order("run")
        await world.synced()
        damage(world, 7)
        world.receiver.written = lambda: damage(world, 7)
        world.order("run", verify=order)
        found = await verdict(world)
        assert 1 in world.receiver.committed, "no checkpoint came in between"
        assert (found.differing_bytes, found.repaired) == (GRANULE, False)

    play(case)


def test_a_repair_that_is_asked_for_later_joins() -> None:
    async def case(world: World) -> None:
        world.order("run")
        await world.synced()
        damage(world, 9)
        world.order("run", verify=VerifyOrder(request="v"))
        assert not (await verdict(world)).repaired
        world.order("run", verify=VerifyOrder(request="v", repair=True))
        await world.until(lambda: len(said(world)) > 1)
        found = await verdict(world)
        assert (found.repair, found.differing_bytes, found.repaired) == (True, GRANULE, True)

    play(case)


def test_what_the_receiver_may_not_have_heard_is_told_again() -> None:
    async def case(world: World) -> None:
        world.order("run")
        await world.synced()
        order = VerifyOrder(request="v")
        world.order("run", verify=order)
        first = await verdict(world)
        world.lose()
        world.order("run", verify=order)
        assert await verdict(world) is first

    play(case)


def test_a_disk_whose_writes_are_not_tracked_is_refused() -> None:
    async def case(world: World) -> None:
        world.order("run")
        await world.synced()
        (disk,) = world.engine._disks.disks  # type: ignore[union-attr]
        disk.tracked, disk.untracked_because = None, "no BTF"
        world.order("run", verify=VerifyOrder(request="v"))
        await world.until(lambda: said(world))
        (refused,) = said(world)
        assert isinstance(refused, VerifyFailed)
        assert refused.error.code == "RPL-6007"
        assert "no BTF" in refused.error.message

    play(case)
