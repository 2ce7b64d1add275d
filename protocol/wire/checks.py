"""What a control message must fulfil beyond its types, before anyone acts on it.

msgspec has made sure of names and types. Here are the bounds and the forms that a type does
not say: identifiers, key lengths, ports, numbers that later become sizes. One function per
message that needs one; a message without an entry is plain text and numbers for people.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from protocol.errors import PROTOCOL
from protocol.wire.limits import CONNECTIONS_MAX, DISK_MAX, NAME_MAX, PAYLOAD_MAX, SECRET, SECTOR
from protocol.wire.messages import (
    Ask,
    Commit,
    Committed,
    ControlMessage,
    Enrol,
    Inventory,
    JobOrder,
    JobReport,
    OpenSession,
    SessionOpened,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_SESSION: Final = re.compile(r"[0-9a-f]{32}\Z")
_COUNTER_MAX: Final = 1 << 63
_PATH_MAX: Final = 4096


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


def _inventory(message: Inventory) -> None:
    _paths(message, (disk.path for disk in message.disks))
    for disk in message.disks:
        _require(0 <= disk.size <= DISK_MAX, message, "size")


def _job_order(message: JobOrder) -> None:
    _paths(message, message.disks)
    _require(0 <= message.revision < _COUNTER_MAX, message, "revision")
    _require(0 <= message.bandwidth < _COUNTER_MAX, message, "bandwidth")
    _require(0.0 <= message.freeze_budget <= 3600.0, message, "freeze_budget")
    level = message.compress in {"auto", "none"} or (
        re.match(r"(?:[1-9]|1[0-9])\Z", message.compress) is not None
    )
    _require(level, message, "compress")


def _job_report(message: JobReport) -> None:
    _require(0 <= message.epoch < _COUNTER_MAX, message, "epoch")
    _require(message.speed_bytes_per_second >= 0.0, message, "speed_bytes_per_second")
    for disk in message.disks:
        sizes = (
            disk.size,
            disk.total_bytes,
            disk.transferred_bytes,
            disk.dirty_bytes,
            disk.in_flight_bytes,
            disk.differing_bytes,
        )
        _require(all(0 <= size < _COUNTER_MAX for size in sizes), message, "disks")


def _open_session(message: OpenSession) -> None:
    _require(bool(message.disks), message, "disks")
    _paths(message, (disk.path for disk in message.disks))
    for disk in message.disks:
        _require(0 < disk.size <= DISK_MAX and disk.size % SECTOR == 0, message, "size")
        _require(0 <= disk.epoch < _COUNTER_MAX, message, "epoch")


def _session_opened(message: SessionOpened) -> None:
    _require(_SESSION.match(message.session), message, "session")
    _require(len(message.secret) == SECRET, message, "secret")
    _require(0 < message.data_port < 1 << 16, message, "data_port")
    _require(0 < message.connections <= CONNECTIONS_MAX, message, "connections")
    _require(PAYLOAD_MAX <= message.window_bytes < _COUNTER_MAX, message, "window_bytes")
    _require(0 <= message.epoch < _COUNTER_MAX, message, "epoch")
    _paths(message, (disk.path for disk in message.disks))
    numbers = {disk.number for disk in message.disks}
    distinct = len(numbers) == len(message.disks)
    _require(distinct and all(0 <= number < 1 << 16 for number in numbers), message, "number")


def _commit(message: Commit) -> None:
    _require(_SESSION.match(message.session), message, "session")
    _require(0 < message.epoch < _COUNTER_MAX, message, "epoch")
    _require(0.0 <= message.frozen_seconds < 1e9, message, "frozen_seconds")


def _committed(message: Committed) -> None:
    _require(0 < message.epoch < _COUNTER_MAX, message, "epoch")


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
    Ask: _ask,
}
