"""Both ciphers against what others say of them, and how two sides come to one of them."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import NO_CIPHER, PeerFault
from protocol.local.values import read_cipher
from protocol.wire import ciphers
from protocol.wire.ciphers import HERE, aead, check_choice, choose, fastest_first, offer
from protocol.wire.limits import AEGIS_256X2, AES_256_GCM
from tests.support import aegis

# draft-irtf-cfrg-aegis-aead-16, A.6.3 (earlier drafts show another message with the same result).
KEY = bytes(range(32))
NONCE = bytes(range(16, 48))
VECTORS = [
    ("", "", "62cdbab084c83dacdb945bb446f049c8"),
    (
        "0102030401020304",
        "05060708" * 30,
        (
            "73110d21a920608fd77b580f1e4428087a7365cb153b4eeca6b62e1a70f7f9a8"
            "d1f31f17da4c3acfacb2517f2f5e15758c35532e33751a964d18d29a599d2dc0"
            "7f9378339b9d8c9fa03d30a4d7837cc8eb8b99bcbba2d11cd1a0f994af2b8f94"
            "7ef18473bd519e5283736758480abc990e79d4ccab93dde9"
            "94a3bd44ad3381e36335014620ee638e"
        ),
    ),
]


@pytest.mark.parametrize(("associated", "plaintext", "sealed"), VECTORS, ids=["empty", "content"])
def test_the_reference_seals_what_the_draft_says(
    associated: str, plaintext: str, sealed: str
) -> None:
    content, beside = bytes.fromhex(plaintext), bytes.fromhex(associated)
    assert aegis.seal(KEY, NONCE, content, beside).hex() == sealed


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 500])
def test_aegis_seals_what_the_reference_seals(size: int) -> None:
    chance = random.Random(size)
    for number in (0, 1, 1 << 40):
        key, content = chance.randbytes(32), chance.randbytes(size)
        beside = chance.randbytes(4)
        into = memoryview(bytearray(size + 16))
        aead(AEGIS_256X2, key).seal(number, content, beside, into)
        assert into == aegis.seal(key, number.to_bytes(32, "big"), content, beside)


@pytest.mark.parametrize("cipher", HERE)
@given(content=st.binary(max_size=200), number=st.integers(0, (1 << 48) - 1))
def test_it_opens_with_the_same_key_number_and_data_only(
    cipher: str, content: bytes, number: int
) -> None:
    it = aead(cipher, KEY)
    sealed = memoryview(bytearray(len(content) + 16))
    it.seal(number, content, b"beside", sealed)
    into = memoryview(bytearray(len(content)))
    it.open(number, sealed, b"beside", into)
    assert into == content
    for other, nonce, beside in (
        (aead(cipher, bytes(32)), number, b"beside"),
        (it, number + 1, b"beside"),
        (it, number, b"Beside"),
    ):
        with pytest.raises(InvalidTag):
            other.open(nonce, sealed, beside, into)


@pytest.mark.parametrize("cipher", HERE)
def test_nothing_is_written_where_nothing_may_be(cipher: str) -> None:
    it, content = aead(cipher, KEY), b"content"
    for size in (0, len(content) + 15):
        with pytest.raises((ValueError, TypeError)):
            it.seal(0, content, b"", memoryview(bytearray(size)))
    never = bytes(64)
    with pytest.raises((ValueError, TypeError, BufferError)):
        it.seal(0, content, b"", memoryview(never)[:23])
    sealed = memoryview(bytearray(23))
    it.seal(0, content, b"", sealed)
    for size in (0, len(content) - 1):
        with pytest.raises((ValueError, TypeError)):
            it.open(0, sealed, b"", memoryview(bytearray(size)))
    with pytest.raises((ValueError, TypeError, BufferError)):
        it.open(0, sealed, b"", memoryview(never)[:7])
    assert never == bytes(64)


@pytest.mark.parametrize("cipher", HERE)
def test_our_own_mistakes_are_no_wrong_tags(cipher: str) -> None:
    """They would look like somebody in between, and be tried again for ever."""
    it, sealed, into = aead(cipher, KEY), memoryview(bytearray(23)), memoryview(bytearray(14))
    it.seal(0, b"content", b"", sealed)
    released = memoryview(bytearray(7))
    released.release()
    for bad in (into[::2], released):
        with pytest.raises((ValueError, BufferError, TypeError)):
            it.open(0, sealed, b"", bad)
    with pytest.raises((ValueError, BufferError, TypeError)):
        it.open(0, memoryview(bytearray(46))[::2], b"", into[:7])


def test_what_is_no_cipher_or_no_key_is_refused() -> None:
    with pytest.raises(ValueError, match="no cipher 'rot13' here"):
        aead("rot13", KEY)
    for cipher in HERE:
        for size in (16, 31, 33):
            with pytest.raises(ValueError, match="a key has 32 bytes"):
                aead(cipher, bytes(size))


# --- which one -------------------------------------------------------------------------------


@pytest.fixture
def takes(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What sealing takes, by cipher, in place of what is measured."""
    times = dict.fromkeys(HERE, 1.0)
    monkeypatch.setattr(ciphers, "_seconds", lambda: times)
    return times


