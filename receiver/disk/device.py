"""What the kernel knows of block devices: read from sysfs and procfs, by number, not by name.

A device has many names (links in ``/dev/disk``, nodes made by hand); its number (major:minor)
is one. Everything here goes from a path to its number at once and asks by that.
``Machine`` takes the places of /sys and /proc, so that tests can show it any machine.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import TARGET_MISSING

SECTOR = 512
"""sysfs counts in 512-byte sectors whatever the device's own sector is."""

Number = tuple[int, int]
"""Major and minor."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Random for each boot (random(4)): two processes that read the same run on the same kernel."""

_ESCAPE = re.compile(r"\\([0-7]{3})")
_MARKS = (
    "serial",
    "device/serial",
    "device/wwid",
    "wwid",
    "dm/uuid",
    "loop/backing_file",
    "partition",
    "start",
)


@dataclass(frozen=True, slots=True)
class Device:
    """A block device. ``disk``: the whole disk's number, its own unless it is a partition."""

    path: str
    number: Number
    name: str
    size: int
    read_only: bool
    disk: Number
    partitions: tuple[Number, ...]
    holders: tuple[str, ...]
    marks: dict[str, str]

    @property
    def related(self) -> frozenset[Number]:
        """Numbers under which the same bytes can be reached: itself, its partitions, its disk."""
        return frozenset({self.number, self.disk, *self.partitions})


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted filesystem. ``number`` is of a device, or made up by the kernel (btrfs)."""

    number: Number
    source: str
    where: str


class Machine:
    """The kernel's own account of devices, mounts and swap."""

    def __init__(self, sys: Path = Path("/sys"), proc: Path = Path("/proc")) -> None:
        self._sys = sys
        self._proc = proc

    def device(self, path: str) -> Device:
        """The block device that ``path`` leads to, through any links.

        Raises:
            LocalFault: TARGET_MISSING: nothing there, or not a block device.
        """
        number = self.number_of(path)
        if number is None:
            detail = "it is not a block device" if Path(path).exists() else "it is not there"
            raise TARGET_MISSING.fault(path=path, detail=detail)
        return self.describe(path, number)

    def number_of(self, path: str) -> Number | None:
        """The number of the device at ``path``; None when there is no block device."""
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return None
        if not stat.S_ISBLK(status.st_mode):
            return None
        return os.major(status.st_rdev), os.minor(status.st_rdev)

    def describe(self, path: str, number: Number) -> Device:
        """The device with this number.

        Raises:
            LocalFault: TARGET_MISSING: the kernel has none.
        """
        try:
            place = self._place(number)
            whole = place.parent if (place / "partition").exists() else place
            return Device(
                path=path,
                number=number,
                name=place.name,
                size=int(_read(place / "size")) * SECTOR,
                read_only=_read(place / "ro") != "0" or _read(whole / "ro") != "0",
                disk=_number(_read(whole / "dev")),
                partitions=tuple(
                    sorted(_number(_read(p.parent / "dev")) for p in place.glob("*/partition"))
                ),
                holders=self._holders(place, whole),
                marks=_marks(place, whole),
            )
        except (OSError, ValueError) as error:
            raise TARGET_MISSING.fault(path=path, detail=f"the kernel says {error}") from error

    def mounts(self) -> list[Mount]:
        """What is mounted, as we see it and as process 1 sees it (a service may see less)."""
        found: list[Mount] = []
        for process in ("self", "1"):
            try:
                lines = (self._proc / process / "mountinfo").read_text(errors="surrogateescape")
            except OSError:
                if process == "self":
                    raise
                continue
            found += [_mount(line) for line in lines.splitlines()]
        return found

    def mounts_of(self, numbers: frozenset[Number]) -> list[str]:
        """Where any of these devices is mounted.

        A filesystem with a made-up number (btrfs) is found by the device that it names.
        """
        return [
            mount.where
            for mount in self.mounts()
            if mount.number in numbers
            or (mount.source.startswith("/") and self.number_of(mount.source) in numbers)
        ]

    def swaps(self) -> list[str]:
        """Paths of the active swap areas."""
        lines = (self._proc / "swaps").read_text(errors="surrogateescape").splitlines()[1:]
        return [_unescaped(line.split()[0]) for line in lines if line.strip()]

    def backed_by(self, numbers: frozenset[Number]) -> list[str]:
        """Loop devices whose backing "file" is one of these devices: no holder shows that."""
        found = []
        for backing in sorted((self._sys / "block").glob("loop*/loop/backing_file")):
            try:
                path = _read(backing)
            except OSError:
                continue  # detached since it was listed
            if self.number_of(path) in numbers:
                found.append(backing.parent.parent.name)
        return found

    def device_of_directory(self, directory: Path) -> Number | None:
        """The device that holds a directory's filesystem; None when it has none (tmpfs, NFS)."""
        status = directory.stat()
        number = (os.major(status.st_dev), os.minor(status.st_dev))
        if number[0] != 0:
            return number
        at = str(directory.resolve())
        inside = [m for m in self.mounts() if at == m.where or at.startswith(_slashed(m.where))]
        holding = max(inside, key=lambda mount: len(mount.where), default=None)
        return None if holding is None else self.number_of(holding.source)

    def _place(self, number: Number) -> Path:
        return (self._sys / "dev" / "block" / f"{number[0]}:{number[1]}").resolve(strict=True)

    @staticmethod
    def _holders(place: Path, whole: Path) -> tuple[str, ...]:
        found = {holder.name for where in (place, whole) for holder in where.glob("holders/*")}
        found |= {holder.name for holder in place.glob("*/holders/*")}
        return tuple(sorted(found))


def same_machine(boot: str) -> bool:
    """Whether a peer that read this boot id runs on our kernel, so that its paths and ours may
    name the same disks."""
    return bool(boot) and BOOT_ID.read_text().strip() == boot


def _marks(place: Path, whole: Path) -> dict[str, str]:
    """What tells this device from another of its size: serial numbers, backing file, position."""
    found = {}
    for mark in _MARKS:
        where = place if mark in {"partition", "start"} else whole
        try:
            value = _read(where / mark)
        except OSError:
            continue  # this kind of device has no such mark
        if value:
            found[mark] = value
    return found


def _read(path: Path) -> str:
    return path.read_text(errors="replace").strip()


def _number(text: str) -> Number:
    major, _, minor = text.partition(":")
    return int(major), int(minor)


def _mount(line: str) -> Mount:
    """A line of mountinfo, see proc_pid_mountinfo(5); optional fields end with a lone ``-``."""
    first, _, last = line.partition(" - ")
    fields, rest = first.split(" "), last.split(" ")
    return Mount(number=_number(fields[2]), source=_unescaped(rest[1]), where=_unescaped(fields[4]))


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)


def _slashed(path: str) -> str:
    return path if path.endswith("/") else path + "/"
