"""What a bad line can do to a session mends itself: no job may wait for a person because of it."""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

import pytest

from protocol.errors import (
    CERTIFICATE_REFUSED,
    CONNECTION_LOST,
    CORRUPT,
    HELLO_REFUSED,
    PROTOCOL,
    SILENT,
    TAMPERED,
    TOO_LONG,
    UNREACHABLE,
    Fault,
)
from protocol.link.control import ControlLink
from protocol.wire.control import Greeted
from protocol.wire.data import FrameReader
from protocol.wire.greeting import Greeting
from protocol.wire.limits import REPLY_FRAME_MAX
from protocol.wire.rules import Role
from replicad.engine.session import TRANSIENT

OF_THE_LINE = (
    CONNECTION_LOST,
    CORRUPT,
    HELLO_REFUSED,
    PROTOCOL,
    SILENT,
    TAMPERED,
    TOO_LONG,
    UNREACHABLE,
)


def test_every_fault_of_the_line_is_tried_again() -> None:
    assert {kind.code for kind in OF_THE_LINE} <= TRANSIENT


@pytest.mark.parametrize("bit", range(32))
def test_any_flipped_bit_in_the_length_of_an_answer_is_one_of_them(bit: int) -> None:
    reader = FrameReader(REPLY_FRAME_MAX)
    reader.provide(memoryview(bytearray(REPLY_FRAME_MAX + 4)))
    length = (27 ^ (1 << bit)).to_bytes(4, "big")
    reader.want()[:] = length
    try:
        reader.received(4)
        reader.want()
    except Fault as fault:
        assert fault.code in TRANSIENT


@pytest.mark.parametrize("greeted", [False, True])
def test_changed_bytes_under_tls_are_no_refused_certificate(greeted: bool) -> None:
    """Before the greeting they may be the receiver's word about our certificate."""

    async def case() -> Fault:
        reader = asyncio.StreamReader()
        broken = ssl.SSLError(1, "bad record mac")
        broken.reason = "BAD_RECORD_MAC"
        reader.set_exception(broken)
        link = ControlLink(
            Role.SOURCE,
            Greeting(software="x", name="web01"),
            "web01",
            reader,
            cast("object", None),  # type: ignore[arg-type]
        )
        if greeted:
            link.greeted = cast("Greeted", object())
        with pytest.raises(Fault) as raised:
            await link._read()
        return raised.value

    fault = asyncio.run(case())
    expected = CONNECTION_LOST if greeted else CERTIFICATE_REFUSED
    assert fault.code == expected.code
