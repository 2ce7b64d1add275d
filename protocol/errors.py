"""Every error that a user can meet, in one table, and the exceptions that carry them.

The tree::

    Fault                 what a user reads: code, sentence, remedy, exit code
    ├── LocalFault        our own side cannot go on (configuration, disk, kernel)
    └── PeerFault         the other side broke the protocol or refused us

An error is *declared* once as a :class:`Kind` in :data:`KINDS` and *raised* with what is
particular to this case: ``raise TARGET_MOUNTED.fault(path="/dev/sdb1", where="/srv")``.
``docs/errors.md`` is generated from the table, so a code without a remedy cannot exist.

Codes: 1xxx usage and configuration, 2xxx identity and enrolment, 3xxx the wire, 4xxx the
receiver's disks and jobs, 5xxx the source's disks and tracking, 6xxx freeze and checkpoint.
Codes are stable: they are never renumbered or reused.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


class Exit(enum.IntEnum):
    """Exit codes of every command (fixed: scripts rely on them)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    NOT_RUNNING = 4
    TIMED_OUT = 5


class Fault(Exception):
    """A problem with a stable code, one sentence for people, and what to do about it.

    Attributes:
        code: ``RPL-`` and four digits.
        sentence: what happened, with the names of the things it happened to.
        remedy: what the reader can do now.
        exit_code: what a command ends with when this reaches it.
    """

    def __init__(self, code: str, sentence: str, remedy: str, exit_code: Exit = Exit.FAILED) -> None:
        super().__init__(f"{code}: {sentence}")
        self.code = code
        self.sentence = sentence
        self.remedy = remedy
        self.exit_code = exit_code

    def as_dict(self) -> dict[str, str]:
        """The form in which it crosses a socket or is printed with ``--json``."""
        return {"code": self.code, "message": self.sentence, "remedy": self.remedy}


class LocalFault(Fault):
    """Our own side: configuration, disk, kernel, permissions."""


class PeerFault(Fault):
    """The other side: it refused us, or said something that the protocol does not allow."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The declaration of one error. ``sentence`` and ``remedy`` are ``str.format`` templates."""

    code: str
    name: str
    sentence: str
    remedy: str
    exit_code: Exit = Exit.FAILED

    def fault(self, **particulars: Any) -> LocalFault:
        """The error as our own, filled in with the particulars of this case."""
        return LocalFault(
            self.code,
            self.sentence.format(**particulars),
            self.remedy.format(**particulars),
            self.exit_code,
        )

    def peer(self, **particulars: Any) -> PeerFault:
        """The error as the other side's fault."""
        return PeerFault(
            self.code,
            self.sentence.format(**particulars),
            self.remedy.format(**particulars),
            self.exit_code,
        )


def from_peer(code: str, message: str, remedy: str) -> PeerFault:
    """An error that the other side reported, with the exit code our own table gives it."""
    known = BY_CODE.get(code)
    return PeerFault(code, message, remedy, known.exit_code if known else Exit.FAILED)


# --- 1xxx usage and configuration -----------------------------------------------------------
CONFIGURATION = Kind(
    "RPL-1001",
    "configuration",
    "{path}: {problems}",
    "Correct the named keys; 'man replicad' and docs/operations.md list what each takes.",
    Exit.USAGE,
)
USAGE = Kind(
    "RPL-1002",
    "usage",
    "{problem}",
    "See --help of the command.",
    Exit.USAGE,
)
DAEMON_NOT_RUNNING = Kind(
    "RPL-1101",
    "daemon_not_running",
    "no {daemon} daemon answers on {socket} ({detail})",
    "Start it ('systemctl start {daemon}' or '{daemon} run') or name its configuration with --config.",
    Exit.NOT_RUNNING,
)
CONTROL_DENIED = Kind(
    "RPL-1102",
    "control_denied",
    "user id {uid} may not use this control socket",
    "Run the command as root or as a member of the socket's group.",
    Exit.REFUSED,
)
CONTROL_REQUEST = Kind(
    "RPL-1103",
    "control_request",
    "the control request is not valid: {problem}",
    "Send one JSON-RPC 2.0 object per line; docs/control-socket.md lists the methods.",
    Exit.USAGE,
)
TIMED_OUT = Kind(
    "RPL-1104",
    "timed_out",
    "{what} did not end within {seconds:g} s",
    "It may still go on: look at 'status' or 'job show', and wait longer with --timeout.",
    Exit.TIMED_OUT,
)
ALREADY_RUNNING = Kind(
    "RPL-1105",
    "already_running",
    "another daemon already uses {path}",
    "Stop it, or give this one its own directories in the configuration.",
    Exit.REFUSED,
)
INTERNAL = Kind(
    "RPL-1900",
    "internal",
    "an error in this program: {detail}",
    "Report it with the daemon's log; the data already copied is not affected.",
)

