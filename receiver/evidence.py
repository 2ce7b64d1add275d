"""What the receiver can prove of what it wrote, and what proves that it cannot. Pure.

Three questions, asked each time that a session opens, before a source's dirty map is believed:

**Has this receiver forgotten something?** Its storage may have been put back from a backup or a
snapshot; the generation is then the same and the content is older. The source names the last
session that it used and how many frames of each connection were acknowledged in it. Who does not
know the session, or knows of fewer frames, has been put back. To know of more is no fault: acks
get lost. (The vector is needed: of acks on two connections the later may arrive first, so a sum
could be right for the wrong frames.)

**Has the source gone back in time?** A virtual machine that is put back to a snapshot with its
memory is in the same boot, and its dirty map of that moment says nothing of what was written, and
copied, since: its disk holds the older content, or another. What this receiver remembers tells:
frames of a session that the source has not heard of, or more frames than it has sent.

**Has somebody else written to an intermediate disk?** A file tells by its time of change (ctime,
which no program can set): when a session closes the time is recorded; while one is open a *lease*
says until when our own writes may move it; after a kill it is the lease that counts. A block
device has no such time; the kernel counts the sectors written since it was attached, and that
count is recorded when a session closes. Nothing is known of a device between a kill and the next
opening, nor over a boot: ``job verify`` looks at content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from protocol.units import instant_of

if TYPE_CHECKING:
    from collections.abc import Sequence

PUT_BACK = "the receiver was put back to an earlier state"
"""The reason of the comparison then."""

WENT_BACK = "the source was put back to an earlier state"
"""The reason when it is the source that has forgotten."""

NS = 1_000_000_000


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """A session that was opened: how many frames of each of its connections are durable, and
    under which boot id its source ran."""

    id: str
    boot: str = ""
    acked: tuple[int, ...] = ()


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """By what a change of an intermediate disk is seen.

    Attributes:
        changed: ctime in nanoseconds; 0 for a device.
        attached: the kernel's number of this attachment of a device; 0 for a file.
        sectors: written and discarded since it was attached, in units of 512 bytes.
    """

    changed: int = 0
    attached: int = 0
    sectors: int = 0


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """How a disk was left when its session closed; ``doubt``: what was seen to be wrong then."""

    number: int
    mark: Mark
    doubt: str = ""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a job. ``sessions`` are the last ones, newest last. ``boot`` is the
    receiver's own boot id in which ``left`` was noted; None: the newest session did not close."""

    job: str
    sessions: tuple[Past, ...] = ()
    boot: str = ""
    left: tuple[Left, ...] | None = None


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The receiver's machine now: its boot id, and when that boot was (Unix nanoseconds)."""

    boot: str
    booted: int


def forgotten(state: State | None, session: str, acked: Sequence[int]) -> bool:
    """Whether the receiver lacks something that was acknowledged to the source.

    Args:
        state: what the receiver remembers; None when it remembers nothing at all.
        session: the last session that the source used; '' when it knows of none.
        acked: frames of each connection, by index, that were acknowledged in it.
    """
    if not session:
        return False
    known = next((past for past in state.sessions if past.id == session), None) if state else None
    if known is None:
        return True
    have = (*known.acked, *[0] * len(acked))
    return any(theirs > ours for theirs, ours in zip(acked, have, strict=False))


def went_back(state: State | None, session: str, sent: Sequence[int]) -> bool:
    """Whether the source lacks something that it once knew.

    A session that was opened and carried nothing says nothing: the source may never have heard of
    it. One that carried something is in the source's map since before its first frame.

    Args:
        state: what the receiver remembers.
        session: the last session that the source used.
        sent: frames of each connection, by index, that it sent in it; empty when it does not know
            (its process is another one).
    """
    past = state.sessions if state else ()
    at = next((number for number, each in enumerate(past) if each.id == session), None)
    if at is None:
        return False
    theirs = (*sent, *[0] * len(past[at].acked))
    more = sent and any(have > said for have, said in zip(past[at].acked, theirs, strict=False))
    return bool(more) or any(any(later.acked) for later in past[at + 1 :])


def written_by_others(
    state: State | None, number: int, lease: int, now: Mark, machine: Machine
) -> str:
    """Why the content of a disk cannot be vouched for; '' when nothing speaks against it.

    Args:
        state: what the receiver remembers; without it nothing can be said.
        number: of the disk.
        lease: until when our own writes may have moved the time of change (Unix nanoseconds).
        now: the disk as it is.
        machine: where we run.
    """
    if state is None:
        return ""
    left = {each.number: each for each in state.left or ()}.get(number)
    if left is not None:
        return left.doubt or _moved(left.mark, now, same_boot=state.boot == machine.boot)
    if not now.changed or not lease:
        return ""
    # A receiver that was killed wrote until its lease at most; in another boot, until that ended.
    limit = lease if state.boot == machine.boot else max(lease, machine.booted)
    return touched(now.changed) if now.changed > limit else ""


def _moved(before: Mark, now: Mark, *, same_boot: bool) -> str:
    if now.changed:
        return touched(now.changed) if now.changed != before.changed else ""
    if not same_boot or not before.attached:
        return ""  # a device's counters begin anew with each boot: nothing can be said
    if now.attached != before.attached:
        return "the intermediate disk was detached and attached again"
    return "somebody else wrote to the intermediate disk" if now.sectors != before.sectors else ""


def touched(changed: int) -> str:
    """What is said of a file that was changed at this time (Unix nanoseconds)."""
    when = instant_of(changed / NS).strftime("%Y-%m-%d %H:%M:%S")
    return f"the intermediate disk was changed by somebody else at {when} UTC"
