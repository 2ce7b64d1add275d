"""The window: bounded, cumulative per connection, and it wakes who waits."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from protocol.link.buffers import BufferPool, LockedArena
from replicad.dirtymap import Batch
from replicad.inflight import InFlight, Stopped, Window


def batch(first: int) -> Batch:
    return Batch(0, "data", ((first, 1),), 1, slice(0, 1), np.ones(1, dtype=np.uint64))


def test_acks_are_cumulative_per_connection_and_free_room() -> None:
    window = InFlight(Window(batches=3, bytes=30))
    one, two, other = batch(1), batch(2), batch(3)
    for connection, sequence, sent in ((0, 1, one), (0, 2, two), (1, 1, other)):
        assert window.reserve(1, 10, 0)
        window.add(connection, sequence, sent, 8, 10, now=float(sequence))
    assert (window.batches, window.bytes) == (3, 24)
    assert not window.reserve(1, 1, 0)
    assert window.oldest_age(5.0) == 4.0
    assert window.acked(0, 2) == [one, two]
    assert window.acked(0, 2) == []
    assert window.lost(1) == [other]
    assert window.empty
    assert window.bytes == 0


def test_a_waiting_sender_is_woken_to_stop() -> None:
    window = InFlight(Window(batches=1, bytes=1))
    assert window.reserve(1, 1, 0)
    stopped = threading.Event()

    def wait() -> None:
        try:
            window.reserve(1, 1)
        except Stopped:
            stopped.set()

    sender = threading.Thread(target=wait)
    sender.start()
    window.stop()
    sender.join(5)
    assert stopped.is_set()


def test_buffers_are_lent_again_and_not_more_than_there_are() -> None:
    pool = BufferPool(1, 5000)
    with pool.lease() as first, pytest.raises(TimeoutError):
        pool.borrow(0)
    assert first.size == 8192
    with pool.lease() as again:
        assert again is first
        assert again.address % 4096 == 0
    pool.close()
    with pytest.raises(ValueError, match="closed"):
        pool.borrow(0)


def test_the_locked_arena_is_of_the_size_asked_for_and_is_freed_once() -> None:
    with LockedArena(5000) as arena:
        arena.view[4999] = 1
        assert len(arena.view) == 5000
    arena.free()