# --- 2xxx identity and enrolment ------------------------------------------------------------
ACTIVATION_MALFORMED = Kind(
    "RPL-2001",
    "activation_malformed",
    "the activation code is not well formed: {problem}",
    "Copy the whole code as 'receiver activation create' printed it.",
    Exit.USAGE,
)
ACTIVATION_UNKNOWN = Kind(
    "RPL-2002",
    "activation_unknown",
    "the receiver does not know this activation code",
    "Create a new one with 'receiver activation create' on the receiver.",
    Exit.REFUSED,
)
ACTIVATION_EXPIRED = Kind(
    "RPL-2003",
    "activation_expired",
    "the activation code expired at {expired}",
    "Create a new one with 'receiver activation create' on the receiver.",
    Exit.REFUSED,
)
ACTIVATION_USED_UP = Kind(
    "RPL-2004",
    "activation_used_up",
    "the activation code has been used {uses} of {uses} times",
    "Create a new one with 'receiver activation create' on the receiver.",
    Exit.REFUSED,
)
CA_MISMATCH = Kind(
    "RPL-2005",
    "ca_mismatch",
    "{address} is not the receiver that made this activation code: its certificate authority differs",
    "Check the address; if it is right, someone is in between: do not enrol.",
    Exit.REFUSED,
)
CERTIFICATE_REFUSED = Kind(
    "RPL-2006",
    "certificate_refused",
    "the certificate was refused: {detail}",
    "Enrol the source again with a new activation code.",
    Exit.REFUSED,
)
SOURCE_FORGOTTEN = Kind(
    "RPL-2007",
    "source_forgotten",
    "the receiver has forgotten this source ({name})",
    "Enrol it again with a new activation code if it should replicate.",
    Exit.REFUSED,
)
NOT_ENROLLED = Kind(
    "RPL-2008",
    "not_enrolled",
    "this source is not enrolled with a receiver",
    "Run 'replicad enroll CODE --receiver HOST'.",
    Exit.FAILED,
)
SOURCE_NAME_TAKEN = Kind(
    "RPL-2009",
    "source_name_taken",
    "a source named {name} is already enrolled",
    "Give this one another name in its configuration, or 'receiver source forget {name}' first.",
    Exit.REFUSED,
)
ALREADY_ENROLLED = Kind(
    "RPL-2010",
    "already_enrolled",
    "this source is already enrolled with {receiver}",
    "Use 'replicad enroll --replace' if it should leave that receiver.",
    Exit.REFUSED,
)
AUTHORITY_UNUSABLE = Kind(
    "RPL-2011",
    "authority_unusable",
    "the receiver's certificate authority in {path} cannot be used: {problem}",
    "Put the right files back. A new authority means that every source must enrol again.",
)

# --- 3xxx the wire --------------------------------------------------------------------------
UNREACHABLE = Kind(
    "RPL-3001",
    "unreachable",
    "the receiver at {address} cannot be reached: {detail}",
    "Check the address, the network and that 'receiver run' is running there; it is tried again by itself.",
)
PROTOCOL = Kind(
    "RPL-3002",
    "protocol",
    "the peer broke the protocol: {detail}",
    "Check that both sides run compatible versions; if they do, someone may be interfering.",
)
VERSION = Kind(
    "RPL-3003",
    "version",
    "no common protocol version: the receiver speaks {receiver}, the source speaks {source}; {older} is older",
    "Upgrade the software of {older}, then it connects by itself.",
    Exit.REFUSED,
)
TOO_LONG = Kind(
    "RPL-3004",
    "too_long",
    "the peer announced {size} bytes where at most {limit} are allowed ({what})",
    "Check that it is one of our daemons that talks to this port.",
)
SILENT = Kind(
    "RPL-3005",
    "silent",
    "the peer said nothing for {seconds:g} s",
    "Check the network between the two; the connection is made again by itself.",
)
TAMPERED = Kind(
    "RPL-3006",
    "tampered",
    "a frame does not open with this connection's key: changed, replayed, reordered or not ours",
    "The connection is made again by itself; if this repeats, someone is changing traffic.",
)
CORRUPT = Kind(
    "RPL-3007",
    "corrupt",
    "the content of a frame does not have the digest that was sent with it",
    "Memory of one of the two machines may be failing: test it. The extent is sent again.",
)
SESSION_FENCED = Kind(
    "RPL-3008",
    "session_fenced",
    "the session was replaced by a newer one",
    "Nothing to do; if it repeats, two daemons are running with the same identity.",
)
CONNECTION_LOST = Kind(
    "RPL-3009",
    "connection_lost",
    "the connection to {peer} was lost: {detail}",
    "It is made again by itself; what was in flight is sent again.",
)
TOO_MANY = Kind(
    "RPL-3010",
    "too_many",
    "too many connections: {what}",
    "Wait, or look for what is connecting so often.",
)
HELLO_REFUSED = Kind(
    "RPL-3011",
    "hello_refused",
    "a data connection was refused: {detail}",
    "The source makes new ones with a new session; if this repeats, look for who connects.",
)

