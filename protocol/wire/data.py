"""A data connection without its socket: the hello, and the reader that cuts frames out.

The source opens with 57 bytes in plaintext that say which session and which connection of it
this is, authenticated with a key that only the two know; the receiver answers with a sealed
:class:`~protocol.wire.frames.Ready`, which proves that it has the secret too. Until the hello
is verified the peer has cost 57 bytes and one HMAC.

From then on :class:`FrameReader` says where the next bytes belong (``want()``) and is told
how many came (``received()``). A blocking ``recv_into`` and asyncio's ``BufferedProtocol``
can both drive it, and the ciphertext lands in the pooled buffer without a copy.
"""

from __future__ import annotations

import hmac
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from protocol.errors import HELLO_REFUSED, PROTOCOL, TOO_LONG, TOO_MANY
from protocol.wire.limits import (
    CONNECTION_INDEXES_MAX,
    CONNECTIONS_MAX,
    FRAME_MAX,
    FRAME_MIN,
    LENGTH,
)

if TYPE_CHECKING:
    from protocol.wire.ciphers import Buffer
    from protocol.wire.crypto import SessionKeys

MAGIC: Final = b"RPLD"
DATA_VERSION: Final = 1

_hello = struct.Struct(">4sB16sI")
_CODE: Final = 32
HELLO_SIZE: Final = _hello.size + _CODE
"""bytes of a hello: 57, always. The receiver reads exactly these and nothing more."""


class DataHello(NamedTuple):
    """The source's first words on a data connection. ``session``: 16 bytes; ``connection``: its
    number in the session, never used twice."""

    session: bytes
    connection: int
    code: bytes = b""

    def encode(self, keys: SessionKeys) -> bytes:
        """The 57 bytes, with the code that ``keys`` give."""
        said = _hello.pack(MAGIC, DATA_VERSION, self.session, self.connection)
        return said + keys.hello_code(said)

    @classmethod
    def parse(cls, data: Buffer) -> DataHello:
        """The hello that an unknown peer sent. Believe nothing before :meth:`verify`.

        Raises:
            PeerFault: PROTOCOL, it is not one; HELLO_REFUSED, another version of one.
        """
        if len(data) != HELLO_SIZE:
            raise PROTOCOL.peer(detail=f"a data hello of {len(data)} bytes")
        magic, version, session, connection = _hello.unpack_from(data)
        if magic != MAGIC:
            raise PROTOCOL.peer(detail="what connected to the data port is not a source")
        if version != DATA_VERSION:
            raise HELLO_REFUSED.peer(detail=f"it speaks version {version}, we {DATA_VERSION}")
        return cls(session, connection, bytes(data[_hello.size :]))

    def verify(self, keys: SessionKeys) -> None:
        """Check, in constant time, that the peer has the secret of this session.

        Raises:
            PeerFault: HELLO_REFUSED.
        """
        said = _hello.pack(MAGIC, DATA_VERSION, self.session, self.connection)
        mine = self.session == keys.session
        if not hmac.compare_digest(keys.hello_code(said), self.code) or not mine:
            raise HELLO_REFUSED.peer(detail="its code is not that of the session")


class Connections:
    """The receiver's book of a session's data connections: each index serves once.

    A second use of an index would be a second use of its keys and nonces, or a replayed hello.
    """

    __slots__ = ("_limit", "_open", "_used")

    def __init__(self, limit: int = CONNECTIONS_MAX) -> None:
        self._limit = limit
        self._open: set[int] = set()
        self._used: set[int] = set()

    def __repr__(self) -> str:
        return f"Connections(open={sorted(self._open)}, used={len(self._used)})"

    def admit(self, hello: DataHello) -> None:
        """Take a verified hello.

        Raises:
            PeerFault: HELLO_REFUSED, the index was used; TOO_MANY, also for an index that is
                beyond all that a session may use.
        """
        if hello.connection >= CONNECTION_INDEXES_MAX:
            raise TOO_MANY.peer(what=f"connection {hello.connection} of one session")
        if hello.connection in self._used:
            raise HELLO_REFUSED.peer(detail=f"connection {hello.connection} was used before")
        if len(self._open) >= self._limit:
            raise TOO_MANY.peer(what=f"{len(self._open)} data connections of one session")
        self._used.add(hello.connection)
        self._open.add(hello.connection)

    def ended(self, index: int) -> None:
        """The connection is closed. Its index stays used."""
        self._open.discard(index)


