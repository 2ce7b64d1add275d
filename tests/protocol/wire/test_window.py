from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.errors import PROTOCOL, PeerFault
from protocol.wire.frames import Ack, Diff
from protocol.wire.window import SendWindow


def filled() -> SendWindow[str]:
    """0: data, 1: ping, 2: digests of 8 blocks, 3: data."""
    window: SendWindow[str] = SendWindow(bytes_max=100)
    window.sent(0, 40, "a")
    window.sent(1)
    window.sent(2, 10, "d", blocks=8)
    window.sent(3, 50, "b")
    return window


def test_an_ack_covers_everything_before_it() -> None:
    window = filled()
    assert window.acknowledge(Ack(1)) == ["a"]
    assert window.bytes == 60
    assert window.differs(Diff(2, 8)) == "d"
    assert window.acknowledge(Ack(3)) == ["d", "b"]
    assert (window.bytes, len(window)) == (0, 0)


def test_the_same_ack_again_says_nothing_new() -> None:
    window = filled()
    window.acknowledge(Ack(1))
    assert window.acknowledge(Ack(1)) == []


@pytest.mark.parametrize(
    "sequence", [4, 1 << 60, 0, 2, 3], ids=["unsent", "far", "back", "digests", "over digests"]
)
def test_a_wrong_ack_is_refused_and_changes_nothing(sequence: int) -> None:
    window = filled()
    window.acknowledge(Ack(1))
    before = repr(window)
    with pytest.raises(PeerFault) as caught:
        window.acknowledge(Ack(sequence))
    assert caught.value.code == PROTOCOL.code
    assert repr(window) == before


@pytest.mark.parametrize("diff", [Diff(2, 7), Diff(0, 8), Diff(9, 8)])
def test_a_diff_that_answers_no_digests_is_refused(diff: Diff) -> None:
    with pytest.raises(PeerFault):
        filled().differs(diff)


def test_a_diff_comes_once() -> None:
    window = filled()
    window.differs(Diff(2, 8))
    with pytest.raises(PeerFault):
        window.differs(Diff(2, 8))


def test_room_is_limited_by_bytes_and_by_frames_but_one_frame_always_goes() -> None:
    window: SendWindow[str] = SendWindow(bytes_max=100, frames_max=2)
    assert window.has_room(1000)
    window.sent(0, 60, "a")
    assert window.has_room(40)
    assert not window.has_room(41)
    window.sent(1, 1, "b")
    assert not window.has_room(1)


def test_what_was_not_acknowledged_comes_back() -> None:
    window = filled()
    window.acknowledge(Ack(0))
    assert window.abandon() == ["d", "b"]
    assert (window.bytes, len(window)) == (0, 0)


def test_frames_are_told_in_order() -> None:
    with pytest.raises(ValueError):
        filled().sent(5)


class WindowAgainstModel(RuleBasedStateMachine):
    """The window against a plain list: no token is lost, doubled or early."""

    def __init__(self) -> None:
        super().__init__()
        self.window: SendWindow[int] = SendWindow(bytes_max=1 << 20)
        self.sizes: list[int] = []
        self.acked = -1
        self.returned: list[int] = []

    @rule(size=st.integers(0, 1 << 16))
    def send(self, size: int) -> None:
        self.window.sent(len(self.sizes), size, token=len(self.sizes))
        self.sizes.append(size)

    @rule(up_to=st.integers(0, 60))
    def acknowledge(self, up_to: int) -> None:
        if self.acked <= up_to < len(self.sizes):
            self.returned += self.window.acknowledge(Ack(up_to))
            self.acked = up_to
        else:
            with pytest.raises(PeerFault):
                self.window.acknowledge(Ack(up_to))

    @precondition(lambda self: len(self.sizes) > 40)
    @rule()
    def lose(self) -> None:
        assert self.window.abandon() == list(range(self.acked + 1, len(self.sizes)))
        self.__init__()  # type: ignore[misc]

    @invariant()
    def tokens_come_back_once_and_in_order(self) -> None:
        assert self.returned == list(range(self.acked + 1))
        assert self.window.bytes == sum(self.sizes[self.acked + 1 :])
        assert len(self.window) == len(self.sizes) - self.acked - 1


TestWindowAgainstModel = WindowAgainstModel.TestCase
