"""The line between source and receiver, one port of it, with everything that can happen to it.

The receiver listens on another address of the loopback, the source dials this one at the same port
(it learns ports from the receiver, and the address at its enrolment). What passes is recorded, can
be cut at any byte, changed frame by frame, and troubled (:mod:`tests.support.trouble`).

Each direction of a connection is a :class:`~tests.support.flow.Flow`, a thread that receives, lets
the troubles of that direction do what they do, and sends on.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from protocol.wire.data import HELLO_SIZE
from tests.support.flow import Flow
from tests.support.trouble import Trouble

RECEIVER = "127.0.0.2"
"""Where the receiver listens; the source dials 127.0.0.1, where the line is in between."""

REMEMBERED = 64
"""Bytes that are kept of what a client said first: a data hello and a little more."""

Change = Callable[[list[bytes]], list[bytes]]
"""What happens to consecutive frames (each with its length) on their way."""

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes a close a reset: what is under way is lost, as when a line breaks."""


class Carried:
    """One connection through a line.

    Attributes:
        heard: what its client said first.
        late: seconds between its accept and our own connecting.
        left: bytes that may still pass, both ways together, before it is cut; None: any.
    """

    def __init__(self, line: Line, client: socket.socket) -> None:
        self.line = line
        self.heard = bytearray()
        self.up, self.down = Flow(self, True), Flow(self, False)
        self.late = 0.0
        self.left: int | None = None
        self._client = client
        self._server: socket.socket | None = None
        self._lock = threading.Lock()

    def run(self) -> None:
        """Connect and carry both directions to their end."""
        time.sleep(self.late)
        try:
            server = socket.create_connection(self.line.to, 10)
            server.settimeout(None)
        except OSError:
            self.cut(reset=False)
        else:
            self._server = server
            back = threading.Thread(target=self.down.carry, args=(server, self._client))
            back.start()
            self.up.carry(self._client, server)
            back.join()
        with self._lock:
            self._client.close()
            if self._server is not None:
                self._server.close()
        self.line.over(self)

    def cut(self, *, reset: bool) -> None:
        """End it, both ways. With ``reset`` what is under way is lost."""
        with self._lock:
            for sock in (self._client, self._server):
                if sock is None or sock.fileno() < 0:
                    continue
                with contextlib.suppress(OSError):
                    if reset:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    sock.shutdown(socket.SHUT_RDWR)


class Line:
    """Carries connections to ``port`` of ``host`` from the same port of 127.0.0.1.

    Args:
        framed: it is a data port, so frames can be changed and are recorded.

    Attributes:
        cuts: connections that were cut in the middle.
        struck: troubles that happened.
        made: connections that were accepted.
        hellos: what clients said first on each connection that is over.
        recordings: of a framed line, what each client said.
        changed: how often frames were tampered with.
    """

    def __init__(self, host: str, port: int, seed: int = 0, *, framed: bool = False) -> None:
        self.cuts = 0
        self.struck = 0
        self.made = 0
        self.changed = 0
        self.framed = framed
        self.hellos: list[bytes] = []
        self.recordings: list[bytearray] = []
        self.to = (host, port)
        self._random = random.Random(seed)
        self._most: int | None = None
        self._change: tuple[int, Change] | None = None
        self._coming: list[Trouble] = []
        self._standing: list[Carried] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=64)
        self._accepting = threading.Thread(target=self._accept)
        self._carrying: set[threading.Thread] = set()
        self._accepting.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything; no thread is left."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        self.quiet()
        self.cut_all()
        for thread in list(self._carrying):
            thread.join(30)

    # --- what can be done to it -----------------------------------------------------------------

    def cut_within(self, most: int | None) -> None:
        """From now on each new connection is cut after at most so many bytes; None: not."""
        self._most = most

    def cut_all(self, *, reset: bool = False) -> None:
        """Cut what stands now, wherever it is."""
        for carried in self.standing():
            carried.cut(reset=reset)

    def standing(self) -> list[Carried]:
        """The connections that stand now, oldest first."""
        with self._lock:
            return list(self._standing)

    def tamper(self, frames: int, change: Change) -> None:
        """Change the next ``frames`` frames of one connection, once."""
        with self._lock:
            self._change = (frames, change)

    def take_change(self) -> tuple[int, Change] | None:
        """What :meth:`tamper` said, once."""
        with self._lock:
            change, self._change = self._change, None
        return change

    def trouble(self, trouble: Trouble) -> None:
        """Let it happen: to a connection that stands, or to the next that is made."""
        with self._lock:
            if trouble.new or not self._standing:
                self._coming.append(trouble)
            else:
                self._trouble(self._standing[trouble.which % len(self._standing)], trouble)

    def _trouble(self, carried: Carried, trouble: Trouble) -> None:
        if trouble.kind == "late":
            carried.late = trouble.by
            self.struck += 1
        else:
            (carried.up if trouble.up else carried.down).trouble(trouble)

    def quiet(self) -> None:
        """No more trouble from now on."""
        with self._lock:
            self._coming.clear()
        for carried in self.standing():
            carried.up.quiet()
            carried.down.quiet()

    def bury(self) -> int:
        """End the connections that have lost something and still stand; how many there were."""
        dead = [each for each in self.standing() if each.up.lost or each.down.lost]
        for carried in dead:
            carried.cut(reset=True)
        return len(dead)

    # --- what was seen ------------------------------------------------------------------------

    @property
    def heard(self) -> bytearray:
        """What the newest connection said towards the receiver."""
        return self.recordings[-1] if self.recordings else bytearray()

    def busiest(self) -> bytearray | None:
        """Of the newest session, a recording with more than the hello."""
        session = self.heard[5:21]
        of_now = (r for r in self.recordings if r[5:21] == session and len(r) > HELLO_SIZE)
        return next(of_now, None)

    # --- carrying -----------------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            carried = Carried(self, client)
            with self._lock:
                self.made += 1
                coming, self._coming = self._coming, []
                for trouble in coming:
                    self._trouble(carried, trouble)
                if self._most:
                    carried.left = self._random.randrange(1, self._most)
                self._standing.append(carried)
                if self.framed:
                    self.recordings.append(carried.heard)
            thread = threading.Thread(target=self._carry, args=(carried,))
            self._carrying.add(thread)
            thread.start()

    def _carry(self, carried: Carried) -> None:
        carried.run()
        self._carrying.discard(threading.current_thread())

    def over(self, carried: Carried) -> None:
        """A connection has ended."""
        with self._lock:
            self._standing.remove(carried)
            if carried.heard:
                self.hellos.append(bytes(carried.heard[:REMEMBERED]))
