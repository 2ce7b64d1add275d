"""Thaw what a freeze left when daemon and watchdog were killed together.

Two processes that watch each other survive the death of either, not of both in the same moment:
``systemctl kill --signal=KILL``, or the memory controller killing a whole group. For that the
freezer writes what it is about to freeze to a file in memory (``/run``) and removes it after the
thaw. Whoever finds the file later thaws: the daemon as the first thing when it starts, or systemd
when the daemon has ended::

    ExecStopPost=/usr/bin/python3 -I -S .../replicad/freeze/leftover.py /run/replicad/frozen.json

For that use the module imports only the standard library, and writes to nothing but the file.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

FITHAW = 0xC0045878

MOST_BYTES = 1 << 20
"""A longer record is not one of ours."""


def write_record(record: Path, devices: Iterable[tuple[str, Iterable[str]]]) -> None:
    """Remember, first frozen first, (superblock's ``major:minor``, paths to it)."""
    text = json.dumps([[device, list(paths)] for device, paths in devices])
    fd = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text)


def remove_record(record: Path) -> None:
    """After the thaw."""
    record.unlink(missing_ok=True)


def thaw_leftovers(record: Path) -> list[str]:
    """Thaw what ``record`` names and remove it. Returns the paths that were still frozen.

    Not to be called while a freeze of this daemon is under way.

    Raises:
        ValueError: the record is none of ours.
    """
    try:
        with record.open("rb") as file:
            raw = file.read(MOST_BYTES)
    except FileNotFoundError:
        return []
    try:
        entries = parse_record(raw)
    except ValueError as error:
        raise ValueError(f"{record} is not a record of a freeze") from error
    thawed = [
        path for device, paths in reversed(entries) if (path := _thaw(device, paths)) is not None
    ]
    remove_record(record)
    return thawed


def parse_record(raw: bytes) -> list[tuple[str, list[str]]]:
    """(Superblock, paths to it) of a record, first frozen first.

    Raises:
        ValueError: it is none.
    """
    try:
        return [(str(device), [str(path) for path in paths]) for device, paths in json.loads(raw)]
    except (TypeError, RecursionError) as error:
        raise ValueError("it has another form") from error


def _thaw(device: str, paths: Iterable[str]) -> str | None:
    """The path by which the filesystem was thawed; None when it was not frozen or is gone."""
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except (OSError, ValueError):  # gone, or no path at all: another way may still lead there
            continue
        try:
            if _superblock(fd) != device:
                continue
            fcntl.ioctl(fd, FITHAW, 0)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return None
            continue
        finally:
            os.close(fd)
        return path
    return None


def _superblock(fd: int) -> str:
    """The ``major:minor`` that mountinfo gives the mount of ``fd``: fstat's is another on btrfs."""
    info = Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="utf-8").splitlines()
    mount = next(line.split()[1] for line in info if line.startswith("mnt_id:"))
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields = line.split(" ", 3)
        if fields[0] == mount:
            return fields[2]
    # Reached through another mount namespace: there fstat must do.
    status = os.fstat(fd)
    return f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"


def main() -> None:
    """``leftover.py RECORD``; for systemd, see above."""
    thaw_leftovers(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
