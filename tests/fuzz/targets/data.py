"""The data connection: frames, metas, the receiver's decode path to a disk, the source's answers.

Sealed bytes cannot be guessed, so a target that takes *plaintext* seals it first: what is fuzzed
is what an authenticated but hostile peer could say. Input is a row of pieces, each a u16 length
and so many bytes.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import xxhash
import zstandard
from hypothesis import strategies as st

from protocol.errors import PeerFault
from protocol.wire.ciphers import HERE
from protocol.wire.crypto import Direction, SessionKeys
from protocol.wire.data import HELLO_SIZE, Connections, DataHello, FrameReader
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
    BUFFER,
    DISK_MAX,
    FRAME_MIN,
    PAYLOAD_MAX,
    REPLY_FRAME_MAX,
    TAG,
)
from protocol.wire.window import SendWindow
from receiver.applying import Applier
from receiver.decoder import Decoder
from replicad.comparison import heard
from tests.fuzz.registry import target

SESSION = bytes(range(16))
EITHER = [SessionKeys(bytes(range(32)), SESSION, cipher) for cipher in HERE]
KEYS = EITHER[0]
SOURCE, RECEIVER = Direction.FROM_SOURCE, Direction.FROM_RECEIVER
DISK = 128 << 10
_BUFFERS = [memoryview(bytearray(BUFFER)) for _ in range(3)]
_u16 = struct.Struct(">H")
_DIGEST_AT = 8
"""Where a DATA frame's meta has its digest: behind kind, encoding, disk and raw length."""


def row(*pieces: bytes) -> bytes:
    """Pieces as one input."""
    return b"".join(_u16.pack(len(piece)) + piece for piece in pieces)


def pieces(data: bytes) -> Iterator[bytes]:
    """The pieces of an input; the last may be shorter than it says."""
    at = 0
    while at + 2 <= len(data):
        (length,) = _u16.unpack_from(data, at)
        yield data[at + 2 : at + 2 + length]
        at += 2 + length


def said(frame: Frame, payload: bytes = b"") -> bytes:
    """A frame's plaintext."""
    return payload + encode_meta(frame)


def data_frame(content: bytes, offset: int = 0, *, packed: bool = False, disk: int = 0) -> bytes:
    """A DATA frame of one segment."""
    payload = zstandard.ZstdCompressor(level=1).compress(content) if packed else content
    digest = xxhash.xxh3_128_digest(content)
    encoding = ZSTD if packed else RAW
    segments = (Segment(offset, len(content)),)
    return said(Data(disk, encoding, len(content), digest, segments), payload)


FROM_SOURCE = [
    data_frame(bytes(range(256)) * 2),
    data_frame(bytes(4096), 8192, packed=True),
    data_frame(b"x" * 512, DISK - 512),
    data_frame(b"x" * 512, DISK),
    data_frame(b"x" * 512, disk=7),
    said(Data(0, RAW, 0, xxhash.xxh3_128_digest(b""), (Segment(4096, 65536, zero=True),))),
    said(
        Data(0, RAW, 512, bytes(16), (Segment(0, 512), Segment(1024, 512, zero=True))), bytes(512)
    ),
    said(Data(0, RAW, 0, bytes(16), (Segment(DISK_MAX - (1 << 30), 1 << 30, zero=True),))),
    said(Digests(0, BLOCK, (Segment(0, 8192),)), bytes(16)),
    said(Digests(0, BLOCK, (Segment(0, DISK),)), bytes(16 * (DISK >> 16))),
    said(Fence()),
    said(Ping(1 << 63)),
]
FROM_RECEIVER = [
    said(Ready()),
    said(Ack(0)),
    said(Ack((1 << 64) - 1)),
    said(Diff(1, 2), b"\x03" + bytes(16 * 18)),
    said(Diff(1, 2), b"\x02" + bytes(16 * 2)),
    said(Diff(2, 9), b"\xff\x01" + bytes(16 * 9)),
    said(Pong(5)),
]


def _rows_of(frames: list[bytes]) -> st.SearchStrategy[bytes]:
    bend = st.tuples(st.sampled_from(frames), st.integers(1, 40), st.integers(0, 255))

    def one(choice: tuple[bytes, int, int], straight: bool) -> bytes:
        frame, place, value = choice
        changed = bytearray(frame)
        if not straight:
            changed[-(place % len(changed)) - 1] = value
        return bytes(changed)

    each = st.builds(one, bend, st.booleans())
    return st.lists(each, min_size=1, max_size=6).map(lambda found: row(*found))


