"""Every error that a user can meet, declared by area, and the exceptions that carry them.

The tree::

    Fault                 what a user reads: code, sentence, remedy, exit code
    ├── LocalFault        our own side cannot go on (configuration, disk, kernel)
    └── PeerFault         the other side broke the protocol or refused us

An error is *declared* once as a :class:`Kind` in :data:`KINDS` and *raised* with what is
particular to this case: ``raise TARGET_MOUNTED.fault(path="/dev/sdb1", where="/srv")``.
``docs/errors.md`` is generated from the table, so a code without a remedy cannot exist.

Codes: 1xxx usage and configuration, 2xxx identity and enrolment, 3xxx the wire, 4xxx the
receiver's disks and jobs, 5xxx the source's disks and tracking, 6xxx freeze and checkpoint;
each area has its module here. To add one, declare it there and name it below.
Codes are stable: they are never renumbered or reused.
"""

from __future__ import annotations

from protocol.errors.checkpoint import (
    CHECKPOINT_SUPERSEDED as CHECKPOINT_SUPERSEDED,
)
from protocol.errors.checkpoint import (
    DISK_BUSY_UNMOUNTED as DISK_BUSY_UNMOUNTED,
)
from protocol.errors.checkpoint import (
    FREEZE_FAILED as FREEZE_FAILED,
)
from protocol.errors.checkpoint import (
    FREEZE_OVERRUN as FREEZE_OVERRUN,
)
from protocol.errors.checkpoint import (
    FREEZE_TOO_LONG as FREEZE_TOO_LONG,
)
from protocol.errors.checkpoint import (
    HOOK_FAILED as HOOK_FAILED,
)
from protocol.errors.checkpoint import (
    VERIFY_DIFFERS as VERIFY_DIFFERS,
)
from protocol.errors.checkpoint import (
    VERIFY_SUPERSEDED as VERIFY_SUPERSEDED,
)
from protocol.errors.checkpoint import (
    VERIFY_UNTRACKED as VERIFY_UNTRACKED,
)
from protocol.errors.fault import (
    Exit as Exit,
)
from protocol.errors.fault import (
    Fault as Fault,
)
from protocol.errors.fault import (
    Kind as Kind,
)
from protocol.errors.fault import (
    LocalFault as LocalFault,
)
from protocol.errors.fault import (
    PeerFault as PeerFault,
)
from protocol.errors.fault import (
    plain as plain,
)
from protocol.errors.fault import (
    sayable as sayable,
)
from protocol.errors.identity import (
    ACTIVATION_EXPIRED as ACTIVATION_EXPIRED,
)
from protocol.errors.identity import (
    ACTIVATION_MALFORMED as ACTIVATION_MALFORMED,
)
from protocol.errors.identity import (
    ACTIVATION_UNKNOWN as ACTIVATION_UNKNOWN,
)
from protocol.errors.identity import (
    ACTIVATION_USED_UP as ACTIVATION_USED_UP,
)
from protocol.errors.identity import (
    ALREADY_ENROLLED as ALREADY_ENROLLED,
)
from protocol.errors.identity import (
    AUTHORITY_UNUSABLE as AUTHORITY_UNUSABLE,
)
from protocol.errors.identity import (
    CA_MISMATCH as CA_MISMATCH,
)
from protocol.errors.identity import (
    CERTIFICATE_REFUSED as CERTIFICATE_REFUSED,
)
from protocol.errors.identity import (
    NOT_ENROLLED as NOT_ENROLLED,
)
from protocol.errors.identity import (
    SOURCE_FORGOTTEN as SOURCE_FORGOTTEN,
)
from protocol.errors.identity import (
    SOURCE_NAME_TAKEN as SOURCE_NAME_TAKEN,
)
from protocol.errors.receiver import (
    CATALOG_UNUSABLE as CATALOG_UNUSABLE,
)
from protocol.errors.receiver import (
    DISK_NOT_OF_JOB as DISK_NOT_OF_JOB,
)
from protocol.errors.receiver import (
    JOB_EXPIRED as JOB_EXPIRED,
)
from protocol.errors.receiver import (
    JOB_STATE as JOB_STATE,
)
from protocol.errors.receiver import (
    JOB_UNFINISHED as JOB_UNFINISHED,
)
from protocol.errors.receiver import (
    RECEIVER_FULL as RECEIVER_FULL,
)
from protocol.errors.receiver import (
    TARGET_CHANGED as TARGET_CHANGED,
)
from protocol.errors.receiver import (
    TARGET_IN_USE as TARGET_IN_USE,
)
from protocol.errors.receiver import (
    TARGET_IO as TARGET_IO,
)
from protocol.errors.receiver import (
    TARGET_MISSING as TARGET_MISSING,
)
from protocol.errors.receiver import (
    TARGET_MOUNTED as TARGET_MOUNTED,
)
from protocol.errors.receiver import (
    TARGET_OF_OTHER_JOB as TARGET_OF_OTHER_JOB,
)
from protocol.errors.receiver import (
    TARGET_TOO_SMALL as TARGET_TOO_SMALL,
)
from protocol.errors.receiver import (
    TARGET_TOUCHED as TARGET_TOUCHED,
)
from protocol.errors.receiver import (
    UNKNOWN_DISK as UNKNOWN_DISK,
)
from protocol.errors.receiver import (
    UNKNOWN_JOB as UNKNOWN_JOB,
)
from protocol.errors.receiver import (
    UNKNOWN_SOURCE as UNKNOWN_SOURCE,
)
from protocol.errors.source import (
    RUNTIME_FULL as RUNTIME_FULL,
)
from protocol.errors.source import (
    RUNTIME_ON_DISK as RUNTIME_ON_DISK,
)
from protocol.errors.source import (
    SOURCE_DISK_AMBIGUOUS as SOURCE_DISK_AMBIGUOUS,
)
from protocol.errors.source import (
    SOURCE_DISK_CHANGED as SOURCE_DISK_CHANGED,
)
from protocol.errors.source import (
    SOURCE_DISK_FORBIDDEN as SOURCE_DISK_FORBIDDEN,
)
from protocol.errors.source import (
    SOURCE_DISK_GREW as SOURCE_DISK_GREW,
)
from protocol.errors.source import (
    SOURCE_DISK_MISSING as SOURCE_DISK_MISSING,
)
from protocol.errors.source import (
    SOURCE_DISK_MOVED as SOURCE_DISK_MOVED,
)
from protocol.errors.source import (
    SOURCE_DISK_READ as SOURCE_DISK_READ,
)
from protocol.errors.source import (
    SOURCE_DISK_RESIZED as SOURCE_DISK_RESIZED,
)
from protocol.errors.source import (
    TRACKER_UNAVAILABLE as TRACKER_UNAVAILABLE,
)
from protocol.errors.usage import (
    ALREADY_RUNNING as ALREADY_RUNNING,
)
from protocol.errors.usage import (
    CONFIGURATION as CONFIGURATION,
)
from protocol.errors.usage import (
    CONTROL_DENIED as CONTROL_DENIED,
)
from protocol.errors.usage import (
    CONTROL_REQUEST as CONTROL_REQUEST,
)
from protocol.errors.usage import (
    DAEMON_NOT_RUNNING as DAEMON_NOT_RUNNING,
)
from protocol.errors.usage import (
    INTERNAL as INTERNAL,
)
from protocol.errors.usage import (
    TIMED_OUT as TIMED_OUT,
)
from protocol.errors.usage import (
    USAGE as USAGE,
)
from protocol.errors.wire import (
    CONNECTION_LOST as CONNECTION_LOST,
)
from protocol.errors.wire import (
    CORRUPT as CORRUPT,
)
from protocol.errors.wire import (
    HELLO_REFUSED as HELLO_REFUSED,
)
from protocol.errors.wire import (
    NO_CIPHER as NO_CIPHER,
)
from protocol.errors.wire import (
    PROTOCOL as PROTOCOL,
)
from protocol.errors.wire import (
    SESSION_FENCED as SESSION_FENCED,
)
from protocol.errors.wire import (
    SILENT as SILENT,
)
from protocol.errors.wire import (
    TAMPERED as TAMPERED,
)
from protocol.errors.wire import (
    TOO_LONG as TOO_LONG,
)
from protocol.errors.wire import (
    TOO_MANY as TOO_MANY,
)
from protocol.errors.wire import (
    UNREACHABLE as UNREACHABLE,
)
from protocol.errors.wire import (
    VERSION as VERSION,
)


def _declared() -> tuple[Kind, ...]:
    return tuple(value for value in globals().values() if isinstance(value, Kind))


KINDS: tuple[Kind, ...] = tuple(sorted(_declared(), key=lambda kind: kind.code))
BY_CODE: dict[str, Kind] = {kind.code: kind for kind in KINDS}
if len(BY_CODE) != len(KINDS):
    raise AssertionError("two kinds of error share a code")


def from_peer(code: str, message: str, remedy: str) -> PeerFault:
    """An error that the other side reported, with the exit code our own table gives it."""
    known = BY_CODE.get(code)
    exit_code = known.exit_code if known else Exit.FAILED
    return PeerFault(plain(code)[:16], plain(message), plain(remedy), exit_code)
