"""What a control message must fulfil beyond its types, before anyone acts on it.

msgspec has made sure of names and types. Here are the bounds and the forms that a type does
not say: identifiers, key lengths, ports, numbers that later become sizes. One function per
message that needs one; a message without an entry is plain text and numbers for people.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from protocol.errors import PROTOCOL, plain
from protocol.errors.fault import TEXT_MAX
from protocol.wire.jobs import DiskRange, ErrorInfo, JobOrder, JobReport
from protocol.wire.limits import (
    CIPHERS_OFFERED_MAX,
    CONNECTIONS_MAX,
    DISK_MAX,
    DISKS_OFFERED_MAX,
    FREEZE_BUDGET_MAX,
    HANDSHAKE_TIMEOUT,
    NAME_MAX,
    PAYLOAD_MAX,
    RANGES_MAX,
    SECRET,
    SECTOR,
    UNREADABLE_MAX,
)
from protocol.wire.messages import (
    Answer,
    Ask,
    Authority,
    CheckpointFailed,
    Commit,
    Committed,
    ControlMessage,
    Enrol,
    Enrolled,
    Inventory,
    OpenSession,
    SessionFailed,
    SessionOpened,
    Verified,
    VerifyFailed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_JOB: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
_CODE: Final = re.compile(r"RPL-[0-9]{4}\Z")
_SESSION: Final = re.compile(r"[0-9a-f]{32}\Z")
_CIPHER: Final = re.compile(rf"[a-z0-9][a-z0-9-]{{0,{NAME_MAX - 1}}}\Z")
_COUNTER_MAX: Final = 1 << 63
_PATH_MAX: Final = 4096

Checked = TypeVar("Checked", bound=ControlMessage)


def cleaned(message: Checked) -> Checked:
    """The message with every text as it may be shown and logged (:func:`protocol.errors.plain`).

    Certificates and answers keep their line ends: they are parsed, never printed.

    Raises:
        PeerFault: PROTOCOL: a number that fits no 64 bits. JSON knows no bound, but a catalog, a
            metric and a byte count do, and one source's number must not break what shows all.
    """
    if isinstance(message, (Answer, Authority, Enrol, Enrolled)):
        return message
    found: Checked = _cleaned(message)
    return found


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isprintable() and len(value) <= TEXT_MAX else plain(value)
    if isinstance(value, int):
        if not -_COUNTER_MAX <= value < _COUNTER_MAX:
            raise PROTOCOL.peer(detail="a number is longer than 64 bits")
        return value
    if isinstance(value, tuple):
        return tuple(map(_cleaned, value))
    if isinstance(value, msgspec.Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        changed = {name: new for name, old in fields.items() if (new := _cleaned(old)) != old}
        return msgspec.structs.replace(value, **changed) if changed else value
    return value


def check(message: ControlMessage) -> None:
    """Refuse a message whose values cannot be meant.

    Raises:
        PeerFault: PROTOCOL, naming the message and the field, never a secret's value.
    """
    checker = _CHECKERS.get(type(message))
    if checker is not None:
        checker(message)


def _require(holds: object, message: ControlMessage, field: str) -> None:
    """``holds`` is anything with a truth value, such as a match."""
    if not holds:
        raise PROTOCOL.peer(detail=f"'{field}' of a {type(message).__name__} cannot be meant")


def _enrol(message: Enrol) -> None:
    _require(re.match(r"[0-9a-f]{32}\Z", message.secret), message, "secret")
    _require(0 < len(message.name) <= NAME_MAX, message, "name")


def _paths(message: ControlMessage, paths: Iterable[str]) -> None:
    seen = set()
    for path in paths:
        sound = path.startswith("/") and len(path) <= _PATH_MAX and "\0" not in path
        _require(sound and path not in seen, message, "path")
        seen.add(path)


def _job(message: ControlMessage, job: str) -> None:
    """A job's id names files on both sides."""
    _require(_JOB.match(job), message, "job")


def _error(message: ControlMessage, error: ErrorInfo) -> None:
    _require(_CODE.match(error.code), message, "code")


def _inventory(message: Inventory) -> None:
    _require(len(message.disks) <= DISKS_OFFERED_MAX, message, "disks")
    _paths(message, (disk.path for disk in message.disks))
    for disk in message.disks:
        _require(0 <= disk.size <= DISK_MAX, message, "size")


def _job_order(message: JobOrder) -> None:
    _paths(message, message.disks)
    if message.job or message.want == "run":
        _job(message, message.job)
    # Without a disk "all disks" could be read into it, and the source decides what may be copied.
    _require(message.disks or message.want != "run", message, "disks")
    order = message.checkpoint
    _require(order is None or 0 < len(order.request) <= NAME_MAX, message, "checkpoint")
    verify = message.verify
    _require(verify is None or 0 < len(verify.request) <= NAME_MAX, message, "verify")
    _ranges(message, message.differing)
    _require(0 <= message.revision < _COUNTER_MAX, message, "revision")
    _require(0 <= message.bandwidth < _COUNTER_MAX, message, "bandwidth")
    _require(0.0 <= message.freeze_budget <= FREEZE_BUDGET_MAX, message, "freeze_budget")
    level = message.compress in {"auto", "none"} or (
        re.match(r"(?:[1-9]|1[0-9])\Z", message.compress) is not None
    )
    _require(level, message, "compress")


