from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import PROTOCOL, PeerFault
from protocol.wire.crypto import Direction
from protocol.wire.frames import (
    RAW,
    ZSTD,
    Ack,
    Data,
    Diff,
    Digests,
    Fence,
    Frame,
    Ping,
    Pong,
    Ready,
    Segment,
    block_count,
    decode_meta,
    encode_meta,
)
from protocol.wire.limits import (
    BLOCK,
    DIGESTS_MAX,
    DISK_MAX,
    PAYLOAD_MAX,
    REPLY_FRAME_MAX,
    SECTOR,
    SEGMENT_SECTORS_MAX,
    SEGMENTS_MAX,
    TAG,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE, RECEIVER = Direction.FROM_SOURCE, Direction.FROM_RECEIVER
DIGEST = bytes(range(16))
U64 = st.integers(0, (1 << 64) - 1)


@st.composite
def segments(
    draw: st.DrawFn, zero: bool = True, block: int = SECTOR, sectors: int = 90
) -> tuple[Segment, ...]:
    """Ascending, in sectors small enough that a payload stays under its limit."""
    found = []
    at = draw(st.integers(0, 1 << 30)) * block
    for _ in range(draw(st.integers(1, 20))):
        length = draw(st.integers(1, sectors)) * SECTOR
        found.append(Segment(at, length, zero and draw(st.booleans())))
        at += -(-length // block) * block + draw(st.integers(0, 99)) * block
    return tuple(found)


@st.composite
def datas(draw: st.DrawFn) -> tuple[Data, int]:
    pieces = draw(segments())
    raw_length = sum(length for _, length, zero in pieces if not zero)
    compressed = raw_length > 1 and draw(st.booleans())
    payload = draw(st.integers(1, raw_length - 1)) if compressed else raw_length
    disk = draw(st.integers(0, 65535))
    digest = draw(st.binary(min_size=16, max_size=16))
    return Data(disk, ZSTD if compressed else RAW, raw_length, digest, pieces), payload


@st.composite
def digest_frames(draw: st.DrawFn) -> tuple[Digests, int]:
    ranges = draw(segments(zero=False, block=BLOCK, sectors=12 * BLOCK // SECTOR))
    frame = Digests(draw(st.integers(0, 65535)), BLOCK, ranges, draw(st.booleans()))
    return frame, block_count(frame) * 16


FROM_SOURCE = st.one_of(
    datas(), digest_frames(), st.just((Fence(), 0)), U64.map(lambda n: (Ping(n), 0))
)
FROM_RECEIVER = st.one_of(
    st.just((Ready(), 0)),
    U64.map(lambda n: (Ack(n), 0)),
    U64.map(lambda n: (Pong(n), 0)),
    # plaintext() fills the payload with zeros: no bit, no finer digest
    st.tuples(U64, st.integers(1, DIGESTS_MAX)).map(lambda n: (Diff(*n), -(-n[1] // 8))),
)


def plaintext(frame: Frame, payload: int) -> bytes:
    return bytes(payload) + encode_meta(frame)


def refused(data: bytes, direction: Direction = SOURCE) -> str:
    with pytest.raises(PeerFault) as caught:
        decode_meta(data, direction)
    assert caught.value.code == PROTOCOL.code
    return caught.value.sentence


@given(FROM_SOURCE)
def test_what_the_source_says_comes_back(said: tuple[Frame, int]) -> None:
    data = plaintext(*said)
    assert decode_meta(data, SOURCE) == said
    assert decode_meta(memoryview(bytearray(data)), SOURCE) == said
    assert type(decode_meta(data, SOURCE)[0]) is type(said[0])
    refused(data, RECEIVER)


@given(FROM_RECEIVER)
def test_what_the_receiver_says_comes_back(said: tuple[Frame, int]) -> None:
    data = plaintext(*said)
    assert decode_meta(data, RECEIVER) == said
    assert type(decode_meta(data, RECEIVER)[0]) is type(said[0])
    refused(data, SOURCE)


@given(FROM_SOURCE, st.data())
def test_a_frame_with_a_byte_more_or_less_of_payload_is_refused(
    said: tuple[Frame, int], data: st.DataObject
) -> None:
    frame, payload = said
    if isinstance(frame, Data) and frame.encoding == ZSTD:
        payload = data.draw(st.sampled_from([0, frame.raw_length, frame.raw_length + 1]))
        refused(plaintext(frame, payload))
        return
    refused(plaintext(frame, payload + 1))
    if payload:
        refused(plaintext(frame, payload - 1))


def test_a_gibibyte_of_zeros_is_a_small_frame() -> None:
    frame = Data(1, RAW, 0, DIGEST, (Segment(0, 1 << 30, zero=True),))
    assert len(encode_meta(frame)) == 40
    assert decode_meta(encode_meta(frame), SOURCE) == (frame, 0)


def test_the_greatest_values_pass() -> None:
    longest = SEGMENT_SECTORS_MAX * SECTOR
    frame = Data(65535, RAW, 0, DIGEST, (Segment(DISK_MAX - longest, longest, zero=True),))
    assert decode_meta(encode_meta(frame), SOURCE) == (frame, 0)
    many = tuple(Segment(i * 8192, 4096) for i in range(SEGMENTS_MAX))
    full = Data(0, RAW, PAYLOAD_MAX, DIGEST, many)
    assert decode_meta(plaintext(full, PAYLOAD_MAX), SOURCE) == (full, PAYLOAD_MAX)
    whole = Digests(0, BLOCK, (Segment(0, DIGESTS_MAX * BLOCK),))
    assert decode_meta(plaintext(whole, DIGESTS_MAX * 16), SOURCE)[0] == whole


def one(
    offset: int = 8,
    length: int = 8,
    encoding: int = RAW,
    raw: int = 4096,
    payload: int | None = None,
    count: int = 1,
) -> bytes:
    """A DATA frame with one segment given in sectors, packed by hand."""
    head = struct.pack(">BBHI16sH", 1, encoding, 0, raw, DIGEST, count)
    body = bytes(raw if payload is None else payload)
    return body + head + struct.pack(">QIH", offset, length, 38)


def two(first: tuple[int, int], second: tuple[int, int], raw: int = 8192) -> bytes:
    head = struct.pack(">BBHI16sH", 1, RAW, 0, raw, DIGEST, 2)
    return bytes(raw) + head + struct.pack(">QIQIH", *first, *second, 50)


def test_the_hand_packed_frames_are_right() -> None:
    assert decode_meta(one(), SOURCE)[0] == Data(0, RAW, 4096, DIGEST, (Segment(4096, 4096),))
    frame, _ = decode_meta(two((0, 8), (8, 8)), SOURCE)
    assert isinstance(frame, Data)
    assert frame.segments == (Segment(0, 4096), Segment(4096, 4096))


@pytest.mark.parametrize(
    "data",
    [
        one(length=0, raw=0),
        one(length=1 << 31, raw=0),  # zero flag on nothing
        one(length=9),  # more than the payload
        one(length=7),
        one(offset=DISK_MAX // SECTOR),
        one(offset=(1 << 64) - 1),
        one(length=4096, raw=4096 * 512),  # a payload over the limit
        one(length=4096, raw=4096 * 512, encoding=ZSTD, payload=100),  # expands over the limit
        one(count=0),
        one(count=2),
        one(encoding=2),
        one(encoding=ZSTD),  # not shorter than what it holds
        one(length=8 | 1 << 31, encoding=ZSTD, raw=0),
        two((0, 8), (7, 8)),  # overlap
        two((8, 8), (0, 8)),  # order
        two((0, 8), (0, 8)),
        two((0, 8), (8, 0), raw=4096),
        two((0, 8), (8, 9)),
        b"",
        b"\0",
        b"\0\0",
        b"\x03\0\2",  # longer meta than there is
        b"\x03\0\0",
        bytes(PAYLOAD_MAX + 1) + b"\x03\0\1",
        b"\x00\0\1",
        b"\x05\0\1",
        b"\xff\0\1",
        b"\x01\0\1",
        b"\x02\0\1",
        b"\x03\x00\0\2",
        b"x\x03\0\1",
        b"\x04" + bytes(7) + b"\0\x08",
        b"\x04" + bytes(9) + b"\0\x0a",
    ],
)
def test_a_frame_that_cannot_be_meant_is_refused(data: bytes) -> None:
    refused(data)


def digests(block: int, *ranges: tuple[int, int], blocks: int, medium: int = 0) -> bytes:
    meta = struct.pack(">BBHIH", 2, medium, 0, block, len(ranges))
    meta += b"".join(struct.pack(">QI", *piece) for piece in ranges)
    return bytes(blocks * 16) + meta + struct.pack(">H", len(meta))


@pytest.mark.parametrize(
    "data",
    [
        digests(4096, (0, 8), blocks=1),
        digests(131072, (0, 256), blocks=1),
        digests(0, (0, 16), blocks=1),
        digests(65536, blocks=0),
        digests(65536, (8, 128), blocks=1),  # not at a block
        digests(65536, (0, 128 | 1 << 31), blocks=1),  # zero has no meaning here
        digests(65536, (0, 128), blocks=2),
        digests(65536, (0, 128), blocks=1, medium=2),
        digests(65536, (0, 129), blocks=1),  # the odd end is a block of its own
        digests(65536, (0, (DIGESTS_MAX + 1) * 128), blocks=DIGESTS_MAX + 1),
        digests(65536, (0, SEGMENT_SECTORS_MAX), blocks=1),
    ],
)
def test_digests_that_cannot_be_meant_are_refused(data: bytes) -> None:
    refused(data)


def diff(blocks: int, bits: bytes) -> bytes:
    return bits + struct.pack(">BQIH", 0x83, 5, blocks, 13)


@pytest.mark.parametrize(
    "data",
    [
        diff(0, b""),
        diff(9, b"\0"),
        diff(8, b"\0\0"),
        diff(4, b"\x10"),  # a spare bit
        diff(DIGESTS_MAX + 1, bytes(DIGESTS_MAX // 8 + 1)),
        diff(4, b"\x0f"),  # four that differ, and nothing of them
        diff(4, b"\x0f" + bytes(3 * 16)),
        diff(4, b"\x0f" + bytes(4 * 16 + 1)),
        diff(4, b"\x0f" + bytes((4 * 16 + 1) * 16)),  # more than the blocks have
        diff(4, b"\0" + bytes(16)),
    ],
)
def test_a_diff_that_cannot_be_meant_is_refused(data: bytes) -> None:
    refused(data, RECEIVER)


@given(st.integers(1, DIGESTS_MAX), st.randoms(use_true_random=False), st.booleans())
def test_a_diff_has_finer_digests_of_what_differs(
    blocks: int, dice: random.Random, whole: bool
) -> None:
    bits = dice.getrandbits(blocks) if dice.random() < 0.9 else (1 << blocks) - 1
    fine = sum(16 if whole else dice.randint(1, 16) for _ in range(bits.bit_count()))
    payload = bits.to_bytes(-(-blocks // 8), "little") + dice.randbytes(16 * fine)
    data = diff(blocks, payload)
    assert decode_meta(data, RECEIVER) == (Diff(5, blocks), len(payload))
    assert len(data) + TAG <= REPLY_FRAME_MAX


@pytest.mark.parametrize(
    "make",
    [
        lambda: Data(0, RAW, 0, b"short", (Segment(0, 512),)),
        lambda: Data(0, RAW, 0, DIGEST, ()),
        lambda: Data(0, RAW, 512, DIGEST, (Segment(1, 512),)),
        lambda: Data(0, RAW, 512, DIGEST, (Segment(0, 511),)),
        lambda: Data(0, RAW, 0, DIGEST, (Segment(0, 0),)),
        lambda: Data(0, RAW, 0, DIGEST, (Segment(0, 1 << 40, zero=True),)),
        lambda: Data(0, RAW, 0, DIGEST, (Segment(0, 512), Segment(512, 7))),
        lambda: Data(0, RAW, 0, DIGEST, tuple(Segment(i * 512, 512) for i in range(257))),
        lambda: Digests(0, BLOCK, ()),
    ],
)
def test_our_own_mistakes_are_not_sent(make: Callable[[], Frame]) -> None:
    with pytest.raises(ValueError):
        encode_meta(make())