def test_the_fastest_is_offered_first(takes: dict[str, float]) -> None:
    for faster in HERE:
        takes.update(dict.fromkeys(HERE, 1.0) | {faster: 0.5})
        assert offer()[0] == offer("auto")[0] == fastest_first()[0] == faster
        assert sorted(offer()) == sorted(HERE)


def test_how_fast_they_are_is_measured_once() -> None:
    measured = ciphers._seconds()
    assert measured is ciphers._seconds()
    assert set(measured) == set(HERE)
    # 64 KiB at 10 MB/s to 100 GB/s.
    assert all(0.6e-6 < seconds < 6e-3 for seconds in measured.values()), measured


def test_a_receiver_does_not_take_what_is_slow_here(takes: dict[str, float]) -> None:
    both = (AEGIS_256X2, AES_256_GCM)
    takes.update({AEGIS_256X2: 3.9, AES_256_GCM: 1.0})
    assert choose(both) == AEGIS_256X2
    takes.update({AEGIS_256X2: 4.1})
    assert choose(both) == AES_256_GCM
    # Unless there is no other: who has only that one, or has fixed it, is not refused.
    assert choose((AEGIS_256X2,)) == AEGIS_256X2
    assert choose(both, AEGIS_256X2) == AEGIS_256X2


def test_a_machine_without_the_library_has_the_other_one() -> None:
    """Its wheels are not for every machine."""
    code = """if True:
        import sys
        sys.modules["aeg"] = None
        from protocol.wire.ciphers import HERE, choose, offer
        assert HERE == offer() == ("aes-256-gcm",), HERE
        assert choose(("aegis-256x2", "aes-256-gcm")) == "aes-256-gcm"
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_what_is_fixed_is_all_that_is_offered() -> None:
    for cipher in HERE:
        assert offer(cipher) == (cipher,)


def test_the_receiver_takes_what_the_source_likes_best() -> None:
    both = (AEGIS_256X2, AES_256_GCM)
    assert choose(both) == AEGIS_256X2
    assert choose(both[::-1]) == AES_256_GCM
    assert choose(("of-the-future", AES_256_GCM)) == AES_256_GCM
    assert choose(both, AES_256_GCM) == AES_256_GCM


@pytest.mark.parametrize(
    ("offered", "fixed"),
    [
        (("of-the-future",), "auto"),
        ((AES_256_GCM,), AEGIS_256X2),
        ((AEGIS_256X2,), AES_256_GCM),
    ],
)
def test_without_a_common_cipher_there_is_no_session(offered: tuple[str, ...], fixed: str) -> None:
    with pytest.raises(PeerFault) as caught:
        choose(offered, fixed)
    assert caught.value.code == NO_CIPHER.code
    assert offered[0] in str(caught.value)


def test_a_source_takes_only_what_it_has_offered() -> None:
    check_choice(AES_256_GCM, HERE)
    with pytest.raises(PeerFault) as caught:
        check_choice(AES_256_GCM, (AEGIS_256X2,))
    assert caught.value.code == NO_CIPHER.code


def test_a_cipher_without_its_library_is_refused_when_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not when the first session is opened, and 'auto' is always possible."""
    monkeypatch.setattr(ciphers, "HERE", (AES_256_GCM,))
    assert read_cipher("auto") == "auto"
    assert read_cipher(AES_256_GCM) == AES_256_GCM
    with pytest.raises(ValueError, match="not installed here; there is aes-256-gcm"):
        read_cipher(AEGIS_256X2)
