"""Both ciphers against what others say of them, and how two sides come to one of them."""

from __future__ import annotations

import random

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import NO_CIPHER, PeerFault
from protocol.wire import ciphers
from protocol.wire.ciphers import aead, check_choice, choose, fastest_first, offer
from protocol.wire.limits import AEGIS_256X2, AES_256_GCM, CIPHERS
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


@pytest.mark.parametrize("cipher", CIPHERS)
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


@pytest.mark.parametrize("cipher", CIPHERS)
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
    with pytest.raises((ValueError, TypeError, BufferError)):
        it.open(0, sealed, b"", memoryview(never)[:7])
    assert never == bytes(64)


def test_what_is_no_cipher_or_no_key_is_refused() -> None:
    with pytest.raises(ValueError, match="no cipher 'rot13'"):
        aead("rot13", KEY)
    for cipher in CIPHERS:
        for size in (16, 31, 33):
            with pytest.raises(ValueError, match="a key has 32 bytes"):
                aead(cipher, bytes(size))


# --- which one -------------------------------------------------------------------------------


def test_the_fastest_is_offered_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(fastest_first()) == sorted(CIPHERS)
    takes = {AES_256_GCM: 2.0, AEGIS_256X2: 1.0}
    monkeypatch.setattr(ciphers, "_seconds", takes.__getitem__)
    for faster in (AEGIS_256X2, AES_256_GCM):
        takes[faster] = 0.5
        fastest_first.cache_clear()
        assert offer()[0] == offer("auto")[0] == faster
        takes[faster] = 3.0
    fastest_first.cache_clear()


def test_a_machine_without_the_library_has_the_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ciphers, "HERE", (AES_256_GCM,))
    fastest_first.cache_clear()
    assert offer() == (AES_256_GCM,)
    assert choose((AEGIS_256X2, AES_256_GCM)) == AES_256_GCM
    with pytest.raises(ValueError, match="no cipher 'aegis-256x2' here"):
        aead(AEGIS_256X2, KEY)
    for refused in (lambda: offer(AEGIS_256X2), lambda: choose(CIPHERS, AEGIS_256X2)):
        with pytest.raises(PeerFault, match="aegis-256x2, which is not installed there") as caught:
            refused()
        assert caught.value.code == NO_CIPHER.code
    fastest_first.cache_clear()


def test_what_is_fixed_is_all_that_is_offered() -> None:
    for cipher in CIPHERS:
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
    check_choice(AES_256_GCM, CIPHERS)
    with pytest.raises(PeerFault) as caught:
        check_choice(AES_256_GCM, (AEGIS_256X2,))
    assert caught.value.code == NO_CIPHER.code