def _flagged(frames: list[bytes]) -> st.SearchStrategy[bytes]:
    return st.builds(lambda flag, rest: bytes([flag]) + rest, st.integers(0, 1), _rows_of(frames))


# --- metas ----------------------------------------------------------------------------------------


@target(
    seeds=lambda: [
        *(b"\0" + frame for frame in FROM_SOURCE),
        *(b"\1" + frame for frame in FROM_RECEIVER),
    ]
)
def meta(data: bytes) -> None:
    """An opened frame of either side: understood, and then there is one way to say it."""
    direction = RECEIVER if data[:1] == b"\1" else SOURCE
    with contextlib.suppress(PeerFault):
        frame, payload = decode_meta(data[1:], direction)
        assert 0 <= payload <= min(len(data), PAYLOAD_MAX)
        assert encode_meta(frame) == data[1 + payload :]


# --- the stream -----------------------------------------------------------------------------------


@target(
    seeds=lambda: [row(*(bytes(FRAME_MIN - 2) for _ in range(3))), b"\0\0\0\x13" + bytes(23)],
    longest=4096,
)
def stream(data: bytes) -> None:
    """Bytes of a data connection, cut into frames in memory that exists already."""
    step = data[0] + 1 if data else 1
    rest = memoryview(data)[1:]
    reader = FrameReader(limit=1024)
    opener = EITHER[step % len(EITHER)].opener(0, SOURCE)
    into = memoryview(bytearray(1024))
    with contextlib.suppress(PeerFault):
        while rest:
            if reader.needs_buffer:
                reader.provide(memoryview(bytearray(1028)))
            want = reader.want()
            count = min(len(want), len(rest), step)
            assert count > 0
            want[:count] = rest[:count]
            rest = rest[count:]
            if reader.received(count):
                sealed = reader.take()
                assert FRAME_MIN <= len(sealed) <= 1024
                opener.open(sealed, into)
                raise AssertionError("what nobody sealed was opened")


# --- the receiver ---------------------------------------------------------------------------------


class GuardedDisk:
    """An intermediate disk in memory that lets nobody beyond its ends."""

    path = "guarded"
    size = DISK

    def __init__(self) -> None:
        self.content = bytearray(DISK)

    def _within(self, offset: int, length: int) -> slice:
        assert offset >= 0 <= length, (offset, length)
        assert offset + length <= DISK, (offset, length)
        return slice(offset, offset + length)

    def write_pieces(self, pieces: Sequence[tuple[int, memoryview]]) -> None:
        for offset, content in pieces:
            self.write(offset, content)

    def write(self, offset: int, content: memoryview) -> None:
        self.content[self._within(offset, len(content))] = content

    def zero(self, offset: int, length: int) -> None:
        self.content[self._within(offset, length)] = bytes(length)

    def read(self, ranges: Sequence[tuple[int, int]], into: memoryview) -> int:
        filled = 0
        for offset, length in ranges:
            into[filled : filled + length] = self.content[self._within(offset, length)]
            filled += length
        return filled

    def is_hole(self, offset: int, length: int) -> bool:
        return not any(self.content[self._within(offset, length)])


class OneDisk:
    """What a session is to an :class:`Applier`."""

    over = still = False

    def __init__(self) -> None:
        self.guarded = GuardedDisk()

    def disk(self, number: int) -> Any:
        return self.guarded if number == 0 else None


def _with_its_digest(plain: bytes) -> bytes:
    """A raw DATA frame with the digest that its content has, so that it gets to the disk."""
    with contextlib.suppress(PeerFault):
        frame, payload = decode_meta(plain, SOURCE)
        if isinstance(frame, Data) and frame.encoding == RAW:
            at = payload + _DIGEST_AT
            digest = xxhash.xxh3_128_digest(plain[:payload])
            return plain[:at] + digest + plain[at + len(digest) :]
    return plain


