"""The runtime directory: made when missing, checked, and held by one daemon at a time.

What lies in it (control socket, dirty maps) is trusted, so a directory that others can write
to, or that belongs to somebody else, is refused. The hold is an ``flock(2)``: it ends with
the process however that ends, so a kill leaves nothing to clean up. A *forked* child shares
the hold until it closes the descriptor; a child that is executed does not have it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from typing import TYPE_CHECKING, Final, Self

from protocol.errors import ALREADY_RUNNING, CONFIGURATION

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

LOCK_NAME: Final = "lock"
DIRECTORY_MODE: Final = 0o750


def make_safe(directory: Path) -> None:
    """Make ``directory`` (and parents) when missing; refuse one that others control.

    Raises:
        LocalFault: CONFIGURATION: it cannot be made or written to, is not a directory, belongs
            to another user than root or ourselves, or everybody may write to it.
    """
    try:
        directory.mkdir(DIRECTORY_MODE, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError as error:
        raise _unfit(directory, f"cannot be used ({error.strerror})") from error
    if found.st_uid not in (0, os.geteuid()):
        raise _unfit(directory, f"belongs to user id {found.st_uid}, not to the daemon's user")
    if found.st_mode & stat.S_IWOTH:
        raise _unfit(directory, f"is writable by everybody (mode {stat.S_IMODE(found.st_mode):o})")
    if found.st_mode & stat.S_IWGRP and found.st_gid != 0:
        raise _unfit(directory, f"is writable by its group (mode {stat.S_IMODE(found.st_mode):o})")
    if not os.access(directory, os.W_OK):  # for root too, when its filesystem is read-only
        raise _unfit(directory, "cannot be written to (read-only filesystem, or no permission)")


def _unfit(directory: Path, detail: str) -> Exception:
    return CONFIGURATION.fault(path=directory, problems=f"the directory {detail}")


class RuntimeHold:
    """A runtime directory that is ours until :meth:`close` or the end of the process."""

    def __init__(self, directory: Path) -> None:
        """Take the hold.

        Raises:
            LocalFault: ALREADY_RUNNING when another process has it; CONFIGURATION when the
                directory does not do.
        """
        make_safe(directory)
        path = directory / LOCK_NAME
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(path, flags, 0o640)
        except OSError as error:
            raise _unfit(directory, f"cannot be locked ({error.strerror})") from error
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ALREADY_RUNNING.fault(path=directory) from error
            # For people who look; nothing reads it.
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            undo.pop_all()
        self.directory = directory
        self._fd = fd

    def fileno(self) -> int:
        """The descriptor, for a forked child to close."""
        return self._fd

    def close(self) -> None:
        """Give the directory up. The lock file stays: removing it would race with the next."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
