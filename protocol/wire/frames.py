"""The frames of a data connection: what is inside the seal.

A plaintext is **payload, meta, u16 length of the meta**, in this order, so that the payload
begins where the buffer begins: page-aligned on both sides, read from a disk and written to a
disk with O_DIRECT without a copy. The meta is packed with ``struct``; this code runs
thousands of times a second under the GIL, so a frame is a NamedTuple of plain values.

Offsets and lengths travel in sectors (512 bytes), so a value that is no multiple of one
cannot even be said. In Python they are bytes.

Sequence numbers do not travel: a frame's number is its place on its connection, counted by
:class:`~protocol.wire.crypto.Sealer` and :class:`~protocol.wire.crypto.Opener` alike.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from protocol.errors import PROTOCOL, PeerFault
from protocol.wire.ciphers import Buffer
from protocol.wire.crypto import Direction
from protocol.wire.limits import (
    BLOCK,
    DIGEST_SIZE,
    DIGESTS_MAX,
    DISK_MAX,
    FINE_BLOCK,
    META_LENGTH,
    META_MAX,
    PAYLOAD_MAX,
    SECTOR,
    SEGMENT_SECTORS_MAX,
    SEGMENTS_MAX,
)

if TYPE_CHECKING:
    from collections.abc import Callable

RAW: Final = 0
ZSTD: Final = 1

_ZERO: Final = 1 << 31
_DISK_SECTORS: Final = DISK_MAX // SECTOR
_UNALIGNED: Final = SECTOR - 1


class Segment(NamedTuple):
    """A piece of a disk, in bytes. ``zero``: it is all zeros and has nothing in the payload."""

    offset: int
    length: int
    zero: bool = False


class Data(NamedTuple):
    """Content of one disk. The payload is the non-zero segments' content, one after the other.

    ``encoding``: RAW or ZSTD (one zstd frame, shorter than what it holds). ``raw_length``: bytes
    of the payload before compression. ``digest``: xxh3-128 of the payload before compression,
    16 bytes, big-endian (that of nothing when every segment is zero).
    """

    disk: int
    encoding: int
    raw_length: int
    digest: bytes
    segments: tuple[Segment, ...]


class Digests(NamedTuple):
    """Digests of blocks of one disk, to be compared. The payload is 16 bytes for each block of
    ``block`` bytes (there is one size: BLOCK) of each range in order; a range's last block may be
    shorter.

    The digest is xxh3-128, big-endian, with the session's seed
    (:attr:`~protocol.wire.crypto.SessionKeys.digest_seed`). Ranges are (offset, length) bytes.
    ``medium``: what the receiver keeps in memory of them is not to be believed.
    """

    disk: int
    block: int
    ranges: tuple[Segment, ...]
    medium: bool = False


class Fence(NamedTuple):
    """Bring everything before this frame to stable storage now, and acknowledge it."""


class Ping(NamedTuple):
    """Answered by a Pong with the same 64-bit value, without waiting for a disk."""

    value: int


class Ready(NamedTuple):
    """First frame of the receiver: it has the session's secret and has taken the connection."""


class Ack(NamedTuple):
    """Every frame of this connection up to ``sequence`` is on stable storage."""

    sequence: int


class Diff(NamedTuple):
    """Which of the ``blocks`` of Digests frame ``sequence`` differ: a bit each in the payload,
    1 = differs, first block in the lowest bit of the first byte, spare bits 0. Then, of each that
    differs, the digests of its blocks of FINE_BLOCK bytes, the last of which may be shorter.
    """

    sequence: int
    blocks: int


class Pong(NamedTuple):
    """Answer to a Ping."""

    value: int


Frame = Data | Digests | Fence | Ping | Ready | Ack | Diff | Pong

# Kinds below 0x80 come from the source, others from the receiver.
_DATA, _DIGESTS, _FENCE, _PING = 0x01, 0x02, 0x03, 0x04
_READY, _ACK, _DIFF, _PONG = 0x81, 0x82, 0x83, 0x84

_data_head = struct.Struct(">BBHI16sH")  # kind, encoding, disk, raw length, digest, segments
_digests_head = struct.Struct(">BBHIH")  # kind, medium, disk, block size, ranges
_data_one = struct.Struct(">BBHI16sHQIH")  # a DATA of one segment, with the length of the meta
_kind_only = struct.Struct(">BH")
_number = struct.Struct(">BQH")
_diff = struct.Struct(">BQIH")
_segment = struct.Struct(">QI")
_u16 = struct.Struct(">H")
_ONE: Final = _data_head.size + _segment.size


