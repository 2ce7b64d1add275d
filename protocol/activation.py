"""The activation code: what an administrator copies from the receiver to the source, once.

It authenticates the first contact in both directions: the *secret* proves the source to the
receiver, the *authority* (fingerprint of the receiver's CA key) proves the receiver to the
source, before the secret is said. Written in Crockford's base32, which has no letter that
can be taken for another, with a checksum that catches every wrong or swapped character, so
that a typing error is told from an unknown code without asking the receiver.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass, field
from typing import Final

from protocol.errors import ACTIVATION_MALFORMED

SECRET_SIZE: Final = 16
"""bytes of the one-time secret: 128 bits cannot be guessed, even offline."""
AUTHORITY_SIZE: Final = 20
"""bytes of the fingerprint: a second key with the same 160 bits cannot be found."""
_CHECK_SIZE: Final = 2
_SIZE: Final = SECRET_SIZE + AUTHORITY_SIZE + _CHECK_SIZE
_DIGITS: Final = -(-_SIZE * 8 // 5)  # 61, the last with one spare bit, which is 0
_SPARE: Final = _DIGITS * 5 - _SIZE * 8
_GROUP: Final = 8

_PREFIX: Final = "RPL1"
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES: Final = {digit: value for value, digit in enumerate(_ALPHABET)}
_ALIKE: Final = str.maketrans(
    {"O": "0", "I": "1", "L": "1", "-": "", " ": "", "\t": "", "\n": "", "\r": ""}
)


@dataclass(frozen=True, slots=True)
class ActivationCode:
    """``secret``: 16 random bytes. ``authority``: 20 bytes, see
    :func:`protocol.identity.authority_fingerprint`."""

    secret: bytes = field(repr=False)
    authority: bytes

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_SIZE or len(self.authority) != AUTHORITY_SIZE:
            raise ValueError("an activation code has a secret of 16 bytes and an authority of 20")

    @classmethod
    def parse(cls, text: str) -> ActivationCode:
        """Read a code as people write it: any case, with or without dashes and spaces, O for 0,
        I or L for 1.

        Raises:
            LocalFault: ACTIVATION_MALFORMED. It never quotes the code.
        """
        if len(text) > 4 * _DIGITS:
            raise ACTIVATION_MALFORMED.fault(problem=f"it has {len(text)} characters")
        digits = text.upper().translate(_ALIKE)
        prefix = _PREFIX.translate(_ALIKE)
        if not digits.startswith(prefix):
            raise ACTIVATION_MALFORMED.fault(problem=f"it does not begin with {_PREFIX}-")
        digits = digits[len(prefix) :]
        if len(digits) != _DIGITS:
            problem = f"it has {len(digits)} characters after {_PREFIX}-, not {_DIGITS}"
            raise ACTIVATION_MALFORMED.fault(problem=problem)
        number = 0
        for digit in digits:
            if digit not in _VALUES:
                raise ACTIVATION_MALFORMED.fault(problem=f"it never contains {digit!r}")
            number = number << 5 | _VALUES[digit]
        packed = (number >> _SPARE).to_bytes(_SIZE, "big")
        content, check = packed[:-_CHECK_SIZE], packed[-_CHECK_SIZE:]
        if number & ((1 << _SPARE) - 1) or check != _checksum(content):
            raise ACTIVATION_MALFORMED.fault(problem="its checksum is wrong, so a character is")
        return cls(content[:SECRET_SIZE], content[SECRET_SIZE:])

    def format(self) -> str:
        """The code as it is printed: ``RPL1-`` and 61 characters in groups of eight."""
        content = self.secret + self.authority
        number = int.from_bytes(content + _checksum(content), "big") << _SPARE
        digits = "".join(_ALPHABET[number >> 5 * i & 31] for i in reversed(range(_DIGITS)))
        groups = [digits[i : i + _GROUP] for i in range(0, _DIGITS, _GROUP)]
        return "-".join([_PREFIX, *groups])


def _checksum(content: bytes) -> bytes:
    """CRC-16/CCITT-FALSE of the prefix and the content: unlike a hash it is certain to see any
    error within 16 neighbouring bits, so any one wrong and any two swapped characters."""
    return binascii.crc_hqx(_PREFIX.encode() + content, 0xFFFF).to_bytes(_CHECK_SIZE, "big")