class FrameReader:
    """Cuts sealed frames out of a byte stream, into one buffer of the caller at a time.

    Drive it like this::

        if reader.needs_buffer:
            reader.provide(pool.take())         # at least limit + 4 bytes, writable
        n = socket.recv_into(reader.want())
        if reader.received(n):                  # a frame is complete
            sealed = reader.take()              # a view of the buffer, now the caller's again

    ``want()`` asks for the rest of a frame *and* the four bytes of the next length, which
    would otherwise cost a system call of their own; they are kept aside, never delivered.
    """

    __slots__ = ("_buffer", "_filled", "_head", "_head_filled", "_length", "limit")

    def __init__(self, limit: int = FRAME_MAX) -> None:
        self.limit = limit
        self._head = bytearray(LENGTH)
        self._head_filled = 0
        self._length: int | None = None  # of the frame that is being read
        self._buffer: memoryview | None = None
        self._filled = 0

    def __repr__(self) -> str:
        return f"FrameReader(length={self._length}, filled={self._filled})"

    @property
    def at_boundary(self) -> bool:
        """No frame has begun: the stream may end here."""
        return self._length is None and self._head_filled == 0

    @property
    def needs_buffer(self) -> bool:
        """A frame's length has come, and there is no place for its content."""
        begun = self._length is not None or self._head_filled == LENGTH
        return begun and self._buffer is None

    def provide(self, buffer: memoryview) -> None:
        """Lend the buffer for the next frame. It may be lent before it is needed.

        Raises:
            ValueError: one is lent already, or it is too small for any frame.
        """
        if self._buffer is not None or len(buffer) < self.limit + LENGTH:
            raise ValueError("a reader holds one buffer, with room for a frame and a length")
        self._buffer = buffer

    def want(self) -> memoryview:
        """Where the next bytes of the stream belong; never empty.

        Raises:
            PeerFault: TOO_LONG or PROTOCOL, for a length that came along with the last frame.
            ValueError: :attr:`needs_buffer`, or a complete frame has not been taken.
        """
        if self._length is None:
            self._judge_length()
        if self._length is None:
            return memoryview(self._head)[self._head_filled :]
        if self._buffer is None or self._filled >= self._length:
            raise ValueError("the reader has no place for more bytes")
        return self._buffer[self._filled : self._length + LENGTH]

    def received(self, count: int) -> bool:
        """``count`` bytes were put where :meth:`want` said. True: a frame is complete.

        Raises:
            PeerFault: TOO_LONG or PROTOCOL for the length of a frame, before it is used.
        """
        if self._length is None:
            self._head_filled += count
            self._judge_length()
            return False
        self._filled += count
        return self._filled >= self._length

    def take(self) -> memoryview:
        """The complete frame, without its length. The buffer is the caller's again."""
        if self._length is None or self._buffer is None or self._filled < self._length:
            raise ValueError("no frame is complete")
        sealed = self._buffer[: self._length]
        self._head_filled = self._filled - self._length
        self._head[: self._head_filled] = self._buffer[self._length : self._filled]
        self._buffer = None
        self._length = None
        self._filled = 0
        return sealed

    def _judge_length(self) -> None:
        if self._length is not None or self._head_filled < LENGTH:
            return
        length = int.from_bytes(self._head, "big")
        if length > self.limit:
            raise TOO_LONG.peer(size=length, limit=self.limit, what="a frame")
        if length < FRAME_MIN:
            raise PROTOCOL.peer(detail=f"a frame of {length} bytes holds nothing")
        self._length = length
        self._head_filled = 0
