"""What one data connection has sent and not yet seen acknowledged.

An object of its own, as in etcd's ``inflights``: limited by bytes and by count, and the only
place that believes an Ack. Acks are cumulative and mean *durable*, so a wrong one is not an
oddity but lost data: it is refused before anything is called clean.

Invariants: ``acked < every pending sequence <= sent``; a Digests frame leaves only after its
Diff has come; ``bytes`` is the sum of the pending sizes.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from protocol.errors import PROTOCOL
from protocol.wire.limits import WINDOW_FRAMES_MAX

if TYPE_CHECKING:
    from protocol.wire.frames import Ack, Diff

T = TypeVar("T")


class _Pending(NamedTuple, Generic[T]):
    sequence: int
    size: int
    token: T | None
    blocks: int


class SendWindow(Generic[T]):
    """The unacknowledged frames of one connection, each with the caller's token for it.

    ``bytes_max``: bytes that may wait, in whatever unit :meth:`sent` is told sizes (logical
    bytes for promise 'unacknowledged bytes are capped'). One frame is always allowed.
    """

    __slots__ = ("_digests", "_frames_max", "_pending", "acked", "bytes", "bytes_max", "last_sent")

    def __init__(self, bytes_max: int, frames_max: int = WINDOW_FRAMES_MAX) -> None:
        self.bytes_max = bytes_max
        self.bytes = 0
        self.acked = -1
        self.last_sent = -1
        self._frames_max = frames_max
        self._pending: deque[_Pending[T]] = deque()
        self._digests: dict[int, _Pending[T]] = {}  # not yet answered by a Diff, ascending

    def __repr__(self) -> str:
        return (
            f"SendWindow(acked={self.acked}, sent={self.last_sent}, "
            f"frames={len(self._pending)}, bytes={self.bytes}/{self.bytes_max})"
        )

    def __len__(self) -> int:
        """Frames that wait for their ack."""
        return len(self._pending)

    def has_room(self, size: int) -> bool:
        """May a frame of ``size`` bytes be sent now?"""
        if not self._pending:
            return True
        return len(self._pending) < self._frames_max and self.bytes + size <= self.bytes_max

    def sent(self, sequence: int, size: int = 0, token: T | None = None, blocks: int = 0) -> None:
        """Frame ``sequence`` is on its way. Told for **every** frame, also Fence and Ping.

        ``blocks``: of a Digests frame, the number of digests in it; else 0.

        Raises:
            ValueError: frames are told out of order; our own mistake.
        """
        if sequence != self.last_sent + 1:
            raise ValueError(f"frame {sequence} is told after {self.last_sent}")
        pending = _Pending(sequence, size, token, blocks)
        self.last_sent = sequence
        self.bytes += size
        self._pending.append(pending)
        if blocks:
            self._digests[sequence] = pending

    def acknowledge(self, ack: Ack) -> list[T]:
        """The tokens of the frames that this ack makes durable, in the order of sending.

        Raises:
            PeerFault: PROTOCOL: it goes back, covers what was never sent, or covers a Digests
                frame that has no Diff yet. Nothing has changed then.
        """
        sequence = ack.sequence
        if not self.acked <= sequence <= self.last_sent:
            raise PROTOCOL.peer(
                detail=f"ack of frame {sequence} after {self.acked}, sent up to {self.last_sent}"
            )
        if self._digests and next(iter(self._digests)) <= sequence:
            raise PROTOCOL.peer(detail=f"ack of frame {sequence} before the diff of its digests")
        self.acked = sequence
        tokens = []
        while self._pending and self._pending[0].sequence <= sequence:
            pending = self._pending.popleft()
            self.bytes -= pending.size
            if pending.token is not None:
                tokens.append(pending.token)
        return tokens

    def differs(self, diff: Diff) -> T | None:
        """The token of the Digests frame that this diff answers. It still waits for its ack.

        Raises:
            PeerFault: PROTOCOL: no such frame waits for a diff, or it has another number of
                blocks.
        """
        pending = self._digests.get(diff.sequence)
        if pending is None or pending.blocks != diff.blocks:
            raise PROTOCOL.peer(
                detail=f"a diff of {diff.blocks} blocks for frame {diff.sequence}, which is not"
                " digests of as many that wait for one"
            )
        del self._digests[diff.sequence]
        return pending.token

    def abandon(self) -> list[T]:
        """The connection is lost: the tokens of everything that was not acknowledged."""
        tokens = [pending.token for pending in self._pending if pending.token is not None]
        self._pending.clear()
        self._digests.clear()
        self.bytes = 0
        return tokens