def _job_report(message: JobReport) -> None:
    _job(message, message.job)
    if message.error is not None:
        _error(message, message.error)
    _require(0 <= message.epoch < _COUNTER_MAX, message, "epoch")
    _require(message.speed_bytes_per_second >= 0.0, message, "speed_bytes_per_second")
    _require((message.remaining_seconds or 0.0) >= 0.0, message, "remaining_seconds")
    _require(message.lag_seconds >= 0.0, message, "lag_seconds")
    counts = (
        message.revision,
        message.logical_bytes,
        message.wire_bytes,
        message.reconnects,
        message.tracker_misses,
    )
    _require(all(count >= 0 for count in counts), message, "a count")
    for disk in message.disks:
        sizes = (
            disk.size,
            disk.total_bytes,
            disk.transferred_bytes,
            disk.dirty_bytes,
            disk.in_flight_bytes,
            disk.differing_bytes,
            disk.unreadable_bytes,
            disk.left_out_bytes,
            *(bound for each in disk.unreadable for bound in (each.offset, each.length)),
        )
        _require(all(0 <= size < _COUNTER_MAX for size in sizes), message, "disks")
        _require(len(disk.unreadable) <= UNREADABLE_MAX, message, "unreadable")
    said = message.convergence
    figures = (
        said.write_bytes_per_second,
        said.send_bytes_per_second,
        said.read_bytes_per_second,
        said.needed_bytes_per_second,
        said.freeze_forecast_seconds,
        said.freeze_allowed_seconds,
    )
    _require(all(each is None or each >= 0.0 for each in figures), message, "convergence")


def _open_session(message: OpenSession) -> None:
    _job(message, message.job)
    _require(bool(message.disks), message, "disks")
    _require(0.0 <= message.round_trip <= HANDSHAKE_TIMEOUT, message, "round_trip")
    _require(0 < len(message.ciphers) <= CIPHERS_OFFERED_MAX, message, "ciphers")
    _require(all(_CIPHER.match(cipher) for cipher in message.ciphers), message, "ciphers")
    _paths(message, (disk.path for disk in message.disks))
    for disk in message.disks:
        _require(0 < disk.size <= DISK_MAX and disk.size % SECTOR == 0, message, "size")
        _require(0 <= disk.epoch < _COUNTER_MAX, message, "epoch")
        _require(not disk.session or _SESSION.match(disk.session), message, "session")
        for name, counts in (("acked", disk.acked), ("sent", disk.sent)):
            few = len(counts) <= CONNECTIONS_MAX
            _require(few and all(0 <= each < _COUNTER_MAX for each in counts), message, name)


def _session_opened(message: SessionOpened) -> None:
    _require(_SESSION.match(message.session), message, "session")
    _require(len(message.secret) == SECRET, message, "secret")
    _require(_CIPHER.match(message.cipher), message, "cipher")
    _require(0 < message.data_port < 1 << 16, message, "data_port")
    _require(0 < message.connections <= CONNECTIONS_MAX, message, "connections")
    _require(PAYLOAD_MAX <= message.window_bytes < _COUNTER_MAX, message, "window_bytes")
    _require(0 <= message.epoch < _COUNTER_MAX, message, "epoch")
    _paths(message, (disk.path for disk in message.disks))
    numbers = {disk.number for disk in message.disks}
    distinct = len(numbers) == len(message.disks)
    _require(distinct and all(0 <= number < 1 << 16 for number in numbers), message, "number")
    named = all(0 < len(disk.generation) <= NAME_MAX for disk in message.disks)
    _require(named, message, "generation")


def _commit(message: Commit) -> None:
    _job(message, message.job)
    _require(_SESSION.match(message.session), message, "session")
    _require(0 < message.epoch < _COUNTER_MAX, message, "epoch")
    _require(0.0 <= message.frozen_seconds < 1e9, message, "frozen_seconds")


def _committed(message: Committed) -> None:
    _require(0 < message.epoch < _COUNTER_MAX, message, "epoch")


def _checkpoint_failed(message: CheckpointFailed) -> None:
    _job(message, message.job)
    _error(message, message.error)


def _ranges(message: ControlMessage, ranges: tuple[DiskRange, ...]) -> None:
    _require(len(ranges) <= RANGES_MAX, message, "ranges")
    for each in ranges:
        _require(each.path.startswith("/") and len(each.path) <= _PATH_MAX, message, "path")
        _require(each.offset >= 0 < each.length, message, "ranges")
        _require(each.offset + each.length <= DISK_MAX, message, "ranges")


def _verified(message: Verified) -> None:
    _job(message, message.job)
    _require(0 < len(message.request) <= NAME_MAX, message, "request")
    _ranges(message, message.ranges)
    _ranges(message, message.differing)
    counts = (message.bytes_compared, message.differing_bytes, message.more_ranges)
    _require(all(0 <= count < _COUNTER_MAX for count in counts), message, "bytes_compared")
    _require(0.0 <= message.seconds < 1e12, message, "seconds")


def _verify_failed(message: VerifyFailed) -> None:
    _job(message, message.job)
    _require(0 < len(message.request) <= NAME_MAX, message, "request")
    _error(message, message.error)


def _session_failed(message: SessionFailed) -> None:
    _require(_SESSION.match(message.session), message, "session")
    _error(message, message.error)


def _ask(message: Ask) -> None:
    rate = message.bandwidth
    _require(rate is None or 0 <= rate < _COUNTER_MAX, message, "bandwidth")


_CHECKERS: Final[Mapping[type, Callable[[Any], None]]] = {
    Enrol: _enrol,
    Inventory: _inventory,
    JobOrder: _job_order,
    JobReport: _job_report,
    OpenSession: _open_session,
    SessionOpened: _session_opened,
    Commit: _commit,
    Committed: _committed,
    CheckpointFailed: _checkpoint_failed,
    Verified: _verified,
    VerifyFailed: _verify_failed,
    SessionFailed: _session_failed,
    Ask: _ask,
}
