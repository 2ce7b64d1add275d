"""Who may use a control socket: root, the daemon's own user, members of the socket's group.

The mode of the socket (0660) says the same, but a mode is easily changed by accident, and
commands that stop a replication deserve a second look. The kernel tells a socket's other end
as it was when it connected (``SO_PEERCRED`` and ``SO_PEERGROUPS``, unix(7)), so there is no
race with a process that has ended and whose number another one has.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from protocol.errors import ALREADY_RUNNING, CONFIGURATION

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOCKET_MODE: Final = 0o660

# include/uapi/asm-generic/socket.h; Python has no name for it. Linux 4.13.
SO_PEERGROUPS: Final = 59
# The most that Python's getsockopt() takes: 256 groups of 4 bytes.
_LARGEST_OPTION: Final = 1024


class HasOptions(Protocol):
    """A socket, or what an event loop gives out in place of one."""

    def getsockopt(self, level: int, option: int, length: int, /) -> bytes:
        """As in :meth:`socket.socket.getsockopt`."""
        ...


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end, as it was when it connected."""

    pid: int
    uid: int
    groups: frozenset[int]

    def may_use(self, owner: int, group: int) -> bool:
        """Whether it may use a socket of user ``owner`` and group ``group``."""
        return self.uid in (0, owner) or group in self.groups


def peer_of(connection: HasOptions) -> Peer:
    """The peer of a connected Unix socket, with its supplementary groups."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, gid = struct.unpack("=iII", credentials)
    return Peer(pid, uid, frozenset({gid, *_supplementary(connection, uid, gid)}))


def _supplementary(connection: HasOptions, uid: int, gid: int) -> list[int]:
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, _LARGEST_OPTION)
    except OSError as error:
        if error.errno not in (errno.ERANGE, errno.ENOPROTOOPT):
            raise
        # More than 256 groups, or a kernel before 4.13: what the user database says.
        try:
            return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
        except KeyError:
            return []
    return [group for (group,) in struct.iter_unpack("=I", packed)]


def group_id(name: str | None) -> int:
    """The number of a group; the daemon's own for None or ''.

    Raises:
        LocalFault: CONFIGURATION: there is no such group.
    """
    if not name:
        return os.getegid()
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        problem = f'there is no group named "{name}"'
        raise CONFIGURATION.fault(path="runtime.group", problems=problem) from error


def admit(directory: Path, group: int) -> None:
    """Give ``directory`` to ``group``, whose members must get through it to a socket inside.

    Raises:
        LocalFault: CONFIGURATION: it cannot be given away (not ours, not our group).
    """
    try:
        if directory.stat().st_gid != group:
            os.chown(directory, -1, group)
    except OSError as error:
        problem = f"the group of {directory} cannot be changed ({error.strerror})"
        raise CONFIGURATION.fault(path="runtime.group", problems=problem) from error


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """A name for ``path`` that fits the 108 bytes of a socket's address, while in the block."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def listen(path: Path, group: int, backlog: int) -> socket.socket:
    """A listening socket at ``path``, in place of one that a dead daemon left.

    It is made under another name, gets its mode and group, and is then renamed: nobody can
    connect to it before it is right.

    Raises:
        LocalFault: ALREADY_RUNNING when a living daemon answers there; CONFIGURATION when
            the socket cannot be made.
    """
    try:
        alive = _answers(path)
        listener = None if alive else _bind(path, group, backlog)
    except OSError as error:
        problem = f"the control socket cannot be made ({error.strerror or error})"
        raise CONFIGURATION.fault(path=path, problems=problem) from error
    if listener is None:
        raise ALREADY_RUNNING.fault(path=path)
    return listener


def _bind(path: Path, group: int, backlog: int) -> socket.socket:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.ExitStack() as undo:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        undo.callback(listener.close)
        temporary.unlink(missing_ok=True)
        with reachable(temporary) as name:
            listener.bind(name)
        undo.callback(temporary.unlink, missing_ok=True)
        os.chown(temporary, -1, group)
        temporary.chmod(SOCKET_MODE)
        listener.listen(backlog)
        listener.setblocking(False)
        temporary.rename(path)
        undo.pop_all()
    return listener


def _answers(path: Path) -> bool:
    """Whether something listens at ``path``. A file that is no socket is an OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            with reachable(path) as name:
                probe.connect(name)
        except BlockingIOError:
            return True  # its queue is full: it lives
        except (FileNotFoundError, ConnectionRefusedError):
            if path.exists() and not path.is_socket():
                raise FileExistsError(errno.EEXIST, "a file that is no socket is there") from None
            return False
        return True
