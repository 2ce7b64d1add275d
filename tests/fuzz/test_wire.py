"""Whatever bytes come, everything that parses them either understands or raises PeerFault.

Three kinds of bytes: pure garbage; garbage that begins well, so that it gets past the first
check; and real streams, cut, bent and glued together.
"""

from __future__ import annotations

import contextlib
import random
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import PROTOCOL, TAMPERED, TOO_LONG, PeerFault
from protocol.wire.control import ControlConnection, Role
from protocol.wire.crypto import Direction, Opener, SessionKeys
from protocol.wire.data import DataHello, FrameReader
from protocol.wire.frames import (
    RAW,
    Ack,
    Data,
    Diff,
    Digests,
    Fence,
    Frame,
    Ping,
    Segment,
    decode_meta,
    encode_meta,
)
from protocol.wire.framing import ControlReader, encode_control
from protocol.wire.greeting import Greeting
from protocol.wire.jobs import JobOrder
from protocol.wire.messages import Ask, Heartbeat, Inventory
from protocol.wire.window import SendWindow

if TYPE_CHECKING:
    from collections.abc import Iterable

SESSION = bytes(range(16))
KEYS = SessionKeys(bytes(range(32)), SESSION)
SOURCE = Direction.FROM_SOURCE
GREETING = Greeting(software="test", name="web01")
DIGEST = bytes(16)

FRAMES: list[tuple[Frame, bytes]] = [
    (Data(0, RAW, 1024, DIGEST, (Segment(0, 1024),)), bytes(1024)),
    (Data(0, RAW, 0, DIGEST, (Segment(1 << 20, 1 << 30, zero=True),)), b""),
    (Digests(0, 65536, (Segment(0, 73728),)), bytes(32)),
    (Fence(), b""),
    (Ping(7), b""),
]
CONTROL = b"".join(
    [
        encode_control(GREETING.hello()),
        encode_control(Inventory(disks=())),
        encode_control(Ask(id=1, action="show")),
        encode_control(Heartbeat(sent=1.0)),
        encode_control(JobOrder(revision=1, want="none")),
    ]
)


def sealed_stream() -> bytes:
    sealer = KEYS.sealer(0, SOURCE)
    stream = bytearray()
    for frame, payload in FRAMES:
        into = memoryview(bytearray(4096))
        _, size = sealer.seal(payload + encode_meta(frame), into)
        stream += into[:size]
    return bytes(stream)


STREAM = sealed_stream()


def read_stream(stream: bytes, opener: Opener | None = None) -> list[tuple[Frame, bytes]]:
    """The receiver's whole way: cut, open, decode. Gives what was accepted before a fault."""
    reader = FrameReader(limit=8192)
    opener = opener or KEYS.opener(0, SOURCE)
    accepted: list[tuple[Frame, bytes]] = []
    with contextlib.suppress(PeerFault):
        while stream:
            if reader.needs_buffer:
                reader.provide(memoryview(bytearray(8196)))
            want = reader.want()
            count = min(len(want), len(stream))
            want[:count] = stream[:count]
            stream = stream[count:]
            if reader.received(count):
                into = memoryview(bytearray(8192))
                size = opener.open(reader.take(), into)
                frame, payload = decode_meta(into[:size], SOURCE)
                accepted.append((frame, bytes(into[:payload])))
    return accepted


def test_the_stream_itself_is_read() -> None:
    assert read_stream(STREAM) == FRAMES


def test_no_flipped_bit_is_ever_accepted() -> None:
    """Every frame before the bent one is accepted, that one and all after it are not."""
    ends = []
    at = 0
    while at < len(STREAM):
        at += 4 + int.from_bytes(STREAM[at : at + 4], "big")
        ends.append(at)
    for place in range(len(STREAM)):
        changed = bytearray(STREAM)
        changed[place] ^= 1 << random.Random(place).randrange(8)
        untouched = sum(end <= place for end in ends)
        assert read_stream(bytes(changed)) == FRAMES[:untouched]


@given(st.permutations(range(len(FRAMES))), st.integers(0, len(FRAMES)))
def test_no_frame_is_accepted_out_of_its_place(order: list[int], doubled: int) -> None:
    pieces = []
    at = 0
    while at < len(STREAM):
        end = at + 4 + int.from_bytes(STREAM[at : at + 4], "big")
        pieces.append(STREAM[at:end])
        at = end
    order = order[:doubled] + order[doubled - 1 :] if doubled else order
    in_place = 0
    while in_place < len(order) and in_place < len(FRAMES) and order[in_place] == in_place:
        in_place += 1
    assert read_stream(b"".join(pieces[n] for n in order)) == FRAMES[:in_place]


@given(st.binary(max_size=2000))
def test_garbage_is_never_a_frame(data: bytes) -> None:
    assert read_stream(data) == []


