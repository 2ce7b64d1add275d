"""The daemon's end of the control socket.

One task serves one connection and runs one request at a time, in order: that is all that a
command needs, and it keeps cancellation simple. A client that goes away cancels what runs
for it. Going away is not the same as having nothing more to say (``echo ... | socat`` shuts
its sending side and waits for the answer), and reading cannot tell the two apart; the kernel
can, with ``EPOLLHUP``, so each connection is watched for exactly that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from typing import TYPE_CHECKING, Any, Final, cast

from protocol.admin import access, rpc
from protocol.admin.method import Method, NoParams, describe
from protocol.errors import CONTROL_DENIED, CONTROL_REQUEST, INTERNAL, TOO_MANY, Fault
from protocol.local import log
from protocol.local.runtime import make_safe

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

_log = log.get(__name__)

# Commands come and go; this many at once is a loop in somebody's script. One more is served all
# the same if another asks nothing at the moment: that one is hung up on.
MOST_CONNECTIONS: Final = 64

# A connection on which nothing was asked for so long is closed; `status --watch` is a
# request that runs, so it is not meant.
IDLE_SECONDS: Final = 300.0

# A client that does not read its answer for so long is closed.
STALLED_SECONDS: Final = 30.0


class AdminServer:
    """Serves ``methods`` on the Unix socket ``path``. ``async with`` starts and stops it.

    Args:
        path: the socket; its directory is made when missing and must be safe.
        methods: by name. ``rpc.methods`` is added and lists them.
        group: whose members may use it besides root; None or '': the daemon's own group.
        most_connections: open connections at once.
        idle_seconds: how long a connection may stay without a request.
        stalled_seconds: how long a client may leave its answer unread.
    """

    def __init__(
        self,
        path: Path,
        methods: Mapping[str, Method[Any]],
        group: str | None = None,
        *,
        most_connections: int = MOST_CONNECTIONS,
        idle_seconds: float = IDLE_SECONDS,
        stalled_seconds: float = STALLED_SECONDS,
    ) -> None:
        self.path = path
        self._methods = dict(methods)
        self._methods["rpc.methods"] = Method(self._list_methods)
        self._group_name = group
        self._most_connections = most_connections
        self._idle_seconds = idle_seconds
        self._stalled_seconds = stalled_seconds
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: dict[asyncio.Task[None], None] = {}  # who asked nothing for longest comes first
        self._server: asyncio.Server | None = None
        self._group = -1
        self._inode = (0, 0)

    async def start(self) -> None:
        """Listen.

        Raises:
            LocalFault: ALREADY_RUNNING when a living daemon answers there, CONFIGURATION
                when directory, group or socket do not do.
        """
        self._group = access.group_id(self._group_name)
        make_safe(self.path.parent)
        if self._group_name:
            access.admit(self.path.parent, self._group)
        listener = access.listen(self.path, self._group, self._most_connections)
        found = self.path.stat()
        self._inode = (found.st_dev, found.st_ino)
        self._server = await asyncio.start_unix_server(
            self._connected, sock=listener, limit=rpc.LONGEST_REQUEST
        )

    async def close(self) -> None:
        """Stop listening, cancel what runs, remove the socket file if it is still ours."""
        if self._server is None:
            return
        server, self._server = self._server, None
        with contextlib.suppress(FileNotFoundError):
            found = self.path.stat()
            if (found.st_dev, found.st_ino) == self._inode:
                self.path.unlink()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await server.wait_closed()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _list_methods(self, _params: NoParams) -> object:
        """The methods of this socket with what they do and take."""
        return describe(self._methods)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A plain function, not a coroutine: the task is ours, so that close() can end it.
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Everything is handed to the kernel before a drain ends, so that a client that does
        # not read is noticed and closing leaves nothing behind.
        writer.transport.set_write_buffer_limits(high=0)
        try:
            with _cancelled_when_gone(writer):
                refusal = self._refusal(writer)
                if refusal is None:
                    await self._converse(reader, writer)
                else:
                    _log.warning("control.refused", error=refusal)
                    await self._send(writer, rpc.error_line(None, refusal))
        except (ConnectionError, TimeoutError, asyncio.CancelledError):
            # The client left, is idle or does not read, or we are closing. This task is
            # nobody's but the server's, which does not ask for its outcome.
            writer.transport.abort()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def _refusal(self, writer: asyncio.StreamWriter) -> Fault | None:
        peer = access.peer_of(cast(access.HasOptions, writer.get_extra_info("socket")))
        if not peer.may_use(os.geteuid(), self._group):
            return CONTROL_DENIED.fault(uid=peer.uid)
        if len(self._tasks) > self._most_connections and not self._turn_out():
            limit = self._most_connections
            return TOO_MANY.fault(what=f"the control socket serves {limit} at once")
        return None

    def _turn_out(self) -> bool:
        """Hang up on the connection that has asked nothing for longest, if there is one."""
        eldest = next(iter(self._idle), None)
        if eldest is None:
            return False
        del self._idle[eldest]
        eldest.cancel()
        return True

    async def _line(self, reader: asyncio.StreamReader) -> bytes:
        """The next line, for which a client may let us wait as long as nobody else needs us."""
        task = asyncio.current_task()
        assert task is not None
        self._idle[task] = None
        try:
            async with asyncio.timeout(self._idle_seconds):
                return await reader.readuntil(b"\n")
        finally:
            self._idle.pop(task, None)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer line after line until the client has no more to say."""
        while True:
            try:
                line = await self._line(reader)
            except asyncio.IncompleteReadError as error:
                line = error.partial  # a last line without its newline is a request too
                if not line.strip():
                    return
            except asyncio.LimitOverrunError:
                problem = f"the line is longer than {rpc.LONGEST_REQUEST} bytes"
                fault = CONTROL_REQUEST.fault(problem=problem)
                await self._send(writer, rpc.error_line(None, fault, rpc.INVALID_REQUEST))
                return
            if line.strip():
                async with contextlib.aclosing(self._answers(line)) as answers:
                    async for answer in answers:
                        await self._send(writer, answer)

    async def _send(self, writer: asyncio.StreamWriter, line: bytes) -> None:
        writer.write(line)
        async with asyncio.timeout(self._stalled_seconds):
            await writer.drain()

    async def _answers(self, line: bytes) -> AsyncGenerator[bytes, None]:
        """The lines that answer a request: updates, then a result or an error."""
        id_: rpc.Id = None
        try:
            request = rpc.parse_request(line)
            id_ = request.id
            if not request.wants_answer:
                _log.debug("control.notification_ignored", method=request.method)
                return
            method = self._method(request.method)
            outcomes = method.outcomes(method.decode(request.params))
            async with contextlib.aclosing(outcomes):
                async for outcome in outcomes:
                    if isinstance(outcome, rpc.Update):
                        yield rpc.update_line(request.method, id_, outcome.value)
                    else:
                        yield rpc.result_line(id_, outcome.value)
        except rpc.RequestError as error:
            yield rpc.error_line(error.id if id_ is None else id_, error.fault, error.number)
        except Fault as fault:
            yield rpc.error_line(id_, fault)
        except Exception as error:  # noqa: BLE001 (one request's mistake must not end the daemon)
            _log.exception("control.method_failed", request_id=id_)
            internal = INTERNAL.fault(detail=f"{type(error).__name__}: {error}")
            yield rpc.error_line(id_, internal, rpc.INTERNAL_ERROR)

    def _method(self, name: str) -> Method[Any]:
        method = self._methods.get(name)
        if method is None:
            problem = f"there is no method {name[:100]!r}; call rpc.methods for the list"
            raise rpc.RequestError(rpc.METHOD_NOT_FOUND, problem)
        return method


@contextlib.contextmanager
def _cancelled_when_gone(writer: asyncio.StreamWriter) -> Iterator[None]:
    """Cancels the running task when the peer has closed the connection altogether.

    An epoll that asks for nothing reports only EPOLLHUP and EPOLLERR (epoll_ctl(2)); it is
    itself a descriptor that the loop can watch.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    with select.epoll() as gone:
        gone.register(writer.get_extra_info("socket").fileno(), 0)

        def cancel() -> None:
            loop.remove_reader(gone.fileno())
            task.cancel()

        loop.add_reader(gone.fileno(), cancel)
        try:
            yield
        finally:
            loop.remove_reader(gone.fileno())
