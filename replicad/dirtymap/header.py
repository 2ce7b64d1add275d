"""The header of a dirty map's file: whose map it is, and why it may or may not be believed.

Idea: two slots, written in turn, each with a sequence number and a checksum over both (the
ping-pong superblock of btrfs and ZFS's uberblock ring). A kill in the middle of an update
leaves a slot that does not check; the other one, older by one update, is then the header.

Slot: magic (8 bytes), layout version (u32), length of the text (u32), sequence (u64), xxh3-64
(u64) of everything else in the slot up to the end of the text, then the text: JSON of
:class:`Header`. Integers are little endian.
"""

from __future__ import annotations

import struct

import msgspec
import xxhash

from protocol.wire.jobs import Recovery

MAGIC = b"RPLDIRT\x01"
LAYOUT = 3
SLOT_BYTES = 8192
HEADER_BYTES = 2 * SLOT_BYTES
GRANULE_MIN = 4096
GRANULE_MAX = 1 << 20

BOOTED = "the machine has booted since"
"""Why a map of another boot is refused."""

OLDER = "an older copy of the daemon's record of what was written was put back"
"""Why a map is refused that lacks what the tracker has handed over since."""

_PREFIX = struct.Struct("<8sIIQ")
_SUM = struct.Struct("<Q")
_TEXT_AT = _PREFIX.size + _SUM.size


class MapRefusedError(Exception):
    """The file is not a dirty map that may be believed; ``str()`` says why, for people.

    The caller's answer is always the same: make a new map and compare (promise 4).
    """


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """Whose map this is and what it was true for.

    ``size`` and ``granule`` are bytes. ``generation`` and ``epoch`` are the receiver's. ``token``
    names the tracker's pinned objects, ``misses`` is its count of missed events when the map was
    last merged, ``handed`` how often it had handed bits over then: the tracker counts as well, and
    a map that has fewer is a copy of before. ``seeded`` becomes true when the first marks or
    suspicions are in: before that an empty map means nothing, and
    :func:`replicad.dirtymap.DirtyMap.open` refuses it.

    ``session`` and ``acked`` are what the receiver must not have forgotten (see
    :class:`protocol.wire.messages.OpenDisk`). ``attachment`` names the device as it is attached
    now, in this boot. ``recovery`` is how the copy was taken up the last time.
    """

    job: str
    disk: str
    size: int
    granule: int
    generation: str = ""
    epoch: int = 0
    boot: str = ""
    token: str = ""
    misses: int = 0
    handed: int = 0
    seeded: bool = False
    flags: tuple[str, ...] = ()
    session: str = ""
    acked: tuple[int, ...] = ()
    attachment: str = ""
    recovery: Recovery | None = None

    def check(self) -> None:
        """Raises :class:`MapRefusedError` if the numbers cannot be those of a map."""
        if self.size <= 0:
            raise MapRefusedError(f"its disk would have {self.size} bytes")
        power_of_two = self.granule > 0 and self.granule & (self.granule - 1) == 0
        if not power_of_two or not GRANULE_MIN <= self.granule <= GRANULE_MAX:
            raise MapRefusedError(f"its granule would be {self.granule} bytes")


def distrust(found: Header, present: Header) -> str | None:
    """Why a map that says ``found`` cannot be believed for what is ``present``; None if it can.

    Pure. ``epoch`` and ``flags`` are not compared: a map may be ahead of a checkpoint. Nor is
    ``attachment``: the tracker's token changes with it.
    """
    missed = present.misses - found.misses
    checks = (
        (found.job == present.job, f"it belongs to job {found.job}"),
        (found.disk == present.disk, f"it belongs to disk {found.disk}"),
        (found.size >= present.size, f"the disk grew from {found.size} to {present.size} bytes"),
        (found.size <= present.size, f"the disk had {found.size} bytes"),
        (found.granule == present.granule, f"its granule is {found.granule} bytes"),
        (found.boot == present.boot, BOOTED),
        (found.generation == present.generation, "the intermediate disk is another one"),
        (found.token == present.token, "the tracker was attached anew"),
        (
            found.misses == present.misses,
            f"the tracker missed {missed} events",
        ),
        (found.handed >= present.handed, OLDER),
    )
    return next((reason for holds, reason in checks if not holds), None)


def encode_slot(header: Header, sequence: int) -> bytes:
    """The bytes of one slot. Raises ValueError if the text does not fit."""
    text = msgspec.json.encode(header)
    if len(text) > SLOT_BYTES - _TEXT_AT:
        raise ValueError(f"a header of {len(text)} bytes does not fit its slot")
    prefix = _PREFIX.pack(MAGIC, LAYOUT, len(text), sequence)
    return prefix + _SUM.pack(xxhash.xxh3_64_intdigest(prefix + text)) + text


def decode_slot(slot: bytes) -> tuple[int, Header]:
    """Sequence and header of one slot; :class:`MapRefusedError` if it is not whole."""
    magic, layout, length, sequence = _PREFIX.unpack_from(slot)
    if magic != MAGIC:
        raise MapRefusedError("it is not a dirty map")
    if layout != LAYOUT:
        raise MapRefusedError(f"its layout is {layout}, this program knows {LAYOUT}")
    if length > SLOT_BYTES - _TEXT_AT:
        raise MapRefusedError(f"its header would be {length} bytes long")
    text = slot[_TEXT_AT : _TEXT_AT + length]
    (checksum,) = _SUM.unpack_from(slot, _PREFIX.size)
    if checksum != xxhash.xxh3_64_intdigest(slot[: _PREFIX.size] + text):
        raise MapRefusedError("its header is damaged")
    try:
        header = msgspec.json.decode(text, type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MapRefusedError(f"its header cannot be read: {error}") from error
    header.check()
    return sequence, header


def decode_newest(area: bytes) -> tuple[int, Header]:
    """The newer of the slots that are whole. Raises :class:`MapRefusedError` if none is."""
    if len(area) < HEADER_BYTES:
        raise MapRefusedError("it is cut off")
    whole: list[tuple[int, Header]] = []
    reason = MapRefusedError("it is not a dirty map")
    for at in range(0, HEADER_BYTES, SLOT_BYTES):
        try:
            whole.append(decode_slot(area[at : at + SLOT_BYTES]))
        except MapRefusedError as refused:
            if area[at : at + len(MAGIC)] == MAGIC or not at:
                reason = refused
    if not whole:
        raise reason
    return max(whole, key=lambda slot: slot[0])


def slot_offset(sequence: int) -> int:
    """Where in the file the slot of this sequence number lies."""
    return sequence % 2 * SLOT_BYTES
