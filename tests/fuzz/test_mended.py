"""What fuzzing found, one test each: how it looked to a user, not only which parser it was in."""

from __future__ import annotations

import asyncio
import datetime as dt
import sqlite3
import struct
from pathlib import Path

import msgspec
import pytest
import xxhash

from protocol.admin.client import AdminClient
from protocol.errors import (
    CA_MISMATCH,
    CATALOG_UNUSABLE,
    CERTIFICATE_REFUSED,
    PROTOCOL,
    USAGE,
    LocalFault,
    PeerFault,
)
from protocol.identity import issued, make_request, pinned_context
from protocol.local import log
from protocol.local.config import parse
from protocol.wire.control import ControlConnection, Greeted, Role
from protocol.wire.framing import encode_control
from protocol.wire.greeting import Greeting
from protocol.wire.jobs import JobReport
from protocol.wire.messages import Inventory
from receiver.authority import Authority
from receiver.catalog import Catalog
from receiver.config import Config
from receiver.jobs.spec import JobSpec
from receiver.shelf import Shelf
from replicad.dirtymap.header import Header, MapRefusedError, decode_slot, encode_slot
from replicad.freeze.blockgraph import BlockGraph, Node
from replicad.freeze.leftover import thaw_leftovers
from replicad.freeze.mounts import parse_mountinfo
from replicad.inventory import _mounted

GREETING = Greeting(software="test", name="web01")


def receiver() -> ControlConnection:
    connection = ControlConnection(Role.RECEIVER, GREETING, "web01", 0.0)
    list(connection.receive(encode_control(GREETING.hello()), 0.0))
    return connection


def test_a_number_of_400_digits_does_not_break_the_metrics_of_all_jobs() -> None:
    report = JobReport(job="j", revision=1, state="syncing", reconnects=10**300)
    with pytest.raises(PeerFault) as caught:
        list(receiver().receive(encode_control(report), 0.0))
    assert caught.value.code == PROTOCOL.code
    assert "64 bits" in caught.value.sentence


def test_the_software_that_a_source_says_cannot_steer_a_terminal() -> None:
    said = Greeting(software="\x1b]0;pwned\x07" + "x" * 10000, name="web01")
    connection = ControlConnection(Role.RECEIVER, GREETING, "web01", 0.0)
    [greeted] = connection.receive(encode_control(said.hello()), 0.0)
    assert isinstance(greeted, Greeted)
    assert greeted.peer.software.startswith("?]0;pwned?xx")
    assert len(greeted.peer.software) <= 4096


def test_a_mount_whose_name_is_no_utf8_does_not_keep_a_source_from_connecting() -> None:
    """The inventory could not be encoded, so every connection ended at once, for ever."""
    text = b"30 1 8:1 / /mnt/\xff rw - ext4 /dev/sda\xfe rw".decode("utf-8", "surrogateescape")
    graph = BlockGraph({"8:1": Node("sda1", "8:1")})
    (mounted,) = _mounted(("8:1",), graph, parse_mountinfo(text))
    assert mounted.mount == "/mnt/\\udcff"
    encode_control(Inventory(disks=()))
    assert b"udcff" in msgspec.json.encode(mounted)


def test_a_log_line_with_a_name_that_is_no_utf8_is_written() -> None:
    line = log._as_line(log._as_json)(None, "info", {"event": "x", "path": Path("/a\udcff")})
    assert b"udcff" in line
    fault = USAGE.fault(problem="/a\udcff")
    assert fault.sentence.encode()


def test_an_argument_that_is_no_utf8_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(LocalFault) as caught:
        AdminClient(tmp_path / "none.sock", "receiver", 1.0).call("job.show", job="\udcff")
    assert caught.value.code == USAGE.code


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE jobs SET spec = 'x'",
        "UPDATE jobs SET state = 'melted'",
        "UPDATE jobs SET report = '{}'",
        "UPDATE sources SET inventory = '[1]'",
    ],
)
def test_a_damaged_row_is_said_and_does_not_end_the_daemon(tmp_path: Path, change: str) -> None:
    path = tmp_path / "catalog.db"
    with Catalog(path) as catalog:
        catalog.sources.enrol("web01", fingerprint="f", serial="1", now=0.0)
        catalog.jobs.create(JobSpec(source="web01"), "preparing", 0.0)
    with sqlite3.connect(path) as plain:
        plain.execute(change)
    plain.close()

    async def look() -> None:
        shelf = await Shelf.open(path)
        try:
            await shelf.do(lambda catalog: (catalog.jobs.all(), catalog.sources.all()))
        finally:
            await shelf.close()

    with pytest.raises(LocalFault) as caught:
        asyncio.run(look())
    assert caught.value.code == CATALOG_UNUSABLE.code
    assert change.split()[3] in caught.value.sentence


def test_a_number_of_thousands_of_digits_is_named_with_its_line() -> None:
    value, problems = parse(b"[limits]\nmemory = " + b"9" * 5000, Config)
    assert value is None
    assert [problem.line for problem in problems] == [2]


def test_a_vertical_tab_is_no_end_of_a_line() -> None:
    _, problems = parse(b"[[e]]\n['\x0bw]]", Config)
    assert [problem.line for problem in problems] == [2]


def test_text_around_a_certificate_that_is_no_ascii_is_refused(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path, dt.datetime.now(dt.UTC))
    request = make_request("web01")
    signed = authority.sign_source(request.request_pem, "web01", dt.datetime.now(dt.UTC))
    pem = "\u00e9\n" + authority.pem
    with pytest.raises(PeerFault) as caught:
        pinned_context(pem, authority.fingerprint(), "x:1")
    assert caught.value.code == CA_MISMATCH.code
    with pytest.raises(PeerFault) as caught:
        issued(request, signed.pem, pem, address="x:1", receiver="r")
    assert caught.value.code == CERTIFICATE_REFUSED.code


def test_a_map_whose_header_is_no_utf8_is_refused() -> None:
    slot = bytearray(encode_slot(Header(job="jjjj", disk="d", size=4096, granule=4096), 1))
    at = slot.index(b"jjjj")
    slot[at] = 0xFF

    slot[24:32] = struct.pack("<Q", xxhash.xxh3_64_intdigest(bytes(slot[:24] + slot[32:])))
    with pytest.raises(MapRefusedError):
        decode_slot(bytes(slot))


@pytest.mark.parametrize("raw", [b"[" * 5000, b"[1]", b'{"a": 1}', b"\xff"])
def test_a_record_that_is_none_of_ours_is_said(tmp_path: Path, raw: bytes) -> None:
    record = tmp_path / "frozen.json"
    record.write_bytes(raw)
    with pytest.raises(ValueError, match="not a record"):
        thaw_leftovers(record)


def test_a_path_that_is_none_does_not_keep_the_others_frozen(tmp_path: Path) -> None:
    record = tmp_path / "frozen.json"
    record.write_bytes(b'[["0:0", ["a\\u0000b", "/nowhere/at/all"]]]')
    assert thaw_leftovers(record) == []
    assert not record.exists()