def block_count(frame: Digests) -> int:
    """How many digests the payload of this frame holds."""
    return sum(-(-length // frame.block) for _, length, _ in frame.ranges)


# --- encoding --------------------------------------------------------------------------------


def encode_meta(frame: Frame) -> bytes:
    """The end of the plaintext: meta and its length. It goes right behind the payload.

    Raises:
        ValueError: a value that the protocol cannot say (struct.error where it is too large).
            Our own mistake; what a decoder would refuse beyond that is not checked twice.
    """
    return _ENCODERS[type(frame)](frame)


def _encode_data(frame: Data) -> bytes:
    disk, encoding, raw_length, digest, segments = frame
    if len(digest) != DIGEST_SIZE:
        raise ValueError(f"a digest has {DIGEST_SIZE} bytes, not {len(digest)}")
    if len(segments) != 1:
        head = _data_head.pack(_DATA, encoding, disk, raw_length, digest, len(segments))
        return _finish(head, segments)
    offset, length, zero = segments[0]
    if (offset | length) & _UNALIGNED or not 0 < length <= SEGMENT_SECTORS_MAX * SECTOR:
        raise ValueError(f"segment {offset}+{length} cannot be sent")
    sectors = length >> 9 | _ZERO if zero else length >> 9
    return _data_one.pack(_DATA, encoding, disk, raw_length, digest, 1, offset >> 9, sectors, _ONE)


def _encode_digests(frame: Digests) -> bytes:
    medium = int(frame.medium)
    head = _digests_head.pack(_DIGESTS, medium, frame.disk, frame.block, len(frame.ranges))
    return _finish(head, frame.ranges)


def _finish(head: bytes, segments: tuple[Segment, ...]) -> bytes:
    if not 0 < len(segments) <= SEGMENTS_MAX:
        raise ValueError(f"a frame cannot have {len(segments)} segments")
    values: list[int] = []
    for offset, length, zero in segments:
        if (offset | length) & _UNALIGNED or not 0 < length <= SEGMENT_SECTORS_MAX * SECTOR:
            raise ValueError(f"segment {offset}+{length} cannot be sent")
        values += (offset >> 9, length >> 9 | _ZERO if zero else length >> 9)
    body = struct.pack(">" + "QI" * len(segments), *values)
    return head + body + _u16.pack(len(head) + len(body))


# --- decoding --------------------------------------------------------------------------------


def decode_meta(plaintext: Buffer, direction: Direction) -> tuple[Frame, int]:
    """What the other side, sending in ``direction``, said; and how many bytes its payload has.

    The payload is ``plaintext[:n]`` of the returned ``n``. Everything that can be known without
    the disk is checked: sizes, order, overlap, sums, the direction. Not checked: the digest,
    the disk's number and size, and that a ZSTD payload expands to exactly ``raw_length``.

    Raises:
        PeerFault: PROTOCOL.
    """
    end = len(plaintext) - META_LENGTH
    if end < 1:
        raise _broken("a frame is too short for its meta")
    (meta_length,) = _u16.unpack_from(plaintext, end)
    payload = end - meta_length
    if not 0 < meta_length <= META_MAX or not 0 <= payload <= PAYLOAD_MAX:
        raise _broken(f"a frame of {len(plaintext)} bytes with {meta_length} bytes of meta")
    kind = plaintext[payload]
    if kind == _DATA and direction is Direction.FROM_SOURCE:
        return _decode_data(plaintext, payload, end), payload
    decoder = _DECODERS.get(kind)
    if decoder is None or (kind >= 0x80) is not (direction is Direction.FROM_RECEIVER):
        raise _broken(f"a frame of kind {kind:#04x} from this side")
    return decoder(plaintext, payload, end), payload


def _decode_data(plaintext: Buffer, at: int, end: int) -> Data:
    if end - at < _data_head.size:
        raise _broken("a DATA frame is cut short")
    if end - at == _ONE:  # nearly all of them: one extent, one segment
        unpacked = _data_one.unpack_from(plaintext, at)
        _, encoding, disk, raw_length, digest, count, offset, length, _ = unpacked
        zero = length >= _ZERO
        length &= SEGMENT_SECTORS_MAX
        if count != 1 or not length or offset + length > _DISK_SECTORS:
            raise _broken(f"{count} segments, at sector {offset} of {length} sectors")
        length <<= 9
        segments: tuple[Segment, ...] = (Segment(offset << 9, length, zero),)
        content = 0 if zero else length
    else:
        _, encoding, disk, raw_length, digest, count = _data_head.unpack_from(plaintext, at)
        segments = _decode_segments(plaintext, at + _data_head.size, end, count)
        content = sum(length for _, length, zero in segments if not zero)
    if content != raw_length or raw_length > PAYLOAD_MAX:
        raise _broken(f"segments with {content} bytes of content in a DATA of {raw_length}")
    if encoding == RAW:
        if at != raw_length:
            raise _broken(f"{at} bytes of payload in a raw DATA of {raw_length}")
    elif encoding != ZSTD or not 0 < at < raw_length:
        raise _broken(f"encoding {encoding} with {at} bytes of payload for {raw_length}")
    return Data(disk, encoding, raw_length, digest, segments)


def _decode_segments(plaintext: Buffer, at: int, end: int, count: int) -> tuple[Segment, ...]:
    """``count`` segments that fill the meta exactly, ascend and do not overlap."""
    if not 0 < count <= SEGMENTS_MAX or end - at != count * _segment.size:
        raise _broken(f"{count} segments in {end - at} bytes")
    segments = []
    free = 0  # first sector that the next segment may begin at
    for offset, flagged in _segment.iter_unpack(plaintext[at:end]):
        zero = flagged >= _ZERO
        length = flagged & SEGMENT_SECTORS_MAX
        if offset < free or not length or offset + length > _DISK_SECTORS:
            raise _broken(f"a segment at sector {offset} of {length} sectors")
        free = offset + length
        segments.append(Segment(offset << 9, length << 9, zero))
    return tuple(segments)


def _decode_digests(plaintext: Buffer, at: int, end: int) -> Digests:
    if end - at < _digests_head.size:
        raise _broken("a DIGESTS frame is cut short")
    _, medium, disk, block, count = _digests_head.unpack_from(plaintext, at)
    if medium > 1 or block != BLOCK:
        raise _broken(f"digests of blocks of {block} bytes")
    ranges = _decode_segments(plaintext, at + _digests_head.size, end, count)
    if any(zero or offset % block for offset, _, zero in ranges):
        raise _broken("a range of digests does not begin at a block, or is called zero")
    frame = Digests(disk, block, ranges, medium == 1)
    blocks = block_count(frame)
    if blocks > DIGESTS_MAX or at != blocks * DIGEST_SIZE:
        raise _broken(f"{at} bytes of digests for {blocks} blocks")
    return frame


def _decode_diff(plaintext: Buffer, at: int, end: int) -> Diff:
    if end - at != _diff.size - META_LENGTH:
        raise _broken("a DIFF frame has a wrong length")
    _, sequence, blocks, _ = _diff.unpack_from(plaintext, at)
    size = -(-blocks // 8)
    if not 0 < blocks <= DIGESTS_MAX or at < size:
        raise _broken(f"{at} bytes of a DIFF for {blocks} blocks")
    if blocks % 8 and plaintext[size - 1] >> blocks % 8:
        raise _broken("spare bits of a DIFF are not 0")
    differing = int.from_bytes(plaintext[:size], "little").bit_count()
    fine, rest = divmod(at - size, DIGEST_SIZE)
    if rest or not differing <= fine <= differing * (BLOCK // FINE_BLOCK):
        raise _broken(f"{at - size} bytes of finer digests for {differing} blocks that differ")
    return Diff(sequence, blocks)


def _bare(make: Callable[[], Frame]) -> Callable[[Buffer, int, int], Frame]:
    """The decoder of a frame that is nothing but its kind."""

    def decode(plaintext: Buffer, at: int, end: int) -> Frame:
        if at or end != 1:
            raise _broken("a frame has a payload or meta that its kind does not")
        return make()

    return decode


def _numbered(make: Callable[[int], Frame]) -> Callable[[Buffer, int, int], Frame]:
    """The decoder of a frame that is its kind and one 64-bit number."""

    def decode(plaintext: Buffer, at: int, end: int) -> Frame:
        if at or end != _number.size - META_LENGTH:
            raise _broken("a frame has a payload or meta that its kind does not")
        return make(_number.unpack_from(plaintext, 0)[1])

    return decode


def _broken(detail: str) -> PeerFault:
    return PROTOCOL.peer(detail=detail)


_ENCODERS: Final[dict[type, Callable[[Any], bytes]]] = {
    Data: _encode_data,
    Digests: _encode_digests,
    Fence: lambda _: _kind_only.pack(_FENCE, 1),
    Ping: lambda frame: _number.pack(_PING, frame.value, 9),
    Ready: lambda _: _kind_only.pack(_READY, 1),
    Ack: lambda frame: _number.pack(_ACK, frame.sequence, 9),
    Diff: lambda frame: _diff.pack(_DIFF, frame.sequence, frame.blocks, 13),
    Pong: lambda frame: _number.pack(_PONG, frame.value, 9),
}

_DECODERS: Final[dict[int, Callable[[Buffer, int, int], Frame]]] = {
    _DATA: _decode_data,
    _DIGESTS: _decode_digests,
    _FENCE: _bare(Fence),
    _PING: _numbered(Ping),
    _READY: _bare(Ready),
    _ACK: _numbered(Ack),
    _DIFF: _decode_diff,
    _PONG: _numbered(Pong),
}
