"""A hostile receiver: the source trusts its authority, and it keeps to no rule.

It is what a receiver is after an intrusion. A script says what it does on each control
connection; its data port takes every hello and answers frames as the script's ``answer`` says.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import secrets
import socket
import struct
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from protocol.identity import Identity, make_request
from protocol.wire.crypto import Direction, SessionKeys
from protocol.wire.data import HELLO_SIZE, DataHello
from protocol.wire.frames import (
    Ack,
    Diff,
    Digests,
    Frame,
    Ready,
    block_count,
    decode_meta,
    encode_meta,
)
from protocol.wire.limits import AES_256_GCM, BUFFER, REPLY_FRAME_MAX
from protocol.wire.messages import (
    Commit,
    Committed,
    OpenedDisk,
    OpenSession,
    SessionOpened,
    Welcome,
)
from receiver.authority import Authority
from tests.support.hostile import HostileControl

HOST = "127.0.0.1"
Script = Callable[["HostileReceiver", HostileControl], None]
Answer = Callable[[int, Frame], list[tuple[Frame, bytes]]]


def honest_answer(sequence: int, frame: Frame) -> list[tuple[Frame, bytes]]:
    """As a receiver whose disks are equal: no block differs, everything is durable."""
    said: list[tuple[Frame, bytes]] = [(Ack(sequence), b"")]
    if isinstance(frame, Digests):
        blocks = block_count(frame)
        said.insert(0, (Diff(sequence, blocks), bytes(-(-blocks // 8))))
    return said


class HostileReceiver:
    """Serves ``script`` on every control connection until :meth:`close`.

    Attributes:
        visits: control connections so far.
        heard: names of the messages that came.
        cipher: what is said to seal frames; it is AES-256-GCM all the same.
    """

    def __init__(self, name: str, state: Path, script: Script) -> None:
        now = dt.datetime.now(dt.UTC)
        with tempfile.TemporaryDirectory(prefix="replicad-test-") as directory:
            authority = Authority.open(Path(directory), now)
            self._context = authority.server_context()
            request = make_request(name)
            signed = authority.sign_source(request.request_pem, name, now)
        self._control, self._data = _listener(), _listener()
        Identity(
            name=name,
            address=f"{HOST}:{self._control.getsockname()[1]}",
            receiver="hostile",
            key_pem=request.key_pem,
            certificate_pem=signed.pem,
            authority_pem=authority.pem,
        ).store(state)
        self.script = script
        self.answer: Answer = honest_answer
        self.cipher = AES_256_GCM
        self.opened: dict[bytes, SessionKeys] = {}
        self.visits = 0
        self.controls: list[HostileControl] = []
        self.heard: dict[str, int] = {}
        self.over = threading.Event()
        self._threads = [
            threading.Thread(target=self._accept, args=(listener, serve), name="hostile")
            for listener, serve in ((self._control, self._visit), (self._data, self._receive))
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop; what is still open is cut."""
        self.over.set()
        for listener in (self._control, self._data):
            listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)
        self._control.close()
        self._data.close()

    def opens(self, message: OpenSession, connections: int, window: int) -> SessionOpened:
        """The answer to a wish for a session."""
        secret, session = secrets.token_bytes(32), os.urandom(16)
        self.opened[session] = SessionKeys(secret, session)
        return SessionOpened(
            answers=message.id,
            session=session.hex(),
            secret=secret,
            data_port=self._data.getsockname()[1],
            epoch=0,
            disks=tuple(
                OpenedDisk(path=disk.path, number=at, generation="g", fresh=True, intermediate="/x")
                for at, disk in enumerate(message.disks)
            ),
            connections=connections,
            window_bytes=window,
            cipher=self.cipher,
        )

    def attend(self, control: HostileControl, connections: int = 2, window: int = 64 << 20) -> None:
        """Answer what the source asks until it hangs up or all is over."""
        with contextlib.suppress(OSError, EOFError, ValueError):
            while not self.over.is_set():
                message = control.hear()
                name = type(message).__name__
                self.heard[name] = self.heard.get(name, 0) + 1
                if isinstance(message, OpenSession):
                    control.say(self.opens(message, connections, window))
                elif isinstance(message, Commit):
                    control.say(Committed(answers=message.id, epoch=message.epoch))

    def _accept(self, listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        while not self.over.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.settimeout(20)
            threading.Thread(target=self._guarded, args=(serve, sock), daemon=True).start()

    def _guarded(self, serve: Callable[[socket.socket], None], sock: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError, ValueError), sock:
            serve(sock)

    def _visit(self, sock: socket.socket) -> None:
        with self._context.wrap_socket(sock, server_side=True) as tls:
            control = HostileControl(tls)
            control.hear()
            control.say(Welcome(version=1, capabilities=("zstd", "digests", "hold")))
            self.visits += 1
            self.controls.append(control)
            try:
                self.script(self, control)
            finally:
                self.controls.remove(control)

    def _receive(self, sock: socket.socket) -> None:
        hello = DataHello.parse(_exactly(sock, HELLO_SIZE))
        keys = self.opened[hello.session]
        sealer = keys.sealer(hello.connection, Direction.FROM_RECEIVER)
        opener = keys.opener(hello.connection, Direction.FROM_SOURCE)
        into, plain = memoryview(bytearray(REPLY_FRAME_MAX + 32)), memoryview(bytearray(BUFFER))

        def say(frame: Frame, payload: bytes = b"") -> None:
            size = sealer.seal(payload + encode_meta(frame), into).size
            sock.sendall(into[:size])

        say(Ready())
        while not self.over.is_set():
            (length,) = struct.unpack(">I", _exactly(sock, 4))
            sequence = opener.next_sequence
            size = opener.open(_exactly(sock, length), plain)
            frame, _ = decode_meta(plain[:size], Direction.FROM_SOURCE)
            for reply, payload in self.answer(sequence, frame):
                say(reply, payload)


def _listener() -> socket.socket:
    listener = socket.socket()
    listener.bind((HOST, 0))
    listener.listen(128)
    return listener


def _exactly(sock: socket.socket, count: int) -> bytes:
    said = b""
    while len(said) < count:
        more = sock.recv(count - len(said))
        if not more:
            raise EOFError
        said += more
    return said