@given(st.integers(0, len(STREAM)))
def test_a_cut_stream_gives_whole_frames_only(cut: int) -> None:
    got = read_stream(STREAM[:cut])
    assert got == FRAMES[: len(got)]


@given(st.binary(max_size=400), st.sampled_from(Direction))
def test_an_opened_garbage_frame_is_understood_or_refused(data: bytes, side: Direction) -> None:
    """What an authenticated but broken peer could seal."""
    with contextlib.suppress(PeerFault):
        frame, payload = decode_meta(data, side)
        assert 0 <= payload <= len(data)
        assert encode_meta(frame) == data[payload:]  # there is one way to say a thing


@given(
    st.sampled_from(FRAMES),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_a_bent_frame_is_understood_or_refused(
    said: tuple[Frame, bytes], bends: list[tuple[int, int]]
) -> None:
    data = bytearray(said[1] + encode_meta(said[0]))
    for place, value in bends:
        data[-1 - place % min(len(data), 60)] = value
    with contextlib.suppress(PeerFault):
        frame, payload = decode_meta(data, SOURCE)
        assert encode_meta(frame) == data[payload:]


@given(st.binary(max_size=100), st.booleans())
def test_a_garbage_hello_is_refused(data: bytes, begins_well: bool) -> None:
    if begins_well:
        data = DataHello(SESSION, 0).encode(KEYS)[:25] + data[:32].ljust(32, b"\0")
    with pytest.raises(PeerFault):
        DataHello.parse(data).verify(KEYS)


def feed_control(role: Role, name: str | None, chunks: Iterable[bytes]) -> None:
    connection = ControlConnection(role, GREETING, name, now=0.0)
    with contextlib.suppress(PeerFault):
        for chunk in chunks:
            list(connection.receive(chunk, 0.0))
    connection.take_output()


@given(
    st.sampled_from(Role),
    st.sampled_from([None, "web01"]),
    st.lists(st.binary(max_size=200), max_size=8),
)
def test_garbage_on_the_control_port_is_refused(
    role: Role, name: str | None, chunks: list[bytes]
) -> None:
    feed_control(role, name, chunks)
    framed = [len(chunk).to_bytes(4, "big") + chunk for chunk in chunks]
    feed_control(role, name, framed)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
TAGS = ["hello", "welcome", "refused", "inventory", "job-order", "open-session", "answer", "x"]


@given(st.sampled_from(TAGS), st.dictionaries(st.text(max_size=9), JSON, max_size=5))
def test_strange_json_is_understood_or_refused(tag: str, fields: dict[str, object]) -> None:
    import json

    body = json.dumps({"type": tag, **fields}).encode()
    reader = ControlReader()
    reader.feed(len(body).to_bytes(4, "big") + body)
    with contextlib.suppress(PeerFault):
        reader.next_message()


@given(
    st.sampled_from(Role),
    st.lists(st.tuples(st.integers(0, len(CONTROL) - 1), st.integers(0, 255)), max_size=6),
    st.integers(1, 200),
)
def test_a_bent_conversation_is_understood_or_refused(
    role: Role, bends: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(CONTROL)
    for place, value in bends:
        data[place] = value
    chunks = [bytes(data[at : at + cut]) for at in range(0, len(data), cut)]
    feed_control(role, "web01", chunks)


@given(
    st.lists(
        st.builds(Ack, st.integers(0, 12)) | st.builds(Diff, st.integers(0, 12), st.integers(1, 9))
    )
)
def test_lying_acks_never_make_unsent_frames_durable(replies: list[Ack | Diff]) -> None:
    window: SendWindow[int] = SendWindow(1 << 20)
    for sequence in range(8):
        window.sent(sequence, 10, sequence, blocks=3 if sequence == 4 else 0)
    durable: list[int] = []
    for reply in replies:
        with contextlib.suppress(PeerFault):
            if isinstance(reply, Ack):
                durable += window.acknowledge(reply)
            else:
                window.differs(reply)
    assert durable == list(range(len(durable)))
    if 4 in durable:
        assert Diff(4, 3) in replies


def test_announced_gigabytes_cost_nothing() -> None:
    """4 GiB announced on both ports, to a peer that then waits."""
    announced = b"\xff\xff\xff\xff"
    tracemalloc.start()
    try:
        for _ in range(50):
            feed_control(Role.RECEIVER, None, [announced])
            assert read_stream(announced) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 256 << 10


def test_the_faults_are_the_documented_ones() -> None:
    opener = KEYS.opener(0, SOURCE)
    codes = set()
    for size in (0, 18, 40, 9000, 2 << 20):
        with pytest.raises(PeerFault) as caught:
            KEYS.opener(0, SOURCE).open(bytes(size), memoryview(bytearray(3 << 20)))
        codes.add(caught.value.code)
    assert codes == {PROTOCOL.code, TAMPERED.code, TOO_LONG.code}
    assert opener.next_sequence == 0
