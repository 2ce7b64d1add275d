"""The command's end of the control socket: blocking calls, because a command does one thing."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from protocol.admin import access, rpc
from protocol.errors import (
    CONTROL_DENIED,
    CONTROL_REQUEST,
    DAEMON_NOT_RUNNING,
    TIMED_OUT,
    USAGE,
    Fault,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self


class Stream:
    """The updates of a streaming call, once; ``result`` is set when the iteration has ended.

    Leaving the iteration early hangs up, which cancels the call.
    """

    def __init__(self, outcomes: Generator[rpc.Update | rpc.Result, None, None]) -> None:
        self._outcomes = outcomes
        self.result: Any = None

    def __iter__(self) -> Iterator[Any]:
        with contextlib.closing(self._outcomes):
            for outcome in self._outcomes:
                if isinstance(outcome, rpc.Result):
                    self.result = outcome.value
                else:
                    yield outcome.value


class AdminClient:
    """Calls methods of a daemon. Connects at the first call; ``with`` closes.

    Args:
        path: the daemon's control socket.
        daemon: its name, for messages.
        timeout: seconds that one call may take in all; None waits for as long as it takes.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        path: Path,
        daemon: str,
        timeout: float | None = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.daemon = daemon
        self.timeout = timeout
        self._clock = clock
        self._socket: socket.socket | None = None
        self._received = bytearray()
        self._last_id = 0

    def call(self, method: str, /, **params: Any) -> Any:
        """The result of a method; updates of a streaming one are passed over.

        Raises:
            PeerFault: what the daemon answered, with its own code and exit code.
            LocalFault: DAEMON_NOT_RUNNING, CONTROL_DENIED or TIMED_OUT.
        """
        stream = self.stream(method, **params)
        for _update in stream:
            pass
        return stream.result

    def stream(self, method: str, /, **params: Any) -> Stream:
        """The updates of a streaming method; then ``.result``. Raises as :meth:`call`."""
        return Stream(self._outcomes(method, params))

    def close(self) -> None:
        """Hang up; the daemon cancels what it still does for us."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._received.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _outcomes(
        self, method: str, params: dict[str, Any]
    ) -> Generator[rpc.Update | rpc.Result, None, None]:
        self._last_id += 1
        try:
            line = rpc.request_line(method, params, self._last_id)
        except UnicodeEncodeError as error:
            # An argument of the command line that is no UTF-8 (PEP 383).
            raise USAGE.fault(problem=f"{error.object!r} is not UTF-8 text") from error
        deadline = None if self.timeout is None else self._clock() + self.timeout
        done = False
        try:
            connection = self._connected()
            self._send(connection, line, deadline)
            while not done:
                outcome = rpc.parse_answer(self._line(connection, deadline), self._last_id)
                done = isinstance(outcome, rpc.Result)
                yield outcome
        except TimeoutError as error:
            raise TIMED_OUT.fault(what=method, seconds=self.timeout) from error
        except OSError as error:
            raise self._not_running(error.strerror or str(error)) from error
        finally:
            # Whatever ended it early, answers may still be on their way: they would be taken
            # for answers to the next call.
            if not done:
                self.close()

    def _connected(self) -> socket.socket:
        if self._socket is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                with access.reachable(self.path) as name:
                    connection.connect(name)
            except PermissionError as error:
                connection.close()
                raise CONTROL_DENIED.fault(uid=os.geteuid()) from error
            except OSError:
                connection.close()
                raise
            self._socket = connection
        return self._socket

    def _send(self, connection: socket.socket, line: bytes, deadline: float | None) -> None:
        connection.settimeout(self._left(deadline))
        try:
            connection.sendall(line)
        except (BrokenPipeError, ConnectionResetError):
            # It closed already. If it said why (denied, too many), that can still be read.
            return

    def _line(self, connection: socket.socket, deadline: float | None) -> bytes:
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            if searched > rpc.LONGEST_ANSWER:
                limit = rpc.LONGEST_ANSWER
                raise CONTROL_REQUEST.peer(problem=f"the answer is longer than {limit} bytes")
            connection.settimeout(self._left(deadline))
            part = connection.recv(1 << 16)
            if not part:
                raise self._not_running("it closed the connection before it answered")
            self._received += part
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def _left(self, deadline: float | None) -> float | None:
        if deadline is None:
            return None
        left = deadline - self._clock()
        if left <= 0:
            raise TimeoutError
        return left

    def _not_running(self, detail: str) -> Fault:
        return DAEMON_NOT_RUNNING.fault(daemon=self.daemon, socket=self.path, detail=detail)