@target(
    seeds=lambda: [
        b"\0" + row(*FROM_SOURCE[:3], *FROM_SOURCE[8:]),
        *(b"\1" + row(frame) for frame in FROM_SOURCE),
    ],
    shaped=lambda: _flagged(FROM_SOURCE),
)
def received(data: bytes) -> None:
    """Frames of a source through seal, decoder and applier, to the disk and to no other place."""
    keys = EITHER[sum(data[:1]) // 2 % len(EITHER)]
    decoder, sealer = Decoder(keys, 0), keys.sealer(0, SOURCE)
    where = OneDisk()
    applier = Applier(where, KEYS.digest_seed)
    sealed, plain, scratch = _BUFFERS
    with contextlib.suppress(PeerFault):
        for piece in pieces(data[1:]):
            if len(piece) < FRAME_MIN - TAG:
                return
            said_ = _with_its_digest(piece) if data[0] & 1 else piece
            size = sealer.seal(said_, sealed).size
            frame, payload = decoder.open(sealed[4:size], plain, scratch)
            if isinstance(frame, Data):
                before = bytes(where.guarded.content)
                try:
                    applier.data(frame, payload)
                except PeerFault:
                    assert where.guarded.content == before, "a refused frame was written"
                    raise
            elif isinstance(frame, Digests):
                answer = applier.digests(frame, payload, scratch)
                diff = Diff(0, block_count(frame))
                reply = answer + encode_meta(diff)
                assert decode_meta(reply, RECEIVER) == (diff, len(answer))
                assert len(reply) + TAG <= REPLY_FRAME_MAX


def _zstd_seeds() -> list[bytes]:
    content = bytes(range(256)) * 16
    whole = zstandard.ZstdCompressor(level=3, write_checksum=True).compress(content)
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(content)
    skippable = struct.pack("<II", 0x184D2A50, 4) + b"skip"
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(PAYLOAD_MAX))
    params = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    wide = zstandard.ZstdCompressor(compression_params=params).compress(content)
    with_dict = zstandard.ZstdCompressor(
        dict_data=zstandard.ZstdCompressionDict(content[:1024])
    ).compress(content)
    size = len(content).to_bytes(3, "big")
    frames = [whole, unsized, skippable + whole, whole + whole, whole[:-5], wide, with_dict]
    return [size + frame for frame in frames] + [b"\x10\0\0" + bomb, b"\0\x10\0" + bomb]


@target(seeds=_zstd_seeds)
def compressed(data: bytes) -> None:
    """A payload that claims to be zstd: exactly as long as its frame says, or refused."""
    size, payload = int.from_bytes(data[:3], "big"), memoryview(data)[3:]
    if not 0 < len(payload) < size <= PAYLOAD_MAX:
        return  # the meta refuses it
    decoder = Decoder(KEYS, 0)
    scratch = memoryview(bytearray(b"\xa5") * (size + 64))
    frame = Data(0, ZSTD, size, bytes(16), (Segment(0, size),))
    with contextlib.suppress(PeerFault):
        found = decoder.content(frame, payload, scratch)
        assert xxhash.xxh3_128_digest(found) == bytes(16)
    assert bytes(scratch[size:]) == b"\xa5" * 64, "written beyond the stated size"


# --- the source -----------------------------------------------------------------------------------


@target(seeds=lambda: [row(*FROM_RECEIVER)], shaped=lambda: _rows_of(FROM_RECEIVER))
def answers(data: bytes) -> None:
    """Answers of a hostile receiver: nothing unsent is ever durable, no diff fits by chance."""
    window: SendWindow[int] = SendWindow(1 << 20)
    ranges = [(0, BLOCK + 8192)]
    for sequence in range(4):
        window.sent(sequence, 10, sequence, blocks=2 if sequence == 1 else 0)
    durable: list[int] = []
    with contextlib.suppress(PeerFault):
        for piece in pieces(data):
            if len(piece) > REPLY_FRAME_MAX:
                return
            frame, payload = decode_meta(piece, RECEIVER)
            if isinstance(frame, Ack):
                durable += window.acknowledge(frame)
            elif isinstance(frame, Diff):
                assert window.differs(frame) == 1
                try:
                    answer = heard(ranges, piece[:payload])
                except ValueError:
                    continue  # not as many finer digests as the last block has
                assert len(answer.within(answer.ranges[-1:])) <= 16 * 18
                assert all(at in {0, BLOCK} for at, _ in answer.ranges)
                assert sum(length for _, length in answer.ranges) <= BLOCK + 8192
    assert durable == list(range(len(durable)))


@target(seeds=lambda: [DataHello(SESSION, 0).encode(KEYS), DataHello(SESSION, 9).encode(KEYS)])
def hello(data: bytes) -> None:
    """The first bytes of a data connection: believed only with the session's own code."""
    genuine = {DataHello(SESSION, number).encode(KEYS) for number in (0, 9)}
    try:
        said_ = DataHello.parse(data)
        said_.verify(KEYS)
        Connections().admit(said_)
    except PeerFault:
        return
    assert len(data) == HELLO_SIZE
    assert data in genuine
