"""The ciphers that seal frames, behind one interface, and which of them is the fastest here.

Both have keys of 256 bits, tags of 128, and take the frame's number as nonce:

* AES-256-GCM (NIST SP 800-38D), from OpenSSL by way of ``cryptography``. Whoever has to name a
  standard to somebody names this one. OpenSSL is fast at it with AVX-512, and not without.
* AEGIS-256X2 (Wu and Preneel; draft-irtf-cfrg-aegis-aead), from libaegis by way of ``aeg``. It is
  made of AES rounds and nothing else, so it is fast wherever the processor has them, and it runs
  without the interpreter's lock.

See docs/decisions/0183 for how the two compare and how a session comes to the one it uses.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.errors import NO_CIPHER
from protocol.wire.limits import AEGIS_256X2, AES_256_GCM, CIPHERS

try:
    from aeg import aegis256x2
except ImportError:  # there are no wheels of it for every machine: docs/decisions/0183
    aegis256x2 = None

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Buffer = bytes | bytearray | memoryview

KEY: Final = 32
"""bytes of a key, of either cipher."""

_PROBE: Final = 64 << 10
"""bytes that are sealed to see how fast a cipher is: 20 us of the slower one."""
_PROBES: Final = 8

SLOW: Final = 4.0
"""Times as slow as the best one here: then a receiver does not take a cipher. Its source cannot
know that this processor has no AES, or hides it."""


class Aead(Protocol):
    """Authenticated encryption with one key. ``number`` is the nonce: never twice for ``seal``.

    Neither call allocates what is of the message's size. ``into`` is writable and does not
    overlap the message.
    """

    def seal(self, number: int, plaintext: Buffer, associated: bytes, into: memoryview) -> None:
        """Write ciphertext and tag, 16 bytes more than ``plaintext``, which ``into`` has."""

    def open(self, number: int, sealed: Buffer, associated: bytes, into: memoryview) -> None:
        """Write the plaintext, 16 bytes less than ``sealed``, which ``into`` has.

        Raises:
            InvalidTag: it was not sealed with this key, number and ``associated``; what
                ``into`` holds then must not be used.
        """


class _AesGcm:
    """The nonce is four zero bytes and the number, big-endian."""

    __slots__ = ("_aead",)

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal(self, number: int, plaintext: Buffer, associated: bytes, into: memoryview) -> None:
        self._aead.encrypt_into(number.to_bytes(12, "big"), plaintext, associated, into)

    def open(self, number: int, sealed: Buffer, associated: bytes, into: memoryview) -> None:
        self._aead.decrypt_into(number.to_bytes(12, "big"), sealed, associated, into)


class _Aegis:
    """The nonce is 24 zero bytes and the number, big-endian."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, number: int, plaintext: Buffer, associated: bytes, into: memoryview) -> None:
        _check(plaintext, into)
        nonce = number.to_bytes(32, "big")
        aegis256x2.encrypt(self._key, nonce, plaintext, associated, into=into)

    def open(self, number: int, sealed: Buffer, associated: bytes, into: memoryview) -> None:
        _check(sealed, into)
        nonce = number.to_bytes(32, "big")
        try:
            aegis256x2.decrypt(self._key, nonce, sealed, associated, into=into)
        except ValueError:
            raise InvalidTag from None


def _check(given: Buffer, into: memoryview) -> None:
    """ValueError for memory that C must not be given: a fault of ours, and no wrong tag."""
    # cffi takes the address of bytes, too, and libaegis would write there.
    if into.readonly:
        raise ValueError("what a cipher writes to must be writable")
    if not (into.contiguous and memoryview(given).contiguous):
        raise ValueError("what a cipher reads and writes must be in one piece")


_MAKE: Final[dict[str, Callable[[bytes], Aead]]] = {AES_256_GCM: _AesGcm, AEGIS_256X2: _Aegis}

HERE: Final = tuple(name for name in CIPHERS if name != AEGIS_256X2 or aegis256x2 is not None)
"""Those whose library is installed."""


def aead(cipher: str, key: bytes) -> Aead:
    """``cipher``, one of :data:`HERE`, with a key of 32 bytes.

    Raises:
        ValueError: no such cipher here, or a key of another size.
    """
    if cipher not in HERE:
        raise ValueError(f"there is no cipher {cipher!r} here")
    if len(key) != KEY:
        raise ValueError(f"a key has {KEY} bytes, not {len(key)}")
    return _MAKE[cipher](key)


def offer(fixed: str = "auto") -> tuple[str, ...]:
    """What a source names, the best first: the cipher that an administrator has fixed, or all of
    them, the fastest here first. The source decides, since it is the one with other work."""
    return fastest_first() if fixed == "auto" else (fixed,)


def choose(offered: Sequence[str], fixed: str = "auto") -> str:
    """The receiver's choice: of those that were offered and that it may use the first that is not
    :data:`SLOW` here, or else the first.

    Raises:
        PeerFault: NO_CIPHER.
    """
    ours = HERE if fixed == "auto" else (fixed,)
    common = [cipher for cipher in offered if cipher in ours]
    if not common:
        raise NO_CIPHER.peer(receiver=" or ".join(ours), source=" or ".join(offered))
    takes = _seconds()
    enough = SLOW * min(takes.values())
    return next((cipher for cipher in common if takes[cipher] <= enough), common[0])


def check_choice(chosen: str, offered: Sequence[str]) -> None:
    """The source's look at the answer: did the receiver choose from what was offered?

    Raises:
        PeerFault: NO_CIPHER.
    """
    if chosen not in offered:
        raise NO_CIPHER.peer(receiver=chosen, source=" or ".join(offered))


def fastest_first() -> tuple[str, ...]:
    """Those of :data:`HERE` by how fast they seal on this processor."""
    return tuple(sorted(HERE, key=_seconds().__getitem__))


@functools.cache
def _seconds() -> dict[str, float]:
    """What sealing :data:`_PROBE` bytes takes, by cipher. Measured once in a process, 1 ms.

    The best of several, in time of the processor: whoever else is at work, or has the interpreter's
    lock when it is to be taken back, says nothing of a cipher.
    """
    content, into = bytes(_PROBE), memoryview(bytearray(_PROBE + 16))
    best = dict.fromkeys(HERE, float("inf"))
    for cipher in HERE:
        it = aead(cipher, bytes(KEY))
        for number in range(_PROBES):
            begun = time.thread_time()
            it.seal(number, content, b"", into)
            best[cipher] = min(best[cipher], time.thread_time() - begun)
    return best
