"""Whatever the content, what the receiver rebuilds from the frame is what was in the buffer."""

import itertools
import os
from types import SimpleNamespace

import pytest
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.wire.crypto import Direction
from protocol.wire.frames import RAW, ZSTD, Data, decode_meta
from protocol.wire.limits import META_MAX
from replicad.compression import LADDER, PERIOD_FRAMES, PROBE_FRAMES, PROBES, Tuner
from replicad.encoder import BLOCK, Encoder

TEXT = (b"the quick brown fox jumps over the lazy dog. " * 200)[:BLOCK]
NOISE = os.urandom(64 * BLOCK)
KINDS = {"zero": bytes(BLOCK), "text": TEXT}


def block(kind: str, number: int) -> bytes:
    """A block of 4 KiB that is zero, text, noise, or nearly zero."""
    if kind == "noise":
        return NOISE[number % 64 * BLOCK :][:BLOCK]
    if kind == "nearly":
        return bytes(BLOCK - 1) + b"\1"
    return KINDS[kind]


def rebuild(buffer: memoryview, size: int, disk_size: int) -> tuple[Data, bytearray]:
    """What a receiver would have on its disk (0xEE where nothing was said)."""
    frame, payload = decode_meta(buffer[:size], Direction.FROM_SOURCE)
    assert isinstance(frame, Data)
    content = bytes(buffer[:payload])
    if frame.encoding == ZSTD:
        content = zstandard.ZstdDecompressor().decompress(content)
    assert len(content) == frame.raw_length
    assert xxhash.xxh3_128_digest(content) == frame.digest
    disk = bytearray(b"\xee" * disk_size)
    at = 0
    for offset, length, zero in frame.segments:
        disk[offset : offset + length] = bytes(length) if zero else content[at : at + length]
        at += 0 if zero else length
    return frame, disk


kinds = st.lists(
    st.tuples(st.sampled_from(["zero", "text", "noise", "nearly"]), st.integers(1, 40)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=150)
@given(
    runs=kinds,
    gaps=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    compress=st.sampled_from(["auto", "none", "1"]),
)
def test_the_disk_is_rebuilt(runs: list[tuple[str, int]], gaps: list[int], compress: str) -> None:
    expected = bytearray()
    ranges: list[tuple[int, int]] = []
    content = bytearray()
    for (kind, count), gap in zip(runs, gaps, strict=False):
        expected += b"\xee" * (gap * BLOCK)
        piece = b"".join(block(kind, number) for number in range(count))
        if ranges and gap == 0 and ranges[-1][0] + ranges[-1][1] == len(expected):
            ranges[-1] = (ranges[-1][0], ranges[-1][1] + len(piece))
        else:
            ranges.append((len(expected), len(piece)))
        expected += piece
        content += piece
    buffer = memoryview(bytearray(len(content) + META_MAX))
    buffer[: len(content)] = content
    encoded = Encoder(compress).encode(3, ranges, buffer)
    frame, disk = rebuild(buffer, encoded.size, len(expected))
    assert disk == expected
    assert encoded.raw == frame.raw_length
    assert encoded.zero == sum(s.length for s in frame.segments if s.zero)
    assert encoded.raw + encoded.zero == len(content)


@pytest.mark.parametrize("size", [512, 4096, 65536, 1 << 20])
def test_zeros_travel_as_a_few_bytes(size: int) -> None:
    buffer = memoryview(bytearray(size + META_MAX))
    encoded = Encoder("none").encode(0, [(1 << 30, size)], buffer)
    assert encoded.size < 64
    assert encoded.zero == size


def test_noise_is_not_compressed_and_not_copied() -> None:
    buffer = memoryview(bytearray(len(NOISE) + META_MAX))
    buffer[: len(NOISE)] = NOISE
    frame, _ = rebuild(buffer, Encoder("auto").encode(0, [(0, len(NOISE))], buffer).size, 1 << 18)
    assert frame.encoding == RAW
    assert bytes(buffer[: len(NOISE)]) == NOISE


def test_text_is_compressed_unless_forbidden() -> None:
    for compress, encoding in (("auto", ZSTD), ("19", ZSTD), ("none", RAW)):
        buffer = memoryview(bytearray(32 * BLOCK + META_MAX))
        buffer[: 32 * BLOCK] = TEXT * 32
        size = Encoder(compress).encode(0, [(0, 32 * BLOCK)], buffer).size
        frame, _ = rebuild(buffer, size, 32 * BLOCK)
        assert frame.encoding == encoding
        assert (size < 32 * BLOCK // 4) is (encoding == ZSTD)


SECONDS = itertools.count()


def period(tuner: Tuner, line: float) -> int | None:
    """Frames of a second each, of which ``line`` is spent waiting for the line, until a decision;
    the level afterwards."""
    for _ in range(PERIOD_FRAMES):
        tuner.sent(1 << 20, 0.0, line, 1 - line, now=float(next(SECONDS)))
    return tuner.level


def sizes(encoder: Encoder, count: int, content: bytes) -> set[int]:
    """Of frames with this content."""
    found = set()
    for _ in range(count):
        buffer = memoryview(bytearray(len(content) + META_MAX))
        buffer[: len(content)] = content
        found.add(encoder.encode(0, [(0, len(content))], buffer).size)
    return found


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compressing takes no time: a trial that another process interrupts would look dear, beside
    frames that leave by a clock of ours."""
    monkeypatch.setattr("replicad.encoder.time", SimpleNamespace(monotonic=lambda: 0.0))


@pytest.mark.usefixtures("still")
def test_nothing_is_compressed_on_a_line_that_nobody_waits_for() -> None:
    tuner, content = Tuner(), TEXT * 32
    encoder = Encoder("auto", tuner)
    assert max(sizes(encoder, 1, content)) < len(content) // 4
    assert period(tuner, line=0.0) is None
    assert min(sizes(encoder, 8 * PROBE_FRAMES, content)) > len(content)
    # Trials say what it would be good for as soon as it is waited for.
    period(tuner, line=0.9)
    assert min(sizes(encoder, PROBES * PROBE_FRAMES, content)) > len(content)
    assert period(tuner, line=0.9) == LADDER[1]
    assert max(sizes(encoder, 1, content)) < len(content) // 4


@pytest.mark.usefixtures("still")
def test_trials_do_not_promise_what_noise_cannot_keep() -> None:
    tuner = Tuner()
    encoder = Encoder("auto", tuner)
    period(tuner, line=0.0)
    period(tuner, line=0.9)
    sizes(encoder, PROBES * PROBE_FRAMES, NOISE)
    assert period(tuner, line=0.9) is None
    assert "would save 0.0%" in tuner.choice.because


def test_the_segments_of_a_frame_stay_bounded() -> None:
    ranges = [(index * 4 * BLOCK, 2 * BLOCK) for index in range(128)]
    buffer = memoryview(bytearray(256 * BLOCK + META_MAX))
    for index in range(128):
        buffer[index * 2 * BLOCK : index * 2 * BLOCK + 1] = b"\1"
    frame, _ = rebuild(buffer, Encoder("none").encode(0, ranges, buffer).size, 512 * BLOCK)
    assert len(frame.segments) <= 256