# --- 4xxx the receiver's disks and jobs -----------------------------------------------------
UNKNOWN_SOURCE = Kind(
    "RPL-4001",
    "unknown_source",
    "there is no source named {name}",
    "See 'receiver source list'; enrol it with an activation code first.",
    Exit.REFUSED,
)
UNKNOWN_DISK = Kind(
    "RPL-4002",
    "unknown_disk",
    "source {source} has no disk {path}",
    "See 'receiver source show {source}' for the disks that it offers.",
    Exit.REFUSED,
)
UNKNOWN_JOB = Kind(
    "RPL-4003",
    "unknown_job",
    "there is no job {job}",
    "See 'receiver job list'.",
    Exit.REFUSED,
)
JOB_UNFINISHED = Kind(
    "RPL-4004",
    "job_unfinished",
    "source {source} already has an unfinished job ({job})",
    "Cancel or cut over that one first.",
    Exit.REFUSED,
)
JOB_STATE = Kind(
    "RPL-4005",
    "job_state",
    "job {job} is {state}: it cannot be {action} now",
    "See 'receiver job show' for what the job is doing.",
    Exit.REFUSED,
)
TARGET_TOO_SMALL = Kind(
    "RPL-4101",
    "target_too_small",
    "target {path} has {size} bytes, but the disk has {needed}",
    "Use a larger device, or 'raw' for a file.",
    Exit.REFUSED,
)
TARGET_MOUNTED = Kind(
    "RPL-4102",
    "target_mounted",
    "target {path} is mounted on {where}",
    "Unmount it if its content may be overwritten, or choose another target.",
    Exit.REFUSED,
)
TARGET_IN_USE = Kind(
    "RPL-4103",
    "target_in_use",
    "target {path} is in use: {detail}",
    "Stop what uses it, or choose another target.",
    Exit.REFUSED,
)
TARGET_OF_OTHER_JOB = Kind(
    "RPL-4104",
    "target_of_other_job",
    "target {path} belongs to job {job}",
    "Delete that job first, or choose another target.",
    Exit.REFUSED,
)
TARGET_MISSING = Kind(
    "RPL-4105",
    "target_missing",
    "target {path} cannot be opened: {detail}",
    "Check the path and that the device is there.",
    Exit.REFUSED,
)
TARGET_CHANGED = Kind(
    "RPL-4106",
    "target_changed",
    "intermediate disk {path} is not the one this job wrote: {detail}",
    "Put the right one back; or cancel the job and create a new one.",
    Exit.REFUSED,
)
RECEIVER_FULL = Kind(
    "RPL-4107",
    "receiver_full",
    "the receiver has no space left for {path} ({free} bytes free)",
    "Free space on the receiver's storage, then 'receiver job retry'.",
)
TARGET_IO = Kind(
    "RPL-4108",
    "target_io",
    "writing to {path} failed: {detail}",
    "Check the receiver's disk (dmesg, SMART), then 'receiver job retry'.",
)
DISK_NOT_OF_JOB = Kind(
    "RPL-4109",
    "disk_not_of_job",
    "this session may not touch disk {disk}: it belongs to no disk of its job",
    "None; the other side broke the protocol.",
    Exit.REFUSED,
)
JOB_EXPIRED = Kind(
    "RPL-4110",
    "job_expired",
    "job {job} expired at {when}",
    "Set a later 'valid', then 'receiver job start'.",
    Exit.REFUSED,
)
CATALOG_UNUSABLE = Kind(
    "RPL-4111",
    "catalog_unusable",
    "the catalog {path} cannot be used: {problem}",
    "Put back the last good copy, or start the release of replicad that wrote it.",
)

