"""Files of ours that a crash, a full disk or a bad sector may have changed: dirty map, catalog,
the record of a freeze. Each is believed or refused, and never half of each.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec
import xxhash
from hypothesis import strategies as st

from protocol.errors import Fault
from protocol.wire.jobs import JobReport
from receiver.catalog import Catalog
from receiver.catalog.rows import CheckpointRow, DiskRow, TargetIdentity
from receiver.catalog.store import UNREADABLE
from receiver.jobs.spec import JobSpec
from replicad.dirtymap import DirtyMap
from replicad.dirtymap.header import (
    HEADER_BYTES,
    LAYOUT,
    MAGIC,
    SLOT_BYTES,
    Header,
    MapRefusedError,
    decode_newest,
    encode_slot,
)
from replicad.freeze.leftover import parse_record
from tests.fuzz.registry import target
from tests.fuzz.shapes import texts_of_type

MEMORY = "/dev/shm"
HEADER = Header(job="j", disk="/dev/vda", size=1 << 20, granule=4096, seeded=True)


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="replicad-fuzz-", dir=MEMORY) as name:
        yield Path(name)


# --- the dirty map --------------------------------------------------------------------------------


@target(seeds=lambda: [encode_slot(HEADER, 1), encode_slot(HEADER, 2)[:40]], longest=HEADER_BYTES)
def map_header(data: bytes) -> None:
    """The header area, as it is on the disk."""
    with contextlib.suppress(MapRefusedError):
        sequence, header = decode_newest(data.ljust(HEADER_BYTES, b"\0"))
        assert sequence >= 0
        assert header.size > 0
        assert 4096 <= header.granule <= 1 << 20


@functools.cache
def _empty_map() -> bytes:
    with _directory() as where:
        made = DirtyMap.create(str(where / "m.map"), HEADER)
        made.update(seeded=True)
        made.close()
        return (where / "m.map").read_bytes()


@target(
    seeds=lambda: [
        msgspec.json.encode(HEADER) + b"\n" + bytes(40),
        msgspec.json.encode(msgspec.structs.replace(HEADER, size=1 << 62)) + b"\n\xff\xff",
    ],
    shaped=lambda: st.builds(
        lambda text, bits: text + b"\n" + bits, texts_of_type(Header), st.binary(max_size=64)
    ),
)
def map_file(data: bytes) -> None:
    """A header whose checksum holds, whatever it says, before any bitmaps."""
    text, _, bits = data.partition(b"\n")
    if len(text) > SLOT_BYTES - 64:
        return
    prefix = struct.pack("<8sIIQ", MAGIC, LAYOUT, len(text), 9)
    slot = prefix + struct.pack("<Q", xxhash.xxh3_64_intdigest(prefix + text)) + text
    whole = bytearray(_empty_map())
    whole[:SLOT_BYTES] = slot.ljust(SLOT_BYTES, b"\0")
    whole[SLOT_BYTES:HEADER_BYTES] = bytes(SLOT_BYTES)
    bits = bits[: len(whole) - HEADER_BYTES]
    whole[HEADER_BYTES : HEADER_BYTES + len(bits)] = bits
    with _directory() as where:
        (where / "m.map").write_bytes(whole)
        try:
            found = DirtyMap.open(str(where / "m.map"), HEADER, 0.0)
        except MapRefusedError:
            return
        try:
            granules = HEADER.size // HEADER.granule
            assert found.header.size == HEADER.size
            assert found.dirty_granules + found.suspect_granules <= 2 * granules
            assert found.flying_granules == 0
        finally:
            found.close()


# --- the catalog ----------------------------------------------------------------------------------

REPORT = JobReport(job="j", revision=1, state="syncing")


@functools.cache
def _catalog() -> bytes:
    """A small catalog with a row in every table."""
    with _directory() as where:
        with Catalog(where / "c.db") as catalog:
            catalog.activations.add("l", b"h" * 32, uses=1, created=0.0, expires=1.0)
            catalog.sources.enrol("web01", fingerprint="f", serial="1", now=0.0)
            spec = JobSpec(source="web01", disks=("/dev/vda",))
            job = catalog.jobs.create(spec, "preparing", 0.0)
            catalog.jobs.record_report(job.id, REPORT)
            catalog.disks.add(
                DiskRow(
                    job=job.id,
                    number=0,
                    source_path="/dev/vda",
                    size=4096,
                    identity=msgspec.convert({}, _field(DiskRow, "identity")),
                    kind="raw",
                    intermediate="/x",
                    target=TargetIdentity(),
                    generation="g",
                    fresh=True,
                )
            )
            catalog.checkpoints.add(_checkpoint(job.id))
        with sqlite3.connect(where / "c.db") as plain:
            plain.execute("PRAGMA journal_mode=DELETE")
        plain.close()
        return (where / "c.db").read_bytes()


def _field(kind: type[msgspec.Struct], name: str) -> type:
    found = next(field for field in msgspec.structs.fields(kind) if field.name == name)
    return cast(type, found.type)


def _checkpoint(job: str) -> CheckpointRow:
    return CheckpointRow(
        job=job,
        epoch=1,
        request="r",
        consistency="crash",
        taken="2030-01-01T00:00:00Z",
        committed=0.0,
        frozen_seconds=0.1,
        snapshot=None,
        preserved="",
    )


@functools.cache
def _columns() -> list[tuple[str, str, str]]:
    """Every column of every table, with its declared type."""
    with _directory() as where:
        (where / "c.db").write_bytes(_catalog())
        with contextlib.closing(sqlite3.connect(where / "c.db")) as plain:
            names = plain.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
            return sorted(
                (table, column[1], column[2])
                for (table,) in names
                for column in plain.execute(f"PRAGMA table_info({table})").fetchall()
            )


def _read_all(catalog: Catalog) -> None:
    catalog.activations.all()
    catalog.sources.all()
    catalog.jobs.unfinished()
    for job in catalog.jobs.all():
        catalog.checkpoints.of_job(job.id)
        catalog.checkpoints.newest(job.id)
    catalog.disks.all()
    catalog.disks.devices()


@target(
    seeds=lambda: [
        bytes([number]) + said for number in range(len(_columns())) for said in (b"{}", b"x")
    ],
    longest=512,
)
def catalog_row(data: bytes) -> None:
    """A catalog that SQLite can read, with one value of one row replaced."""
    columns = _columns()
    if not data or data[0] >= len(columns):
        return
    table, column, kind = columns[data[0]]
    said: bytes | str | int = data[1:].decode("utf-8", "replace")
    if kind in {"INTEGER", "REAL"}:
        said = int.from_bytes(data[1:9], "big", signed=True)
    elif kind == "BLOB":
        said = data[1:]
    with _directory() as where:
        (where / "c.db").write_bytes(_catalog())
        with contextlib.closing(sqlite3.connect(where / "c.db")) as plain:
            plain.execute("PRAGMA foreign_keys=OFF")
            plain.execute("PRAGMA ignore_check_constraints=ON")
            with contextlib.suppress(sqlite3.IntegrityError), plain:
                plain.execute(f"UPDATE {table} SET {column} = ?", (said,))
        with Catalog(where / "c.db") as catalog, contextlib.suppress(Fault, *UNREADABLE):
            _read_all(catalog)


@target(seeds=lambda: [b"\0\0\x10\xff", b"\x10\0\0", b"\x01\x00" + bytes(64)], longest=256)
def catalog_file(data: bytes) -> None:
    """A catalog with bytes of its file changed: u16 places, a byte each."""
    whole = bytearray(_catalog())
    for place, value in struct.iter_unpack(">HB", data[: len(data) // 3 * 3]):
        whole[place % len(whole)] = value
    with _directory() as where:
        (where / "c.db").write_bytes(whole)
        with contextlib.suppress(Fault, *UNREADABLE), Catalog(where / "c.db") as catalog:
            _read_all(catalog)


# --- the record of a freeze -----------------------------------------------------------------------


@target(
    seeds=lambda: [
        b'[["8:1", ["/mnt", "/proc/1/root/mnt"]]]',
        b"{}",
        b"[[[1],[2]]]",
        b"[" * 5000,
        b'[["8:1", ["a\\u0000b", "\\ud800"]]]',
        b"9" * 5000,
    ]
)
def freeze_record(data: bytes) -> None:
    """What a killed freeze left in /run. It is only parsed here: thawing opens what it names."""
    with contextlib.suppress(ValueError):
        for device, paths in parse_record(data):
            assert isinstance(device, str)
            assert all(isinstance(path, str) for path in paths)
