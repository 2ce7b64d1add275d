"""Sealing and opening, with each cipher."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import PROTOCOL, TAMPERED, TOO_LONG, LocalFault, PeerFault
from protocol.wire import crypto
from protocol.wire.ciphers import HERE
from protocol.wire.crypto import Direction, Opener, Sealer, SessionKeys
from protocol.wire.limits import FRAMES_MAX, PLAINTEXT_MAX, REKEY_FRAMES, TAG

SECRET = bytes(range(32))
SESSION = bytes(range(100, 116))


_cipher = [HERE[0]]


@pytest.fixture(scope="module", params=HERE, autouse=True)
def cipher(request: pytest.FixtureRequest) -> str:
    """The one that :func:`session` uses. For all of a module: Hypothesis runs a test many times."""
    _cipher[0] = request.param
    return _cipher[0]


def session(secret: bytes = SECRET, identity: bytes = SESSION) -> SessionKeys:
    return SessionKeys(secret, identity, _cipher[0])


def pair(index: int = 0, direction: Direction = Direction.FROM_SOURCE) -> tuple[Sealer, Opener]:
    keys = session()
    return keys.sealer(index, direction), keys.opener(index, direction)


def seal(sealer: Sealer, plaintext: bytes) -> bytes:
    """The frame without its length."""
    into = memoryview(bytearray(len(plaintext) + 64))
    _, size = sealer.seal(plaintext, into)
    assert int.from_bytes(into[:4], "big") == size - 4
    return bytes(into[4:size])


def open_(opener: Opener, sealed: bytes) -> bytes:
    into = memoryview(bytearray(len(sealed)))
    return bytes(into[: opener.open(sealed, into)])


def refused(opener: Opener, sealed: bytes, code: str = TAMPERED.code) -> None:
    with pytest.raises(PeerFault) as caught:
        open_(opener, sealed)
    assert caught.value.code == code


@given(st.lists(st.binary(min_size=3, max_size=5000), max_size=6))
def test_what_is_sealed_opens_in_order(plaintexts: list[bytes]) -> None:
    sealer, opener = pair()
    for number, plaintext in enumerate(plaintexts):
        assert opener.next_sequence == sealer.next_sequence == number
        assert open_(opener, seal(sealer, plaintext)) == plaintext


def test_the_largest_frame_opens_and_one_byte_more_is_refused() -> None:
    sealer, opener = pair()
    plaintext = bytes(PLAINTEXT_MAX)
    assert open_(opener, seal(sealer, plaintext)) == plaintext
    with pytest.raises(ValueError, match="cannot be sealed"):
        seal(sealer, plaintext + b"x")
    refused(opener, bytes(PLAINTEXT_MAX + TAG + 1), TOO_LONG.code)
    refused(pair()[1], bytes(TAG + 2), PROTOCOL.code)


def test_every_flipped_bit_is_seen() -> None:
    sealed = seal(pair()[0], b"some content")
    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        refused(pair()[1], bytes(changed))


def test_a_shortened_or_lengthened_frame_is_seen() -> None:
    sealed = seal(pair()[0], b"some content")
    refused(pair()[1], sealed[:-1])
    refused(pair()[1], sealed[1:])
    refused(pair()[1], sealed + b"\0")


def test_replayed_skipped_and_swapped_frames_are_seen() -> None:
    sealer, opener = pair()
    first, second = seal(sealer, b"first"), seal(sealer, b"second")
    refused(pair()[1], second)
    assert open_(opener, first) == b"first"
    refused(opener, first)


def test_a_connection_that_broke_once_stays_broken() -> None:
    sealer, opener = pair()
    first = seal(sealer, b"first")
    refused(opener, bytes(len(first)))
    refused(opener, first)


@pytest.mark.parametrize(
    "other",
    [
        lambda: session().opener(1, Direction.FROM_SOURCE),
        lambda: session().opener(0, Direction.FROM_RECEIVER),
        lambda: session(identity=bytes(16)).opener(0, Direction.FROM_SOURCE),
        lambda: session(secret=bytes(32)).opener(0, Direction.FROM_SOURCE),
    ],
    ids=["connection", "direction", "session", "secret"],
)
def test_every_connection_direction_and_session_has_its_own_key(
    other: Callable[[], Opener],
) -> None:
    refused(other(), seal(pair()[0], b"content"))


def test_ciphers_share_no_key(cipher: str) -> None:
    mine = session().frame_key(0, Direction.FROM_SOURCE, 0)
    for another in set(HERE) - {cipher}:
        keys = SessionKeys(SECRET, SESSION, another)
        assert keys.frame_key(0, Direction.FROM_SOURCE, 0) != mine
        refused(keys.opener(0, Direction.FROM_SOURCE), seal(pair()[0], b"content"))


def test_a_frame_that_does_not_open_leaves_no_plaintext() -> None:
    """Not even who ignores the fault sees what was never authenticated."""
    content = b"content that nobody has authenticated"
    sealed = bytearray(seal(pair()[0], content))
    sealed[-1] ^= 1
    into = memoryview(bytearray(len(sealed)))
    with pytest.raises(PeerFault):
        pair()[1].open(bytes(sealed), into)
    assert content[:8] not in bytes(into)


def test_the_key_changes_by_itself_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crypto, "REKEY_FRAMES", 3)
    keys = session()
    derived = []

    def note(self: SessionKeys, index: int, direction: Direction, step: int) -> bytes:
        derived.append(step)
        return real(self, index, direction, step)

    real = SessionKeys.frame_key
    monkeypatch.setattr(SessionKeys, "frame_key", note)
    sealer = keys.sealer(0, Direction.FROM_SOURCE)
    opener = keys.opener(0, Direction.FROM_SOURCE)
    for number in range(8):
        assert open_(opener, seal(sealer, b"%03d" % number)) == b"%03d" % number
    assert derived == [0, 0, 1, 1, 2, 2]
    steps = {real(keys, 0, Direction.FROM_SOURCE, step) for step in range(3)}
    assert len(steps) == 3


def test_the_numbers_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert FRAMES_MAX > REKEY_FRAMES
    monkeypatch.setattr(crypto, "FRAMES_MAX", 2)
    sealer, opener = pair()
    frames = [seal(sealer, b"abc") for _ in range(2)]
    with pytest.raises(LocalFault):
        seal(sealer, b"abc")
    for frame in frames:
        open_(opener, frame)
    refused(opener, frames[1], PROTOCOL.code)


def test_a_refused_seal_uses_no_number() -> None:
    sealer, opener = pair()
    with pytest.raises(ValueError, match="do not hold"):
        sealer.seal(b"content", memoryview(bytearray(20)))
    with pytest.raises(ValueError, match="cannot be sealed"):
        sealer.seal(b"", memoryview(bytearray(64)))
    assert open_(opener, seal(sealer, b"content")) == b"content"


def test_a_small_buffer_of_ours_is_not_the_peers_fault() -> None:
    sealer, opener = pair()
    sealed = seal(sealer, b"content")
    with pytest.raises(ValueError, match="do not hold"):
        opener.open(sealed, memoryview(bytearray(6)))
    assert open_(opener, sealed) == b"content"


def test_only_the_frame_is_written_to_the_buffer() -> None:
    sealer, opener = pair()
    into = memoryview(bytearray(b"\xee" * 64))
    _, size = sealer.seal(b"content", into)
    assert bytes(into[size:]) == b"\xee" * (64 - size)
    out = memoryview(bytearray(b"\xee" * 64))
    length = opener.open(into[4:size], out)
    assert bytes(out[length:]) == b"\xee" * (64 - length)


def test_secrets_are_not_shown() -> None:
    keys = session()
    sealer, opener = pair(7)
    shown = repr(keys) + repr(sealer) + repr(opener)
    assert "connection 7" in shown
    key = keys.frame_key(7, Direction.FROM_SOURCE, 0)
    for secret in (SECRET, key, keys.hello_code(b"")):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown
    with pytest.raises(TypeError):
        pickle.dumps(keys)


def test_the_seed_of_digests_is_the_sessions_own() -> None:
    seeds = {SessionKeys(SECRET, bytes([n] * 16)).digest_seed for n in range(8)}
    assert len(seeds) == 8
    assert all(0 <= seed < 1 << 64 for seed in seeds)


@pytest.mark.parametrize(("secret", "session"), [(31, 16), (33, 16), (32, 15)])
def test_a_secret_of_a_wrong_size_is_refused(secret: int, session: int) -> None:
    with pytest.raises(ValueError):
        SessionKeys(bytes(secret), bytes(session))


def test_keys_of_no_cipher_are_refused() -> None:
    with pytest.raises(ValueError, match="no cipher 'rot13' here"):
        SessionKeys(SECRET, SESSION, "rot13")
