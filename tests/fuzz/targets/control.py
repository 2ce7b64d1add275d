"""The control connection: framing, JSON, the conversation's rules, and what messages may hold.

Generic over the union of messages: a new message or field is covered as soon as it exists. What
comes out of the conversation is held to what the daemons rely on: every number fits 64 bits,
every text may be shown on a terminal, and it can be said again.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from hypothesis import strategies as st

from protocol.errors import PeerFault
from protocol.errors.fault import TEXT_MAX, plain
from protocol.wire.ciphers import HERE, check_choice
from protocol.wire.control import ControlConnection, Greeted
from protocol.wire.crypto import SessionKeys
from protocol.wire.framing import ControlReader, decode_control, encode_control
from protocol.wire.greeting import Greeting
from protocol.wire.jobs import JobOrder
from protocol.wire.limits import CONTROL_GREETING_MAX, CONTROL_MESSAGE_MAX
from protocol.wire.messages import (
    Answer,
    Ask,
    Authority,
    Commit,
    ControlMessage,
    Enrol,
    Enrolled,
    OpenDisk,
    OpenSession,
    Refused,
    SessionOpened,
)
from protocol.wire.rules import RULES, Phase, Role, Rule
from replicad.encoder import Encoder
from replicad.freeze.hooks import HookContext
from replicad.pace import Pacer
from tests.fuzz.registry import target
from tests.fuzz.shapes import (
    as_json,
    conversations,
    every_value_changed,
    in_full,
    one_value_changed,
)
from tests.protocol.wire.test_specification import CONTROL

GREETING = Greeting(software="fuzz", name="web01", boot="b")
PARSED: Final = (Answer, Authority, Enrol, Enrolled)
"""Their texts are parsed and never shown, so they keep their line ends."""

JOB: Final = re.compile(r"[a-z0-9-]{1,63}")
HEADS: Final = 16


def _documented() -> list[bytes]:
    """The JSON examples of the specification, one line each."""
    return [as_json(json.loads(block)) for block in CONTROL]


def _framed(lines: list[bytes]) -> bytes:
    return b"".join(len(line).to_bytes(4, "big") + line for line in lines)


# --- bytes to messages ----------------------------------------------------------------------------


@target(seeds=lambda: [_framed([line]) for line in _documented()])
def control_stream(data: bytes) -> None:
    """The stream, cut anywhere: messages or one refusal, and never more held than allowed."""
    reader = ControlReader(CONTROL_GREETING_MAX)
    step = data[-1] + 1 if data else 1
    with contextlib.suppress(PeerFault):
        for at in range(0, len(data), step):
            reader.feed(data[at : at + step])
            while reader.next_message() is not None:
                continue


@target(
    seeds=lambda: [bytes([head]) + line for head in (0, 1) for line in _documented()],
    shaped=lambda: conversations(ControlMessage, heads=2),
)
def control_message(data: bytes) -> None:
    """Lines, each a message in a frame of its own."""
    if not data:
        return
    for line in data[1:].split(b"\n"):
        reader = ControlReader(CONTROL_MESSAGE_MAX if data[0] & 1 else CONTROL_GREETING_MAX)
        reader.feed(_framed([line]))
        with contextlib.suppress(PeerFault):
            message = reader.next_message()
            assert message is not None
            encode_control(message)


def _heads_of(rule: Rule) -> list[int]:
    """The heads with which :func:`_begun` comes to where a message may be said to us."""
    from_source = {Phase.GREETING: 2, Phase.ENROLLING: 4, Phase.ESTABLISHED: 6}
    from_receiver = {Phase.NEGOTIATING: 3, Phase.ENROLLING: 5, Phase.ESTABLISHED: 15}
    places = from_source if Role.SOURCE in rule.senders else from_receiver
    return [head for phase, head in places.items() if phase in rule.phases]


def nearly_right() -> Iterator[tuple[str, bytes]]:
    """Name and input for :func:`conversation`: every documented message in full, each of its
    values in turn replaced by each hostile one, said where the message may be said."""
    for line in _documented():
        message = decode_control(line)
        for head in _heads_of(RULES[type(message)]):
            for changed in every_value_changed(as_json(in_full(message))):
                yield type(message).__name__, bytes([head]) + changed


def _nearly_right() -> st.SearchStrategy[bytes]:
    """The head of each role at its different phases, and one documented message with one change."""
    changed = one_value_changed(_documented())
    return st.builds(
        lambda head, line: bytes([head]) + line, st.sampled_from([2, 4, 5, 6, 7, 15]), changed
    )


# --- the conversation -----------------------------------------------------------------------------


def _begun(head: int) -> ControlConnection:
    """A connection: bit 0 is our role, bit 1 a certificate, bit 2 the greeting done, bit 3 (as
    source) three requests on their way."""
    role = Role.SOURCE if head & 1 else Role.RECEIVER
    name = "web01" if head & 2 else None
    ours = ControlConnection(role, GREETING, name, now=0.0)
    ours.take_output()
    if head & 4:
        other = Role.RECEIVER if role is Role.SOURCE else Role.SOURCE
        theirs = ControlConnection(other, GREETING, name, now=0.0)
        if role is Role.RECEIVER:
            list(ours.receive(theirs.take_output(), 0.0))
        else:
            list(ours.receive(encode_control(_welcome()), 0.0))
        ours.take_output()
    if head & 8 and head & 7 == 7:
        for message in _requests():
            ours.send(message)
    return ours


def _welcome() -> ControlMessage:
    theirs = ControlConnection(Role.RECEIVER, GREETING, "web01", now=0.0)
    list(theirs.receive(encode_control(GREETING.hello()), 0.0))
    reader = ControlReader()
    reader.feed(theirs.take_output())
    found = reader.next_message()
    assert found is not None
    return found


def _requests() -> tuple[ControlMessage, ...]:
    """With the ids that the documented answers answer."""
    disk = OpenDisk(path="/dev/vda", size=4096)
    commit = Commit(
        id=3,
        session="0" * 32,
        job="j",
        epoch=1,
        consistency="crash",
        frozen_seconds=0.1,
        taken="",
    )
    return (OpenSession(id=2, job="j", disks=(disk,)), commit, Ask(id=4, action="show"))


def _values(value: Any) -> list[Any]:
    """Every leaf of a message."""
    if isinstance(value, msgspec.Struct):
        return [leaf for name in value.__struct_fields__ for leaf in _values(getattr(value, name))]
    if isinstance(value, tuple | frozenset):
        return [leaf for item in value for leaf in _values(item)]
    return [value]


def _relied_on(message: Any) -> None:
    """What every part of the daemons takes for granted of a message."""
    for leaf in _values(message):
        if isinstance(leaf, int) and not isinstance(leaf, bool):
            assert -(1 << 63) <= leaf < 1 << 63, f"{type(message).__name__} with {leaf}"
        elif isinstance(leaf, float):
            assert math.isfinite(leaf)
        elif isinstance(leaf, str) and not isinstance(message, PARSED):
            assert len(leaf) <= TEXT_MAX, type(message)
            assert leaf == plain(leaf), f"{type(message).__name__}: {leaf!r} is not printable"


def _obeyed(message: ControlMessage) -> None:
    """What the source does with a receiver's words before it touches a disk."""
    if isinstance(message, JobOrder):
        Pacer().set_rate(message.bandwidth)
        Encoder("auto").set_compress(message.compress)
        context = HookContext(message.job, message.name, 1, message.disks)
        assert not any("\0" in text for text in context.environment("frozen").values())
        assert not message.job or JOB.fullmatch(message.job), message.job
        assert 0 <= message.freeze_budget <= 600
    elif isinstance(message, SessionOpened):
        with contextlib.suppress(PeerFault):
            check_choice(message.cipher, HERE)
            SessionKeys(message.secret, bytes.fromhex(message.session), message.cipher)
        assert 0 < message.connections <= 64
    elif isinstance(message, Answer):
        with contextlib.suppress(RecursionError):
            msgspec.json.decode(message.result)


