"""From sealed frames to content: what is not exactly what it says is refused, at a bounded cost."""

from __future__ import annotations

import tracemalloc

import pytest
import xxhash
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import PeerFault
from protocol.wire.crypto import Direction
from protocol.wire.frames import RAW, ZSTD, Data, Segment, encode_meta
from protocol.wire.limits import BUFFER, LENGTH, PAYLOAD_MAX
from receiver.decoder import Decoder
from tests.support.datalink import KEYS

SCRATCH = memoryview(bytearray(BUFFER))


def frame(content: bytes, encoding: int = ZSTD, size: int | None = None) -> Data:
    """What a source says of ``content``."""
    length = len(content) if size is None else size
    digest = xxhash.xxh3_128_digest(content)
    return Data(0, encoding, length, digest, (Segment(0, max(length, 512)),))


def decoded(said: Data, payload: bytes) -> bytes:
    return bytes(Decoder(KEYS, 0).content(said, memoryview(payload), SCRATCH))


def opened(said: Data, payload: bytes) -> bytes:
    """What comes out of a sealed frame that says this."""
    sealed, plain = memoryview(bytearray(BUFFER)), memoryview(bytearray(BUFFER))
    sealer = KEYS.sealer(0, Direction.FROM_SOURCE)
    size = sealer.seal(payload + encode_meta(said), sealed).size
    frame, content = Decoder(KEYS, 0).open(sealed[LENGTH:size], plain, SCRATCH)
    assert frame == said
    return bytes(content)


def refused(said: Data, payload: bytes) -> str:
    with pytest.raises(PeerFault) as caught:
        decoded(said, payload)
    return caught.value.code


CONTENT = bytes(range(256)) * 64


@pytest.mark.parametrize("level", [-1, 1, 19])
def test_content_comes_out_as_it_was(level: int) -> None:
    packed = zstandard.ZstdCompressor(level=level, write_checksum=True).compress(CONTENT)
    assert opened(frame(CONTENT), packed) == CONTENT
    assert opened(frame(CONTENT, RAW), CONTENT) == CONTENT


def test_the_largest_payload_fits() -> None:
    content = bytes(PAYLOAD_MAX)
    packed = zstandard.ZstdCompressor().compress(content)
    assert decoded(frame(content), packed) == content


def test_a_bomb_is_refused_before_it_expands() -> None:
    """It states a small size and holds a gigabyte, or states what it holds."""
    many = zstandard.ZstdCompressor(level=19).compressobj()
    bomb = b"".join(many.compress(bytes(1 << 20)) for _ in range(256)) + many.flush()
    honest = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    tracemalloc.start()
    try:
        assert refused(frame(CONTENT), bomb) == "RPL-3002"  # no size is stated
        assert refused(frame(CONTENT), honest) == "RPL-3002"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


def test_a_huge_window_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj(
        size=len(CONTENT)
    )
    packed = compressor.compress(CONTENT) + compressor.flush()
    window = zstandard.get_frame_parameters(packed).window_size
    if window > 1 << 23:
        assert refused(frame(CONTENT), packed) == "RPL-3002"
    # Made by hand: magic, a descriptor with a window, 128 MiB of it, and an empty last block.
    made = bytes.fromhex("28b52ffd") + bytes([0x40, 17 << 3]) + (0).to_bytes(2, "little")
    assert zstandard.get_frame_parameters(made).window_size >= 1 << 27
    assert refused(frame(CONTENT, size=256), made + bytes.fromhex("010000")) == "RPL-3002"


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1, 0])
def test_another_size_than_said_is_refused(size: int) -> None:
    packed = zstandard.ZstdCompressor().compress(CONTENT)
    assert refused(frame(CONTENT, size=size), packed) == "RPL-3002"


def test_a_frame_that_is_cut_short_or_changed_is_refused() -> None:
    packed = zstandard.ZstdCompressor(write_checksum=True).compress(CONTENT)
    assert refused(frame(CONTENT), packed[:-9]) == "RPL-3002"
    wrong_sum = packed[:-1] + bytes([packed[-1] ^ 1])
    assert refused(frame(CONTENT), wrong_sum) == "RPL-3002"


def test_content_with_another_digest_is_refused() -> None:
    packed = zstandard.ZstdCompressor().compress(bytes(len(CONTENT)))
    for said, payload in (frame(CONTENT, RAW), bytes(len(CONTENT))), (frame(CONTENT), packed):
        with pytest.raises(PeerFault, match="RPL-3007"):
            opened(said, payload)


def test_several_frames_are_not_one() -> None:
    compress = zstandard.ZstdCompressor().compress
    half = len(CONTENT) // 2
    two = compress(CONTENT[:half]) + compress(CONTENT[half:])
    assert refused(frame(CONTENT), two) == "RPL-3002"


@given(st.binary(max_size=400), st.integers(1, 4096))
def test_garbage_is_refused_and_nothing_else_comes_out(garbage: bytes, size: int) -> None:
    assert refused(frame(CONTENT, size=size), garbage) in {"RPL-3002", "RPL-3007"}
