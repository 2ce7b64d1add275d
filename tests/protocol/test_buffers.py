"""A buffer's end: nothing that happens there may stand in for the fault that led to it."""

from __future__ import annotations

import pytest

from protocol.link.buffers import Buffer


def test_a_slice_in_a_traceback_does_not_become_another_fault() -> None:
    """As in a sender thread whose connection is cut: its frames hold what they were sending."""

    def send(part: memoryview) -> None:
        raise ConnectionResetError(len(part))

    def serve() -> None:
        buffer = Buffer(8192)
        try:
            send(buffer.view[:4096])
        finally:
            buffer.free()

    with pytest.raises(ConnectionResetError):
        serve()


def test_a_slice_outlives_the_buffer() -> None:
    buffer = Buffer(8192)
    part = buffer.view[4096:]
    buffer.free()
    part[0] = 1
    assert part[0] == 1
