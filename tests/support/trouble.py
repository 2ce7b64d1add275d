"""What can happen to a connection on its way.

A :class:`Trouble` strikes one direction of one connection at one byte (or frame), counted from the
moment when it was let loose.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from protocol.wire.limits import TAG

if TYPE_CHECKING:
    from tests.support.flow import Flow

CHUNK = 1 << 16
"""Bytes that are carried at a time."""

Port = Literal["control", "data"]


class Cut(Exception):
    """The connection ends here. ``reset``: as a line that breaks, not as a program that ends."""

    def __init__(self, reset: bool) -> None:
        super().__init__()
        self.reset = reset


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that happens.

    Attributes:
        up: to what the source says; else to what the receiver says.
        at: bytes (of kinds with frames: frames) that pass before it.
        by: how much of it; what that means depends on the kind.
        new: it waits for a new connection; else ``which`` of those that stand is meant.
    """

    kind: str
    up: bool = True
    at: int = 0
    by: float = 0.0
    new: bool = False
    which: int = 0
    port: Port = "data"

    @property
    def of_frames(self) -> bool:
        """Whether it is about whole frames."""
        return self.kind in {"twice", "swap", "flip length", "flip tag"}

    @property
    def frames(self) -> int:
        """How many frames it needs at once."""
        return 2 if self.kind == "swap" else 1

    def change(self, frames: list[bytes]) -> list[bytes]:
        """Frames in another order, more of them, or one with a bit that is another."""
        if self.kind == "swap":
            return frames[::-1]
        if self.kind == "twice":
            return frames + frames[:1]
        first = 0 if self.kind == "flip length" else len(frames[0]) - TAG
        frame = bytearray(frames[0])
        frame[first + int(self.by) // 8 % (4 if first == 0 else TAG)] ^= 1 << int(self.by) % 8
        return [bytes(frame), *frames[1:]]

    def strike(self, flow: Flow, there: socket.socket, data: bytes) -> bytes:
        """Happen, in front of ``data``; what is to be sent on after it.

        Raises:
            Cut: the connection ends.
        """
        match self.kind:
            case "cut":
                flow.carried.line.cuts += 1
                raise Cut(reset=self.by > 0)
            case "flip":
                return bytes([data[0] ^ (1 << int(self.by) % 8)]) + data[1:] if data else data
            case "lose":
                return data[int(self.by) :]
            case "replay":
                there.sendall(bytes(flow.recent[-int(self.by) :]))
            case "swallow":
                flow.lost = True
            case "vanish":
                flow.carried.up.lost = flow.carried.down.lost = True
            case "delay":
                flow.sleep = self.by
            case "rate":
                flow.rate = self.by
            case "stall":
                # Nothing is read meanwhile: the sender's window closes.
                time.sleep(self.by)
            case kind:
                raise AssertionError(f"no such trouble: {kind}")
        return data
