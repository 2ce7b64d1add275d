"""The conformance suite of intermediate disks: every implementation passes the same tests."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.errors import Fault
from receiver.disk import BlockDisk, IntermediateDisk, RawDisk, zeroing
from receiver.disk.base import ZEROS
from receiver.evidence import Mark

SIZE = 3 << 20


class MemoryDisk(IntermediateDisk):
    """The base over a memory file that can do nothing by kernel: the slow paths of all kinds."""

    def allocated_extents(self) -> list[tuple[int, int]]:
        return [(0, self.size)]

    def mark(self) -> Mark:
        return Mark()

    def _zero_by_kernel(self, offset: int, length: int) -> bool:
        return False


def raw(tmp_path: Path) -> IntermediateDisk:
    return RawDisk.create(
        tmp_path, "job1", number=0, source_path="/dev/vda", size=SIZE, generation="g"
    )


def memory(tmp_path: Path) -> IntermediateDisk:
    descriptor = os.memfd_create("disk")
    os.ftruncate(descriptor, SIZE)
    return MemoryDisk(descriptor, "memory", SIZE, known_zero=True)


def device(tmp_path: Path) -> IntermediateDisk:
    pytest.fail("made by the fixture")


@pytest.fixture(params=[raw, memory, pytest.param(device, marks=pytest.mark.root)])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[IntermediateDisk]:
    make: Callable[[Path], IntermediateDisk] = request.param
    if make is device:
        loop = request.getfixturevalue("loop_device")
        opened: IntermediateDisk = BlockDisk.open(
            loop(SIZE), SIZE, job="job1", others=[], storage=tmp_path
        )
    else:
        opened = make(tmp_path)
    with opened:
        yield opened


def content(disk: IntermediateDisk, offset: int = 0, length: int | None = None) -> bytes:
    buffer = bytearray(disk.size - offset if length is None else length)
    assert disk.read([(offset, len(buffer))], memoryview(buffer)) == len(buffer)
    return bytes(buffer)


def test_what_is_written_is_read(disk: IntermediateDisk) -> None:
    disk.write(4095, memoryview(b"abcde"))
    disk.write(4094, memoryview(b""))
    disk.write(SIZE - 3, memoryview(b"end"))
    disk.sync()
    assert content(disk, 4094, 7) == b"\0abcde\0"
    assert content(disk, SIZE - 4) == b"\0end"


@given(
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, SIZE), st.integers(0, SIZE)), max_size=8)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_it_is_like_a_byte_string(
    disk: IntermediateDisk, steps: Sequence[tuple[bool, int, int]]
) -> None:
    model = bytearray(content(disk))
    for number, (zero, one, other) in enumerate(steps):
        start, end = sorted((one, other))
        if zero:
            disk.zero(start, end - start)
            model[start:end] = bytes(end - start)
        else:
            piece = random.Random(number).randbytes(64) * (-(-(end - start) // 64))
            model[start:end] = piece[: end - start]
            disk.write(start, memoryview(model)[start:end])
    assert content(disk) == model


def test_pieces_are_written_and_read_each_at_its_place(disk: IntermediateDisk) -> None:
    places = [(5, 3), (4096, 4096), (SIZE - 7, 7), (9000, 1)]
    wanted = random.Random(5).randbytes(sum(length for _, length in places))
    pieces, at = [], 0
    for offset, length in places:
        pieces.append((offset, memoryview(wanted)[at : at + length]))
        at += length
    model = bytearray(content(disk))
    for offset, piece in pieces:
        model[offset : offset + len(piece)] = piece
    disk.write_pieces(pieces)
    assert content(disk) == model
    buffer = bytearray(len(wanted) + 1)
    assert disk.read(places, memoryview(buffer)) == len(wanted)
    assert buffer == wanted + b"\0"


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (SIZE, 1), (SIZE - 1, 2), (0, SIZE + 1)])
def test_nothing_outside_of_it_is_touched(disk: IntermediateDisk, offset: int, length: int) -> None:
    before = content(disk)
    buffer = memoryview(bytearray(b"x" * length))
    with pytest.raises(ValueError, match="not within"):
        disk.write(offset, buffer)
    # One piece that is not within, and nothing of the others is written.
    with pytest.raises(ValueError, match="not within"):
        disk.write_pieces([(0, memoryview(b"y" * 100)), (offset, buffer)])
    with pytest.raises(ValueError, match="not within"):
        disk.read([(0, 1), (offset, length)], memoryview(bytearray(1 + length)))
    with pytest.raises(ValueError, match="not within"):
        disk.zero(offset, length)
    assert content(disk) == before


def test_zeroing_what_was_written_reads_as_zeros(disk: IntermediateDisk) -> None:
    disk.write(0, memoryview(b"x" * SIZE))
    disk.zero(5000, 2 * len(ZEROS))
    disk.zero(10, 20)
    disk.sync()
    expected = bytearray(b"x" * SIZE)
    expected[5000 : 5000 + 2 * len(ZEROS)] = bytes(2 * len(ZEROS))
    expected[10:30] = bytes(20)
    assert content(disk) == expected


def test_many_threads_write_at_once(disk: IntermediateDisk) -> None:
    step = 4096

    def work(number: int) -> None:
        disk.write(number * step, memoryview(bytes([number % 255 + 1]) * step))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(SIZE // step)))
    disk.sync()
    assert content(disk) == b"".join(bytes([n % 255 + 1]) * step for n in range(SIZE // step))


def test_one_writer_at_a_time_is_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    within, most = 0, 0
    pwrite = os.pwrite

    def slow(fd: int, content: memoryview, offset: int) -> int:
        nonlocal within, most
        within += 1
        most = max(most, within)
        time.sleep(0.01)
        within -= 1
        return pwrite(fd, content, offset)

    monkeypatch.setattr(os, "pwrite", slow)
    with raw(tmp_path) as disk, ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda at: disk.write(at * 4096, memoryview(bytes(4096))), range(8)))
    assert most == 1


def test_short_writes_are_finished(disk: IntermediateDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite

    def short(descriptor: int, view: memoryview, offset: int) -> int:
        return real(descriptor, view[: max(1, len(view) // 2)], offset)

    data = random.Random(1).randbytes(3000)
    monkeypatch.setattr(os, "pwrite", short)
    disk.write_pieces([(100, memoryview(data)), (5000, memoryview(data))])
    assert content(disk, 100, 3000) == content(disk, 5000, 3000) == data


@pytest.mark.parametrize(
    ("code", "expected"), [(errno.ENOSPC, "RPL-4107"), (errno.EIO, "RPL-4108")]
)
def test_a_failed_write_is_a_fault_and_not_the_end(
    disk: IntermediateDisk, monkeypatch: pytest.MonkeyPatch, code: int, expected: str
) -> None:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        with pytest.raises(Fault, match=expected):
            disk.write(0, memoryview(b"x"))
    disk.write(0, memoryview(b"x"))
    disk.sync()


def test_a_failed_sync_is_never_followed_by_a_good_one(
    disk: IntermediateDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    disk.write(0, memoryview(b"x"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(Fault, match="RPL-4108"):
            disk.sync()
    assert disk.poisoned is not None
    for call in (
        disk.sync,
        lambda: disk.write(0, memoryview(b"x")),
        lambda: disk.zero(0, 1),
        lambda: disk.read([(0, 1)], memoryview(bytearray(1))),
    ):
        with pytest.raises(Fault, match="RPL-4108"):
            call()


def test_close_waits_for_the_writer_and_refuses_the_next(
    disk: IntermediateDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, go_on, closed = threading.Event(), threading.Event(), threading.Event()
    real = os.pwrite

    def slow(descriptor: int, view: memoryview, offset: int) -> int:
        inside.set()
        assert go_on.wait(10)
        return real(descriptor, view, offset)

    def close() -> None:
        disk.close()
        closed.set()

    monkeypatch.setattr(os, "pwrite", slow)
    with ThreadPoolExecutor(2) as pool:
        writer = pool.submit(disk.write, 0, memoryview(b"x"))
        assert inside.wait(10)
        closer = pool.submit(close)
        assert not closed.wait(0.05)
        go_on.set()
        writer.result(10)
        closer.result(10)
    with pytest.raises(ValueError, match="closed"):
        disk.write(0, memoryview(b"x"))
    disk.close()


def test_where_the_kernel_cannot_zero_zeros_are_written(
    disk: IntermediateDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zeroing, "punch_hole", lambda *_: False)
    monkeypatch.setattr(zeroing, "zero_out", lambda *_: False)
    disk.write(0, memoryview(b"x" * SIZE))
    disk.zero(1, SIZE - 2)
    assert content(disk) == b"x" + bytes(SIZE - 2) + b"x"