# --- 5xxx the source's disks and tracking ---------------------------------------------------
SOURCE_DISK_MISSING = Kind(
    "RPL-5001",
    "source_disk_missing",
    "disk {path} of the source cannot be opened: {detail}",
    "Check that the disk is there; then 'receiver job retry'.",
)
SOURCE_DISK_RESIZED = Kind(
    "RPL-5002",
    "source_disk_resized",
    "disk {path} changed its size from {before} to {after} bytes",
    "Restore the size, or cancel the job and create a new one.",
    Exit.REFUSED,
)
SOURCE_DISK_CHANGED = Kind(
    "RPL-5003",
    "source_disk_changed",
    "{path} is not the disk that this job copies: {detail}",
    "Put the right disk back; or cancel the job and create a new one for this disk.",
    Exit.REFUSED,
)
SOURCE_DISK_READ = Kind(
    "RPL-5004",
    "source_disk_read",
    "reading {path} at bytes {offset}-{end} failed: {detail}",
    "Check the disk (dmesg, SMART), then 'receiver job retry'.",
)
SOURCE_DISK_FORBIDDEN = Kind(
    "RPL-5005",
    "source_disk_forbidden",
    "disk {path} is not among the disks that the source's configuration allows",
    "Add it to 'disks' in replicad.toml on the source if it may be copied.",
    Exit.REFUSED,
)
RUNTIME_ON_DISK = Kind(
    "RPL-5006",
    "runtime_on_disk",
    "the runtime directory {path} lies on {disk}, which this job copies and freezes",
    "Set [runtime] directory to a place in memory, such as /run/replicad.",
    Exit.REFUSED,
)
RUNTIME_FULL = Kind(
    "RPL-5007",
    "runtime_full",
    "{path} needs up to {needed} bytes, but its filesystem has {free} free",
    "Make room there, or set [runtime] directory to a larger place in memory.",
)
TRACKER_UNAVAILABLE = Kind(
    "RPL-5101",
    "tracker_unavailable",
    "writes cannot be tracked on this machine: {detail}",
    "Each sync compares both sides instead; see docs/operations.md for what the tracker needs.",
)

# --- 6xxx freeze and checkpoint -------------------------------------------------------------
DISK_BUSY_UNMOUNTED = Kind(
    "RPL-6001",
    "disk_busy_unmounted",
    "disk {path} has no mounted filesystem to freeze and is being written ({detail})",
    "Stop what writes to it for the moment of the checkpoint, or mount its filesystem on the source.",
    Exit.REFUSED,
)
FREEZE_FAILED = Kind(
    "RPL-6002",
    "freeze_failed",
    "filesystem {mount} could not be frozen: {detail}",
    "Check 'replicad check' for filesystems that cannot be frozen.",
)
FREEZE_OVERRUN = Kind(
    "RPL-6003",
    "freeze_overrun",
    "the freeze was ended by the watchdog after {seconds:.3f} s: {detail}",
    "Raise --freeze-budget, or take the checkpoint at a quieter time.",
)
FREEZE_TOO_LONG = Kind(
    "RPL-6004",
    "freeze_too_long",
    "a freeze now would take {forecast:.2f} s, the budget is {budget:.2f} s: {detail}",
    "Raise --freeze-budget or the bandwidth, or take the checkpoint at a quieter time.",
)
HOOK_FAILED = Kind(
    "RPL-6005",
    "hook_failed",
    "hook {hook} failed: {detail}",
    "Run it by hand with the environment that docs/operations.md names.",
)
CHECKPOINT_SUPERSEDED = Kind(
    "RPL-6006",
    "checkpoint_superseded",
    "the checkpoint was not taken: {detail}",
    "Ask for it again.",
)


def _declared() -> Iterable[Kind]:
    return (value for value in globals().values() if isinstance(value, Kind))


KINDS: tuple[Kind, ...] = tuple(sorted(_declared(), key=lambda kind: kind.code))
BY_CODE: dict[str, Kind] = {kind.code: kind for kind in KINDS}
if len(BY_CODE) != len(KINDS):
    raise AssertionError("two kinds of error share a code")
