from __future__ import annotations

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import PROTOCOL, TOO_LONG, PeerFault
from protocol.wire.framing import ControlReader, decode_control, encode_control
from protocol.wire.limits import CONTROL_MESSAGE_MAX
from protocol.wire.messages import (
    CloseSession,
    ControlMessage,
    Heartbeat,
    Hello,
    SessionOpened,
)

MESSAGES: list[ControlMessage] = [
    Hello(versions=(1,), capabilities=("zstd",), software="replicad 0.1", name="wéb01"),
    Heartbeat(sent=1.5, echo=0.25),
    CloseSession(session="00" * 16),
]


def read_all(reader: ControlReader, data: bytes) -> list[ControlMessage]:
    reader.feed(data)
    return list(iter(reader.next_message, None))


@given(cuts=st.lists(st.integers(0, 400), max_size=12))
def test_the_cut_of_the_stream_does_not_matter(cuts: list[int]) -> None:
    stream = b"".join(encode_control(message) for message in MESSAGES)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    reader = ControlReader()
    got = []
    for start, end in itertools.pairwise(places):
        got += read_all(reader, stream[start:end])
    assert got == MESSAGES
    assert reader.at_boundary


def test_half_a_message_is_none() -> None:
    reader = ControlReader()
    assert read_all(reader, encode_control(MESSAGES[0])[:-1]) == []
    assert not reader.at_boundary


def test_a_length_is_refused_before_anything_is_made_for_it() -> None:
    reader = ControlReader()
    tracemalloc.start()
    try:
        reader.feed(b"\xff\xff\xff\xff")
        with pytest.raises(PeerFault) as caught:
            reader.next_message()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code == TOO_LONG.code
    assert peak < 64 << 10


def test_the_limit_is_what_is_allowed_and_no_more() -> None:
    message = encode_control(MESSAGES[0])
    assert read_all(ControlReader(len(message) - 4), message) == MESSAGES[:1]
    with pytest.raises(PeerFault):
        read_all(ControlReader(len(message) - 5), message)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"type":"no-such-message"}',
        b'{"type":"heartbeat"}',
        b'{"type":"heartbeat","sent":"now"}',
        b'{"type":"heartbeat","sent":1e999}',
        b'{"type":"heartbeat","sent":1.0} {"type":"heartbeat","sent":1.0}',
        b'{"type":"heartbeat","sent":1.0,"other":"\xff"}',
        b'{"type":"answer","answers":1,"result":"\xff"}',
        b'{"type":"heartbeat","sent":1.0,"other":' + b"[" * 100_000,
        b'{"type":"authority-request","id":' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_no_message_is_the_peers_fault(body: bytes) -> None:
    with pytest.raises(PeerFault) as caught:
        decode_control(body)
    assert caught.value.code == PROTOCOL.code


def test_a_newer_peer_may_say_more() -> None:
    assert decode_control(b'{"type":"heartbeat","sent":1.0,"mood":"fine"}') == Heartbeat(sent=1.0)


def test_our_own_message_that_is_too_long_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        encode_control(CloseSession(session="x" * CONTROL_MESSAGE_MAX))


def test_a_secret_is_neither_shown_nor_quoted() -> None:
    opened = SessionOpened(
        answers=1, session="00" * 16, secret=b"S" * 32, data_port=1, epoch=0, disks=()
    )
    assert "SSSS" not in repr(opened)
    body = encode_control(opened)[4:].replace(b'"epoch":0', b'"epoch":"secret"')
    with pytest.raises(PeerFault) as caught:
        decode_control(body)
    assert "U1NT" not in caught.value.sentence