@target(
    seeds=lambda: [
        *(bytes([head]) + b"\n".join(_documented()) for head in range(HEADS)),
        *(bytes([head]) + line for head in (6, 15) for line in _documented()),
    ],
    shaped=lambda: conversations(ControlMessage, HEADS) | _nearly_right(),
)
def conversation(data: bytes) -> None:
    """A peer's lines to a connection in any phase of either role."""
    ours = _begun(data[0] if data else 0)
    fault: PeerFault | None = None
    try:
        for line in data[1:].split(b"\n"):
            if ours.over:
                break
            for event in ours.receive(_framed([line]), 1.0):
                _relied_on(event.peer if isinstance(event, Greeted) else event)
                if ours.role is Role.SOURCE and not isinstance(event, Greeted):
                    _obeyed(event)
    except PeerFault as error:
        fault = error
    output = ours.take_output()
    assert len(output) <= CONTROL_MESSAGE_MAX
    if fault is not None:
        assert ours.over
        _understood(output)


def _understood(output: bytes) -> None:
    """What we said is of the protocol, and the last of it a refusal that may be shown."""
    reader = ControlReader()
    reader.feed(output)
    said: list[ControlMessage] = []
    while (message := reader.next_message()) is not None:
        said.append(message)
    assert reader.at_boundary
    if said and isinstance(said[-1], Refused):
        assert len(said[-1].message) <= 4 * TEXT_MAX
