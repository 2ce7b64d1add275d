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
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from protocol.errors import Fault
from protocol.views import CheckItem
from replicad.freeze.hooks import find_hooks
from replicad.freeze.mounts import mounts_to_freeze, read_mounts
from replicad.inventory import disks_of
from replicad.tracker.errors import TrackerUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.local.values import Address
    from protocol.wire.jobs import DiskInfo
    from replicad.config import Config
    from replicad.freeze.hooks import Phase
    from replicad.freeze.mounts import FrozenMount, Mount

OLDEST_KERNEL: Final = (5, 12)
"""First kernel whose BPF programs have the atomic OR that the tracker's bitmap needs."""

CAPABILITIES: Final = {"CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})

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


def tracker() -> list[CheckItem]:
    """Loads and attaches the tracker's programs under a name of their own, and removes them."""
    from replicad.tracker.ebpf import EbpfTracker  # noqa: PLC0415 - needs libbpf, asked before
    from replicad.tracker.pins import pin_directory  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="replicad-check-") as name:
        owner = Path(name)
        try:
            EbpfTracker.open(pin_directory(owner), owner).destroy()
        except TrackerUnavailable as error:
            return [warning("tracker", error.reason, REMEDY_COMPARE)]
    return [ok("tracker", "its programs load and attach")]


# --- the disks -------------------------------------------------------------------------------


def disks(offered: Sequence[DiskInfo]) -> list[CheckItem]:
    """Can each disk be read?"""
    if not offered:
        return [problem("disks", "no disk was found", "Name disks in replicad.toml.")]
    return [_readable(info.path) for info in offered]


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


def filesystems(frozen: Sequence[FrozenMount]) -> list[CheckItem]:
    """What a checkpoint would freeze, and what it could only sync."""
    remedy = "Nothing, for a boot partition; otherwise keep it quiet while a checkpoint is taken."
    return [
        note(mount.point, f"{mount.kind} cannot be frozen and is only synced", remedy)
        if mount.sync_only
        else ok(mount.point, f"{mount.kind} can be frozen")
        for mount in frozen
    ]


# --- directories -----------------------------------------------------------------------------


def runtime(
    directory: Path, mounts: Sequence[Mount], frozen: Sequence[FrozenMount]
) -> list[CheckItem]:
    """The runtime directory is written while filesystems are frozen: it must not be on one.

    Args:
        mounts: of our own namespace, in mount order.
        frozen: what a checkpoint of the configured disks freezes.
    """
    holders = [mount for mount in mounts if directory.is_relative_to(mount.point)]
    if not holders:
        return [warning("runtime", f"no mount holds {directory}", "Check [runtime] directory.")]
    # the longest mount point holds it; of two on one point the later one covers the earlier
    holder = max(enumerate(holders), key=lambda pair: (len(pair[1].point), pair[0]))[1]
    remedy = "Set [runtime] directory to a place in memory, such as /run/replicad."
    if holder.kind in IN_MEMORY:
        return [ok("runtime", f"{directory} is in memory")]
    if holder.device in {mount.device for mount in frozen}:
        sentence = f"{directory} lies on {holder.point}, which a checkpoint freezes"
        return [problem("runtime", sentence, remedy)]
    where = f"{holder.point} ({holder.kind})"
    return [warning("runtime", f"{directory} is on {where}, not in memory", remedy)]


def hooks(directory: Path) -> list[CheckItem]:
    """Hooks run with the daemon's rights: one that others could have written is not run."""
    remedy = f"Give it to root and take write permission from others; see 'ls -lR {directory}'."
    phases: tuple[Phase, ...] = ("pre-freeze", "frozen", "post-thaw")
    items = []
    for phase in phases:
        for hook, refusal in find_hooks(directory, phase):
            name = f"{phase}.d/{hook.name}"
            said = problem(name, refusal, remedy) if refusal else ok(name, "will run")
            items.append(said)
    return items or [note("hooks", f"none in {directory}: consistency will be 'filesystem'")]


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


# --- all of it -------------------------------------------------------------------------------


def everything(config: Config, address: Address | None) -> list[CheckItem]:
    """All questions, in the order in which a job would meet them.

    Args:
        address: the receiver's control port; None when the source has not enrolled.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    items = [*kernel(platform.release()), *privileges(status), *libbpf()]
    if all(item.level == "ok" for item in items):
        items += tracker()
    try:
        offered = disks_of(config.source.disks)
    except Fault as fault:
        items.append(problem("disks", fault.sentence, fault.remedy))
        offered = []
    frozen = mounts_to_freeze([info.path for info in offered])
    items += [*disks(offered), *filesystems(frozen)]
    own = [mount for mount in read_mounts() if not mount.reach]
    items += runtime(config.runtime.directory, own, frozen)
    return [*items, *hooks(config.hooks.directory), *receiver(address), *clock()]
