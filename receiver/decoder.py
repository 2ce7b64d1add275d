"""From a sealed frame to verified content: open, decompress, check the digest.

What was hashed is what was sent (promise 7): the digest is taken of the buffer that is about
to be written, after everything that could have changed it. Decompression is bounded before it
runs: the frame must state the size that its meta states, which is at most PAYLOAD_MAX, and its
window is bounded too.

A decoder belongs to one connection and is used by one thread at a time.
"""

from __future__ import annotations

import xxhash
import zstandard

from protocol.errors import CORRUPT, PROTOCOL
from protocol.wire.crypto import Direction, SessionKeys
from protocol.wire.frames import RAW, Data, Frame, decode_meta
from receiver.turns import turn

WINDOW_MAX = 1 << 23
"""Bytes of history that a frame may ask for, which the decompressor allocates: more than the
largest payload (1 MiB) ever needs, less than the 128 MiB that zstd itself would accept."""


class Decoder:
    """Opens the frames of one data connection, in order."""

    def __init__(self, keys: SessionKeys, index: int) -> None:
        self._opener = keys.opener(index, Direction.FROM_SOURCE)
        self._zstd = zstandard.ZstdDecompressor(max_window_size=WINDOW_MAX)

    @property
    def sequence(self) -> int:
        """The number of the next frame."""
        return self._opener.next_sequence

    def open(
        self, sealed: memoryview, into: memoryview, scratch: memoryview
    ) -> tuple[Frame, memoryview]:
        """The frame, and what came with it: of a DATA frame its uncompressed, verified content,
        else the payload. It lies at the beginning of ``into`` or of ``scratch``.

        Args:
            scratch: PAYLOAD_MAX bytes or more, free as soon as the frame has been opened: the
                memory that ``sealed`` lies in will do.

        Raises:
            PeerFault: TAMPERED, TOO_LONG, PROTOCOL or CORRUPT; the connection cannot be used any
                more.
        """
        with turn:
            length = self._opener.open(sealed, into)
            frame, size = decode_meta(into[:length], Direction.FROM_SOURCE)
            payload = into[:size]
            if not isinstance(frame, Data):
                return frame, payload
            if frame.encoding == RAW:
                return frame, _verified(frame, payload)
        return frame, self.content(frame, payload, scratch)

    def content(self, frame: Data, payload: memoryview, scratch: memoryview) -> memoryview:
        """The verified content of a compressed payload, in ``scratch``.

        Raises:
            PeerFault: PROTOCOL when it does not expand to what it says, CORRUPT when the
                digest is another.
        """
        content = self._expand(payload, frame.raw_length, scratch)
        with turn:
            return _verified(frame, content)

    def _expand(self, payload: memoryview, size: int, scratch: memoryview) -> memoryview:
        """One zstd frame of exactly ``size`` bytes, into memory that exists already."""
        try:
            stated = zstandard.frame_content_size(payload)
            if stated != size:
                raise PROTOCOL.peer(detail=f"compressed content of {stated} bytes, not {size}")
            with self._zstd.stream_reader(payload) as reader:
                filled = 0
                while filled < size:
                    count = reader.readinto(scratch[filled:size])
                    if count == 0:
                        raise PROTOCOL.peer(detail="compressed content ends early")
                    filled += count
                # Asking for more makes zstd look at the frame's end, and its checksum.
                if reader.read(1):
                    raise PROTOCOL.peer(detail="compressed content goes on after its size")
        except zstandard.ZstdError as error:
            raise PROTOCOL.peer(detail=f"compressed content cannot be read: {error}") from error
        return scratch[:size]


def _verified(frame: Data, content: memoryview) -> memoryview:
    digest = xxhash.xxh3_128_digest(content)
    if digest != frame.digest:
        raise CORRUPT.peer()
    return content
