"""The queue in front of the log: it never waits, it is bounded, and what it lost is said."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.local.lines import LineWriter


def said(count: int) -> bytes:
    return b"lost %d\n" % count


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


def fill(fd: int) -> int:
    """Fill a pipe until a write would block, and leave it blocking; the bytes in it."""
    os.set_blocking(fd, False)
    filled = 0
    try:
        while True:
            filled += os.write(fd, b"#" * 4096)
    except BlockingIOError:
        os.set_blocking(fd, True)
        return filled


def read(fd: int, count: int) -> bytes:
    content = b""
    while len(content) < count:
        content += os.read(fd, count - len(content))
    return content


def test_lines_arrive_in_their_order() -> None:
    with pipe() as (reading, writing):
        writer = LineWriter(writing, said)
        lines = [b"line %d\n" % number for number in range(500)]
        for line in lines:
            writer.put(line)
        assert writer.close()
        assert read(reading, len(b"".join(lines))) == b"".join(lines)
        assert writer.dropped == 0


def test_a_log_that_is_stuck_holds_up_neither_the_caller_nor_the_end() -> None:
    with pipe() as (reading, writing):
        filled = fill(writing)
        writer = LineWriter(writing, said, limit_lines=10)
        for number in range(1000):
            writer.put(b"%d\n" % number)  # would block for ever if it wrote
        assert writer.dropped >= 1000 - 10 - 1
        assert not writer.close(0.01)  # bounded, and truthful

        # The log takes lines again (a thaw): what waited arrives, after what was lost.
        read(reading, filled)
        writer._thread.join(10)
        lines = os.read(reading, 1 << 16).splitlines()
        numbers = [int(line) for line in lines if line.isdigit()]
        assert numbers[-10:] == list(range(990, 1000))
        assert b"lost %d" % writer.dropped in lines
        assert len(numbers) + writer.dropped == 1000


def test_bytes_are_bounded_as_well_as_lines() -> None:
    with pipe() as (reading, writing):
        filled = fill(writing)
        writer = LineWriter(writing, said, limit_bytes=1000)
        for _ in range(100):
            writer.put(b"x" * 99 + b"\n")
        assert writer._bytes <= 1000
        assert len(writer._lines) == 10
        read(reading, filled)
        assert writer.close()


def test_lines_after_the_end_are_counted() -> None:
    with pipe() as (_, writing):
        writer = LineWriter(writing, said)
        assert writer.close()
        writer.put(b"late\n")
        assert writer.dropped == 1


def test_a_file_that_fails_is_survived_and_the_loss_is_said_when_it_works_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, failures = os.write, [OSError(28, "No space left on device") for _ in range(2)]

    def write(fd: int, data: bytes) -> int:
        if failures:
            raise failures.pop()
        return real(fd, data)

    with pipe() as (reading, writing):
        monkeypatch.setattr(os, "write", write)
        writer = LineWriter(writing, said)
        for line in (b"one\n", b"two\n", b"three\n"):
            writer.put(line)
        assert writer.close()
        assert os.read(reading, 100) == b"lost 2\nthree\n"
        assert writer.dropped == 2


def test_a_closed_pipe_does_not_keep_the_writer_busy_at_the_end() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    writer = LineWriter(writing, said)
    writer.put(b"one\n")
    assert writer.close()
    assert writer.dropped == 1
    os.close(writing)


def test_a_descriptor_that_does_not_block_is_waited_for() -> None:
    with pipe() as (reading, writing):
        os.set_blocking(writing, False)
        writer = LineWriter(writing, said)
        line = b"x" * 300_000 + b"\n"  # more than a pipe holds
        writer.put(line)
        assert read(reading, len(line)) == line
        assert writer.close()


@settings(max_examples=30)
@given(st.lists(st.binary(max_size=30), max_size=40), st.integers(1, 20), st.integers(40, 300))
def test_every_line_arrives_or_is_counted(
    contents: list[bytes], limit_lines: int, limit_bytes: int
) -> None:
    lines = [content.hex().encode() + b"\n" for content in contents]
    with pipe() as (reading, writing):
        writer = LineWriter(writing, said, limit_bytes=limit_bytes, limit_lines=limit_lines)
        for line in lines:
            writer.put(line)
        assert writer.close()
        os.write(writing, b"end\n")
        arrived = os.read(reading, 1 << 16).split(b"\n")
        kept = [line for line in arrived if not line.startswith((b"lost", b"end"))]
        lost = sum(int(line.split()[1]) for line in arrived if line.startswith(b"lost"))
        assert len(kept) - 1 + lost == len(lines)
        assert lost == writer.dropped
