"""docs/protocol.md is run: its byte examples and tables against the implementation.

Key schedule, nonces and sealing are recomputed here with the standard library's HMAC and the
allocating AES-GCM, or an AEGIS of our own, not with ``protocol.wire.crypto``: two ways must come to
the same bytes.
"""

from __future__ import annotations

import hmac
import json
import re
from pathlib import Path
from typing import get_args

import pytest
import xxhash
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.activation import ActivationCode
from protocol.wire import limits
from protocol.wire.checks import check
from protocol.wire.crypto import Direction, SessionKeys
from protocol.wire.data import DataHello
from protocol.wire.frames import (
    RAW,
    ZSTD,
    Ack,
    Data,
    Diff,
    Digests,
    Fence,
    Frame,
    Ping,
    Pong,
    Ready,
    Segment,
    decode_meta,
    encode_meta,
)
from protocol.wire.framing import decode_control, encode_control
from protocol.wire.limits import AEGIS_256X2, CIPHERS
from protocol.wire.messages import ControlMessage
from protocol.wire.rules import RULES, Phase
from tests.support import aegis

DOCUMENT = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text()
Vector = dict[str, str]


def blocks(info: str) -> list[str]:
    return re.findall(rf"^```{info}\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


def vectors(kind: str) -> list[Vector]:
    """Lines ``name = value``; an indented line goes on with the one before it."""
    found = []
    for block in blocks(f"vector {kind}"):
        lines = re.sub(r"\n\s+", "", block).splitlines()
        pairs = (re.fullmatch(r"(.+?) =(?: (.*))?", line) for line in lines)
        found.append({pair[1]: pair[2] or "" for pair in pairs if pair is not None})
        assert len(found[-1]) == len(lines)
    return found


def one(kind: str) -> Vector:
    [vector] = vectors(kind)
    return vector


def content(text: str) -> bytes:
    """Hex, or ``5a * 512``."""
    pattern, _, times = text.partition(" * ")
    return bytes.fromhex(pattern) * int(times or 1)


# --- the key schedule, by other means --------------------------------------------------------

KEYS = one("keys")
SECRET, SESSION = bytes.fromhex(KEYS["secret"]), bytes.fromhex(KEYS["session"])


def expand(info: bytes, length: int) -> bytes:
    """HKDF-Expand (RFC 5869) for at most one block."""
    root = hmac.digest(SESSION, SECRET, "sha256")
    return hmac.digest(root, info + b"\x01", "sha256")[:length]


def frame_key(side: str, index: int, step: int, cipher: str = "") -> bytes:
    numbers = index.to_bytes(4, "big") + step.to_bytes(4, "big")
    return expand(f"replicad/1 {cipher}from {side}".encode() + numbers, 32)


def test_the_keys_by_other_means() -> None:
    assert hmac.digest(SESSION, SECRET, "sha256").hex() == KEYS["root"]
    assert expand(b"replicad/1 hello", 32).hex() == KEYS["hello"]
    assert expand(b"replicad/1 digest seed", 8).hex() == KEYS["digest_seed"]


def test_the_keys_of_the_implementation() -> None:
    keys = SessionKeys(SECRET, SESSION)
    assert keys.digest_seed == int(KEYS["digest_seed"], 16)
    named = [re.fullmatch(r"(source|receiver) (\d) (\d)", name) for name in KEYS]
    found = [match for match in named if match is not None]
    assert len(found) == 4
    for match in found:
        side, index, step = match[1], int(match[2]), int(match[3])
        direction = Direction.FROM_SOURCE if side == "source" else Direction.FROM_RECEIVER
        assert frame_key(side, index, step).hex() == KEYS[match[0]]
        assert keys.frame_key(index, direction, step).hex() == KEYS[match[0]]


def test_the_hello() -> None:
    vector = one("hello")
    data = bytes.fromhex(vector["bytes"])
    keys = SessionKeys(bytes.fromhex(vector["secret"]), bytes.fromhex(vector["session"]))
    assert DataHello(keys.session, int(vector["index"])).encode(keys) == data
    assert data[25:] == hmac.digest(bytes.fromhex(KEYS["hello"]), data[:25], "sha256")
    DataHello.parse(data).verify(keys)


# --- frames ----------------------------------------------------------------------------------

FRAMES = vectors("frame")


def said(vector: Vector) -> Frame:
    """The frame that the readable lines of a vector describe."""
    kind = int(vector["meta"][:2], 16)
    pieces = re.findall(r"(\d+)\+(\d+)( zero)?", vector.get("segments", ""))
    segments = tuple(Segment(int(at), int(length), bool(zero)) for at, length, zero in pieces)
    if kind == 1:
        encoding = ZSTD if "content" in vector else RAW
        digest = bytes.fromhex(vector["digest"])
        return Data(int(vector["disk"]), encoding, int(vector["raw_length"]), digest, segments)
    if kind == 2:
        return Digests(int(vector["disk"]), int(vector["block"]), segments)
    if kind == 0x83:
        return Diff(int(vector["sequence"]), int(vector["blocks"]))
    if kind == 0x82:
        return Ack(int(vector["sequence"]))
    if kind in {4, 0x84}:
        return (Ping if kind == 4 else Pong)(int(vector["value"], 16))
    return Fence() if kind == 3 else Ready()


def test_there_is_a_vector_for_every_frame() -> None:
    assert {type(said(vector)) for vector in FRAMES} == set(get_args(Frame))


@pytest.mark.parametrize("vector", FRAMES, ids=lambda vector: type(said(vector)).__name__)
def test_a_frame_means_what_the_document_says(vector: Vector) -> None:
    payload, meta = content(vector["payload"]), bytes.fromhex(vector["meta"])
    from_source = vector["from"].startswith("source")
    direction = Direction.FROM_SOURCE if from_source else Direction.FROM_RECEIVER
    assert encode_meta(said(vector)) == meta
    assert decode_meta(payload + meta, direction) == (said(vector), len(payload))
    assert type(decode_meta(payload + meta, direction)[0]) is type(said(vector))


@pytest.mark.parametrize("vector", FRAMES, ids=lambda vector: type(said(vector)).__name__)
def test_a_sealed_frame_by_other_means(vector: Vector) -> None:
    side, index = vector["from"].split()
    number, data = int(vector["number"]), bytes.fromhex(vector["bytes"])
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    aead = AESGCM(frame_key(side, int(index), 0))
    plaintext = content(vector["payload"]) + bytes.fromhex(vector["meta"])
    assert aead.decrypt(bytes(4) + number.to_bytes(8, "big"), data[4:], data[:4]) == plaintext


def test_a_frame_of_the_other_cipher_by_other_means_and_by_ours() -> None:
    vector = one("aegis")
    for side in ("source", "receiver"):
        assert frame_key(side, 0, 0, "aegis-256x2 ").hex() == vector[f"{side} 0 0"]
    assert vector["from"] == "receiver 0"
    data, number = bytes.fromhex(vector["bytes"]), int(vector["number"])
    plaintext = content(vector["payload"]) + bytes.fromhex(vector["meta"])
    key = bytes.fromhex(vector["receiver 0 0"])
    nonce = number.to_bytes(32, "big")
    assert data[4:] == aegis.seal(key, nonce, plaintext, data[:4])
    keys = SessionKeys(SECRET, SESSION, AEGIS_256X2)
    into = memoryview(bytearray(64))
    _, size = keys.sealer(0, Direction.FROM_RECEIVER).seal(plaintext, into)
    assert into[:size] == data
    out = memoryview(bytearray(64))
    opened = keys.opener(0, Direction.FROM_RECEIVER).open(data[4:], out)
    assert out[:opened] == plaintext


@pytest.mark.parametrize("side", ["source", "receiver"])
def test_the_frames_of_a_side_are_what_the_implementation_seals(side: str) -> None:
    direction = Direction.FROM_SOURCE if side == "source" else Direction.FROM_RECEIVER
    keys = SessionKeys(SECRET, SESSION)
    sealer, opener = keys.sealer(0, direction), keys.opener(0, direction)
    mine = [vector for vector in FRAMES if vector["from"] == f"{side} 0"]
    mine.sort(key=lambda vector: int(vector["number"]))
    assert [int(vector["number"]) for vector in mine] == list(range(len(mine)))
    for vector in mine:
        plaintext = content(vector["payload"]) + bytes.fromhex(vector["meta"])
        into = memoryview(bytearray(2048))
        _, size = sealer.seal(plaintext, into)
        assert into[:size].hex() == vector["bytes"]
        out = memoryview(bytearray(2048))
        assert out[: opener.open(into[4:size], out)] == plaintext


def test_the_digests_are_those_of_the_content() -> None:
    for vector in FRAMES:
        frame, payload = said(vector), content(vector["payload"])
        if isinstance(frame, Data):
            if frame.encoding == ZSTD:
                expanded = zstandard.ZstdDecompressor().decompress(payload)
                assert expanded == content(vector["content"])
                payload = expanded
            assert xxhash.xxh3_128_digest(payload) == frame.digest
        if isinstance(frame, Digests):
            assert payload == _digests_of(vector["blocks"])
        if isinstance(frame, Diff):
            assert payload == b"\x02" + _digests_of(vector["finer"])


def _digests_of(parts: str) -> bytes:
    seed = int(KEYS["digest_seed"], 16)
    named = [content(part) for part in parts.split(", ")]
    return b"".join(xxhash.xxh3_128_digest(part, seed=seed) for part in named)


# --- control ---------------------------------------------------------------------------------

CONTROL = blocks("json control")


def test_there_is_an_example_of_every_message() -> None:
    shown = {type(decode_control(block.encode())) for block in CONTROL}
    assert shown == set(get_args(ControlMessage))


@pytest.mark.parametrize("block", CONTROL, ids=lambda block: json.loads(block)["type"])
def test_an_example_is_understood_and_said_the_same_way(block: str) -> None:
    message = decode_control(block.encode())
    check(message)
    again = json.loads(encode_control(message)[4:])
    shown = json.loads(block)
    for name, value in again.items():
        assert shown[name] == value
    # What is shown and not sent has its default value; nothing else may be missing.
    assert decode_control(json.dumps(again).encode()) == message or "result" in shown


def test_the_framing_of_a_control_message() -> None:
    vector = one("control-frame")
    data = bytes.fromhex(vector["bytes"])
    assert encode_control(decode_control(vector["message"].encode())) == data


def test_the_activation_code() -> None:
    vector = one("activation")
    code = ActivationCode(bytes.fromhex(vector["secret"]), bytes.fromhex(vector["authority"]))
    assert code.format() == vector["text"]
    assert ActivationCode.parse(vector["text"]) == code


# --- tables ----------------------------------------------------------------------------------


def table(header: str) -> list[list[str]]:
    lines = DOCUMENT[DOCUMENT.index(header) :].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return rows


def tag(message: type[ControlMessage]) -> str:
    return str(message.__struct_config__.tag)


def test_the_table_of_the_conversation_is_the_one_that_is_run() -> None:
    shown = {}
    for name, side, phases, asks, answers, ends in table("| message | from | in phase |"):
        shown[name] = (
            {"source", "receiver"} if side == "both" else {side},
            {p.value for p in Phase} - {"closed"} if phases == "any" else set(phases.split(", ")),
            asks == "yes",
            answers,
            ends == "yes",
        )
    assert shown == {
        tag(message): (
            {role.value for role in rule.senders},
            {phase.value for phase in rule.phases},
            rule.asks,
            "" if rule.answers is None else tag(rule.answers),
            rule.ends,
        )
        for message, rule in RULES.items()
    }


def test_the_limits_are_those_that_are_enforced() -> None:
    rows = table("| limit | value |")
    assert len(rows) > 20
    for name, value, _ in rows:
        assert float(value) == getattr(limits, name), name


def test_the_ciphers_are_those_that_there_are() -> None:
    assert {name for name, *_ in table("| cipher |")} == set(CIPHERS)


def test_the_capabilities_are_those_that_are_offered() -> None:
    assert {name for name, _ in table("| capability |")} == limits.CAPABILITIES
