"""Does this machine have what replication takes? ``replicad check`` answers before a job does.

Every question is one function that looks at one thing and returns a few :class:`CheckItem`;
none changes anything, and none needs the daemon. Levels: ``problem`` stops a job or makes a
freeze dangerous, ``warning`` makes it worse than it could be (no tracker: every sync compares),
``note`` is worth knowing. A question that cannot be answered is a warning, never an ``ok``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from protocol.views import CheckItem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.local.values import Address
    from protocol.wire.messages import DiskInfo

OLDEST_KERNEL: Final = (5, 12)
"""First kernel whose BPF programs have the atomic OR that the tracker's bitmap needs."""

CAPABILITIES: Final = {"CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
TMPFS: Final = frozenset({"tmpfs", "ramfs"})
FREEZABLE: Final = frozenset(
    {
        "bcachefs",
        "btrfs",
        "ext2",
        "ext3",
        "ext4",
        "f2fs",
        "gfs2",
        "jfs",
        "nilfs2",
        "reiserfs",
        "xfs",
    }
)
"""Filesystems whose driver has ``freeze_fs`` or ``freeze_super``; FIFREEZE refuses others."""

CONNECT_SECONDS: Final = 5.0
TIME_ERROR: Final = 5
"""adjtimex(2): the clock is not synchronised."""

REMEDY_COMPARE: Final = (
    "Each sync will compare both sides; see 'The tracker' in docs/operations.md."
)


def ok(subject: str, sentence: str) -> CheckItem:
    """Nothing to do."""
    return CheckItem(level="ok", subject=subject, sentence=sentence, remedy="")


def note(subject: str, sentence: str, remedy: str = "") -> CheckItem:
    """Worth knowing."""
    return CheckItem(level="note", subject=subject, sentence=sentence, remedy=remedy)


def warning(subject: str, sentence: str, remedy: str) -> CheckItem:
    """It works, but worse than it could."""
    return CheckItem(level="warning", subject=subject, sentence=sentence, remedy=remedy)


def problem(subject: str, sentence: str, remedy: str) -> CheckItem:
    """It will not work, or not safely."""
    return CheckItem(level="problem", subject=subject, sentence=sentence, remedy=remedy)


# --- what the tracker needs ------------------------------------------------------------------


def kernel(release: str, btf: Path = Path("/sys/kernel/btf/vmlinux")) -> list[CheckItem]:
    """Version and type information (BTF) of the running kernel."""
    numbers = release.partition("-")[0].split(".")[:2]
    old = tuple(int(number) for number in numbers if number.isdigit()) < OLDEST_KERNEL
    wanted = ".".join(map(str, OLDEST_KERNEL))
    return [
        warning("kernel", f"Linux {release} is older than {wanted}: no tracker", REMEDY_COMPARE)
        if old
        else ok("kernel", f"Linux {release}"),
        ok("btf", f"{btf} is there")
        if btf.exists()
        else warning("btf", f"{btf} is missing: no tracker", REMEDY_COMPARE),
    ]


def privileges(status: str) -> list[CheckItem]:
    """The effective capabilities in the text of ``/proc/self/status``."""
    line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    held = int(line.split()[1], 16)
    missing = [name for name, bit in CAPABILITIES.items() if not held >> bit & 1]
    if not missing:
        return [ok("privileges", "BPF, perfmon and system administration are allowed")]
    remedy = "Run it as root or by the unit in systemd/; files can be copied without."
    return [warning("privileges", f"missing {', '.join(missing)}: no tracker, no freeze", remedy)]


def libbpf() -> list[CheckItem]:
    """The library that loads the tracker's programs."""
    try:
        library = ctypes.CDLL("libbpf.so.1")
    except OSError as error:
        remedy = "Install it (Debian: libbpf1; Fedora: libbpf). " + REMEDY_COMPARE
        return [warning("libbpf", f"libbpf.so.1 cannot be loaded ({error})", remedy)]
    library.libbpf_version_string.restype = ctypes.c_char_p
    return [ok("libbpf", f"version {library.libbpf_version_string().decode()}")]


# --- the disks -------------------------------------------------------------------------------


def disks(wanted: Sequence[str], offered: Sequence[DiskInfo]) -> list[CheckItem]:
    """Are the configured disks there, can they be read, can what is mounted be frozen?"""
    items = []
    found = {info.path for info in offered}
    for path in wanted:
        if path not in found:
            remedy = "Correct 'disks' in replicad.toml; 'replicad inventory' lists what is there."
            items.append(problem(path, "is configured, but there is no such disk", remedy))
    if not offered and not wanted:
        items.append(problem("disks", "no disk was found", "Name disks in replicad.toml."))
    for info in offered:
        items.append(_readable(info.path))
        items += [_freezable(info.path, mounted.mount, mounted.kind) for mounted in info.mounted]
    return items


def _readable(path: str) -> CheckItem:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.pread(descriptor, 1, 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        remedy = "Run it as root; if it is, look at the disk (dmesg, SMART)."
        return problem(path, f"cannot be read: {error.strerror}", remedy)
    return ok(path, "can be read")


def _freezable(path: str, mount: str, kind: str) -> CheckItem:
    if kind in FREEZABLE:
        return ok(path, f"{mount} ({kind}) can be frozen")
    remedy = "Keep it quiet at checkpoints (a boot partition usually is), or unmount it."
    return warning(path, f"{mount} ({kind}) cannot be frozen by the kernel", remedy)


# --- directories -----------------------------------------------------------------------------


def runtime(directory: Path, offered: Sequence[DiskInfo], mountinfo: str) -> list[CheckItem]:
    """The runtime directory is used while filesystems are frozen: it must not be on one."""
    mount, kind = _mount_of(directory, mountinfo)
    if kind in TMPFS:
        return [ok("runtime", f"{directory} is in memory")]
    frozen = {mounted.mount: info.path for info in offered for mounted in info.mounted}
    remedy = "Set [runtime] directory to a place in memory, such as /run/replicad."
    if mount in frozen:
        sentence = f"{directory} lies on {frozen[mount]}: a job that copies it would freeze it"
        return [problem("runtime", sentence, remedy)]
    return [warning("runtime", f"{directory} is on {mount} ({kind}), not in memory", remedy)]


def _mount_of(directory: Path, mountinfo: str) -> tuple[str, str]:
    """Mount point and filesystem kind of a directory that need not exist yet (proc(5))."""
    best = ("/", "unknown")
    for line in mountinfo.splitlines():
        fields, _, after = line.partition(" - ")
        mount, kind = fields.split()[4], after.split()[0]
        inside = directory.is_relative_to(mount)
        # later mounts cover earlier ones of the same place
        if inside and len(mount) >= len(best[0]):
            best = (mount, kind)
    return best


def hooks(directory: Path) -> list[CheckItem]:
    """Hooks run with the daemon's rights: nobody else may be able to change them."""
    if not directory.exists():
        return [note("hooks", f"{directory} is not there: no hooks, consistency 'filesystem'")]
    remedy = f"chown root and chmod go-w what is named; see 'ls -lR {directory}'."
    items = []
    for path in (directory, *sorted(directory.glob("*.d")), *sorted(directory.glob("*.d/*"))):
        about = path.stat()
        if about.st_uid not in (0, os.geteuid()) or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            items.append(problem("hooks", f"{path} can be changed by others", remedy))
        elif path.is_file() and not about.st_mode & stat.S_IXUSR:
            items.append(note("hooks", f"{path} is not executable and will not run"))
    return items or [ok("hooks", f"{directory} belongs to us alone")]


# --- the way to the receiver -----------------------------------------------------------------


def receiver(address: Address | None, seconds: float = CONNECT_SECONDS) -> list[CheckItem]:
    """Can the control port be connected to? Says nothing about certificates."""
    if address is None:
        return [note("receiver", "not enrolled yet", "Run 'replicad enroll CODE --receiver HOST'.")]
    try:
        with socket.create_connection((address.host, address.port), timeout=seconds):
            return [ok("receiver", f"{address} answers")]
    except OSError as error:
        remedy = "Check the address, the firewall (outgoing 8080 and 8703) and 'receiver run'."
        return [problem("receiver", f"{address} cannot be reached: {error}", remedy)]


def clock() -> list[CheckItem]:
    """Is the clock kept by someone? Certificates and activation codes have a validity."""
    # struct timex is 208 bytes on 64-bit machines; its first word (modes) 0 only asks
    library = ctypes.CDLL(None, use_errno=True)
    state = library.adjtimex(ctypes.create_string_buffer(512))
    if state == -1:
        code = ctypes.get_errno()
        sentence = f"cannot be asked ({errno.errorcode.get(code, code)})"
        return [warning("clock", sentence, "Check that it is right.")]
    if state == TIME_ERROR:
        remedy = "Run chrony or systemd-timesyncd: certificates and codes have a validity."
        return [note("clock", "the kernel does not know of anyone who sets it", remedy)]
    return [ok("clock", "is synchronised")]


def machine() -> list[CheckItem]:
    """What does not depend on the configuration."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return [*kernel(platform.release()), *privileges(status), *libbpf(), *clock()]
