from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import HELLO_REFUSED, PROTOCOL, TOO_LONG, TOO_MANY, PeerFault
from protocol.wire.crypto import SessionKeys
from protocol.wire.data import HELLO_SIZE, Connections, DataHello, FrameReader
from protocol.wire.limits import CONNECTION_INDEXES_MAX, FRAME_MAX, FRAME_MIN

SESSION = bytes(range(16))
KEYS = SessionKeys(bytes(32), SESSION)


def code_of(call: object, *arguments: object) -> str:
    assert callable(call)
    with pytest.raises(PeerFault) as caught:
        call(*arguments)
    return caught.value.code


# --- hello -----------------------------------------------------------------------------------


@given(st.integers(0, (1 << 32) - 1))
def test_a_hello_comes_back_and_is_verified(connection: int) -> None:
    data = DataHello(SESSION, connection).encode(KEYS)
    assert len(data) == HELLO_SIZE == 57
    hello = DataHello.parse(data)
    assert (hello.session, hello.connection) == (SESSION, connection)
    hello.verify(KEYS)


def test_every_flipped_bit_of_a_hello_is_seen() -> None:
    data = DataHello(SESSION, 3).encode(KEYS)
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PeerFault) as caught:
            DataHello.parse(changed).verify(KEYS)
        assert caught.value.code in {PROTOCOL.code, HELLO_REFUSED.code}


def test_a_hello_of_another_session_is_refused() -> None:
    other = SessionKeys(bytes(32), bytes(16))
    hello = DataHello.parse(DataHello(bytes(16), 0).encode(other))
    assert code_of(hello.verify, KEYS) == HELLO_REFUSED.code
    # Not even with the right code: the keys are those of one session.
    forged = DataHello.parse(DataHello(bytes(16), 0).encode(KEYS))
    assert code_of(forged.verify, KEYS) == HELLO_REFUSED.code


@given(st.binary(max_size=80))
def test_what_is_no_hello_is_the_peers_fault(data: bytes) -> None:
    assert code_of(DataHello.parse, data) in {PROTOCOL.code, HELLO_REFUSED.code}


def test_an_index_serves_once() -> None:
    book = Connections(limit=2)
    book.admit(DataHello(SESSION, 0))
    book.admit(DataHello(SESSION, 7))
    assert code_of(book.admit, DataHello(SESSION, 8)) == TOO_MANY.code
    book.ended(0)
    assert code_of(book.admit, DataHello(SESSION, 0)) == HELLO_REFUSED.code
    book.admit(DataHello(SESSION, 8))
    book.ended(7)
    assert code_of(book.admit, DataHello(SESSION, CONNECTION_INDEXES_MAX)) == TOO_MANY.code


# --- reader ----------------------------------------------------------------------------------


def framed(*bodies: bytes) -> bytes:
    return b"".join(len(body).to_bytes(4, "big") + body for body in bodies)


def drive(reader: FrameReader, stream: bytes, most: int) -> list[bytes]:
    """As a socket does: at most ``most`` bytes at a time, never more than wanted."""
    frames: list[bytes] = []
    while stream:
        if reader.needs_buffer:
            reader.provide(memoryview(bytearray(reader.limit + 4)))
        want = reader.want()
        count = min(len(want), len(stream), most)
        assert count
        want[:count] = stream[:count]
        stream = stream[count:]
        if reader.received(count):
            frames.append(bytes(reader.take()))
    return frames


@given(
    bodies=st.lists(st.binary(min_size=FRAME_MIN, max_size=200), max_size=8),
    most=st.integers(1, 300),
)
def test_the_cut_of_the_stream_does_not_matter(bodies: list[bytes], most: int) -> None:
    reader = FrameReader(limit=256)
    assert drive(reader, framed(*bodies), most) == bodies
    assert reader.at_boundary


@given(
    bodies=st.lists(st.binary(min_size=FRAME_MIN, max_size=60), min_size=1, max_size=4),
    cut=st.integers(1, 50),
)
def test_a_stream_that_is_cut_gives_only_whole_frames(bodies: list[bytes], cut: int) -> None:
    stream = framed(*bodies)[:-cut]
    reader = FrameReader(limit=256)
    frames = drive(reader, stream, 1000)
    assert frames == bodies[: len(frames)]
    assert reader.at_boundary == (stream == framed(*frames))


def test_one_wish_covers_a_frame_and_the_next_length() -> None:
    reader = FrameReader(limit=256)
    reader.provide(memoryview(bytearray(260)))
    want = reader.want()
    assert len(want) == 4
    want[:] = (100).to_bytes(4, "big")
    assert not reader.received(4)
    assert len(reader.want()) == 104


@pytest.mark.parametrize(
    ("length", "code"),
    [(FRAME_MAX + 1, TOO_LONG.code), (0xFFFFFFFF, TOO_LONG.code), (FRAME_MIN - 1, PROTOCOL.code)],
)
def test_a_wrong_length_is_refused_before_anything_is_made_for_it(length: int, code: str) -> None:
    reader = FrameReader()
    tracemalloc.start()
    try:
        reader.want()[:] = length.to_bytes(4, "big")
        assert code_of(reader.received, 4) == code
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 10


def test_a_wrong_length_behind_a_good_frame_does_not_lose_the_frame() -> None:
    reader = FrameReader(limit=256)
    body = b"x" * FRAME_MIN
    reader.provide(memoryview(bytearray(260)))
    reader.want()[:] = framed(body)[:4]
    assert not reader.received(4)
    reader.want()[:] = body + b"\xff\xff\xff\xff"
    assert reader.received(len(body) + 4)
    assert reader.take() == body
    assert reader.needs_buffer
    assert code_of(reader.want) == TOO_LONG.code


def test_the_content_lies_at_the_beginning_of_the_callers_buffer() -> None:
    buffer = bytearray(260)
    reader = FrameReader(limit=256)
    reader.provide(memoryview(buffer))
    stream = framed(b"y" * 30)
    reader.want()[:] = stream[:4]
    reader.received(4)
    reader.want()[:30] = stream[4:]
    assert reader.received(30)
    sealed = reader.take()
    assert sealed.obj is buffer
    assert buffer[:30] == b"y" * 30


def test_misuse_of_the_reader_is_our_mistake() -> None:
    reader = FrameReader(limit=256)
    with pytest.raises(ValueError):
        reader.take()
    with pytest.raises(ValueError):
        reader.provide(memoryview(bytearray(259)))
    reader.want()[:] = framed(bytes(30))[:4]
    assert not reader.received(4)
    with pytest.raises(ValueError):
        reader.want()
    reader.provide(memoryview(bytearray(260)))
    with pytest.raises(ValueError):
        reader.provide(memoryview(bytearray(260)))
    assert reader.received(30)
    with pytest.raises(ValueError):
        reader.want()
