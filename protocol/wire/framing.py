"""Control framing: a length, then one message as JSON. Bytes in, messages out.

Each message is ``u32`` big-endian length, then that many bytes of UTF-8 JSON: an object whose
``type`` names one of :data:`protocol.wire.messages.ControlMessage`. The reader is pulled
(h11's idea): feeding only appends, ``next_message()`` parses one, so a caller that stops
pulling and stops reading its socket has back-pressure. The length is judged as soon as its
four bytes are there, before room is made for what it announces.
"""

from __future__ import annotations

import msgspec

from protocol.errors import PROTOCOL, TOO_LONG
from protocol.wire.limits import CONTROL_MESSAGE_MAX, LENGTH
from protocol.wire.messages import ControlMessage

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[ControlMessage] = msgspec.json.Decoder(ControlMessage)


def encode_control(message: ControlMessage) -> bytes:
    """The message as it travels, length included.

    Raises:
        ValueError: it is longer than the protocol allows; our own mistake.
    """
    body = _encoder.encode(message)
    if len(body) > CONTROL_MESSAGE_MAX:
        raise ValueError(f"a {type(message).__name__} of {len(body)} bytes cannot be sent")
    return len(body).to_bytes(LENGTH, "big") + body


def decode_control(body: bytes) -> ControlMessage:
    """One message without its length.

    Raises:
        PeerFault: PROTOCOL, for anything that is not a known message. The text never quotes
            values of the message, because one of them may be a secret.
    """
    try:
        # Checked as a whole: msgspec.Raw fields and skipped fields are passed over unread.
        return _decoder.decode(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise PROTOCOL.peer(detail="a control message is not UTF-8") from None
    except RecursionError:
        raise PROTOCOL.peer(detail="a control message is nested too deeply") from None
    except msgspec.ValidationError as problem:
        # Names field and expected type; names an unknown type tag, which is not secret.
        detail = str(problem)[:200]
        raise PROTOCOL.peer(detail=f"a control message is not valid: {detail!r}") from None
    except msgspec.DecodeError:
        raise PROTOCOL.peer(detail="a control message is not JSON") from None


class ControlReader:
    """Cuts a byte stream into control messages.

    ``limit`` (bytes of one message) may be raised while reading: a peer is allowed little
    before it is known. At most ``limit`` + 4 bytes plus one ``feed`` are ever held, provided
    that the caller pulls all messages between feeds.
    """

    def __init__(self, limit: int = CONTROL_MESSAGE_MAX) -> None:
        self.limit = limit
        self._data = bytearray()

    def __repr__(self) -> str:
        return f"ControlReader(limit={self.limit}, held={len(self._data)})"

    @property
    def at_boundary(self) -> bool:
        """No message has begun: the stream may end here."""
        return not self._data

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the stream, cut anywhere."""
        self._data += data

    def next_message(self) -> ControlMessage | None:
        """The next complete message, or None when more bytes are needed.

        Raises:
            PeerFault: TOO_LONG or PROTOCOL. The stream cannot be read any further.
        """
        if len(self._data) < LENGTH:
            return None
        length = int.from_bytes(self._data[:LENGTH], "big")
        if length > self.limit:
            raise TOO_LONG.peer(size=length, limit=self.limit, what="a control message")
        if len(self._data) < LENGTH + length:
            return None
        body = bytes(self._data[LENGTH : LENGTH + length])
        del self._data[: LENGTH + length]
        return decode_control(body)
