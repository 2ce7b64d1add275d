"""AEGIS-256X2 written from its draft, to check the library that seals frames against.

draft-irtf-cfrg-aegis-aead, sections "The AEGIS-256 Algorithm" and "Parallel modes", with two
lanes. Slow and not safe against anybody who measures time: for tests only. The AES S-box is
computed from its definition (FIPS 197, section 5.1.1), so no table is copied here.
"""

from __future__ import annotations

LANES = 2
_C0 = bytes.fromhex("000101020305080d1522375990e97962")
_C1 = bytes.fromhex("db3d18556dc22ff12011314273b528dd")
Block = bytes
Lane = list[Block]


def _double(byte: int) -> int:
    byte <<= 1
    return byte ^ 0x11B if byte & 0x100 else byte


def _times(a: int, b: int) -> int:
    product = 0
    while b:
        product ^= a if b & 1 else 0
        a, b = _double(a), b >> 1
    return product


def _s_box() -> bytes:
    inverse = [0] * 256
    for a in range(1, 256):
        inverse[a] = next(b for b in range(1, 256) if _times(a, b) == 1)
    turned = ((x << n | x >> 8 - n) & 0xFF for x in inverse for n in range(5))
    return bytes(a ^ b ^ c ^ d ^ e ^ 0x63 for a, b, c, d, e in zip(*[turned] * 5, strict=True))


_BOX = _s_box()
_SHIFTED = [4 * ((column + row) % 4) + row for column in range(4) for row in range(4)]


def _xor(*blocks: Block) -> Block:
    value = 0
    for block in blocks:
        value ^= int.from_bytes(block, "big")
    return value.to_bytes(16, "big")


def _and(a: Block, b: Block) -> Block:
    return bytes(x & y for x, y in zip(a, b, strict=True))


def _round(block: Block, key: Block) -> Block:
    """AES without its key schedule: SubBytes, ShiftRows, MixColumns, and ``key`` on top."""
    s = [_BOX[block[at]] for at in _SHIFTED]
    mixed = bytearray()
    for c in range(0, 16, 4):
        a, b, d, e = s[c : c + 4]
        every = a ^ b ^ d ^ e
        for x, y in ((a, b), (b, d), (d, e), (e, a)):
            mixed.append(x ^ every ^ _double(x ^ y))
    return _xor(bytes(mixed), key)


def _update(lane: Lane, message: Block) -> Lane:
    s0, s1, s2, s3, s4, s5 = lane
    return [
        _round(s5, _xor(s0, message)),
        _round(s0, s1),
        _round(s1, s2),
        _round(s2, s3),
        _round(s3, s4),
        _round(s4, s5),
    ]


def _begin(key: bytes, nonce: bytes, index: int) -> Lane:
    k0, k1 = key[:16], key[16:]
    n0, n1 = _xor(k0, nonce[:16]), _xor(k1, nonce[16:])
    lane = [n0, n1, _C1, _C0, _xor(k0, _C0), _xor(k1, _C1)]
    context = bytes([index, LANES - 1]) + bytes(14)
    for message in (k0, k1, n0, n1) * 4:
        lane[3], lane[5] = _xor(lane[3], context), _xor(lane[5], context)
        lane = _update(lane, message)
    return lane


def _padded(data: bytes) -> list[tuple[Block, ...]]:
    """Pieces of 32 bytes, a block for each lane, the last filled up with zeros."""
    rate = 16 * LANES
    data += bytes(-len(data) % rate)
    return [(data[at : at + 16], data[at + 16 : at + rate]) for at in range(0, len(data), rate)]


def seal(key: bytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """Ciphertext and a tag of 16 bytes. Key and nonce have 32."""
    lanes = [_begin(key, nonce, index) for index in range(LANES)]
    for piece in _padded(associated):
        lanes = [_update(lane, block) for lane, block in zip(lanes, piece, strict=True)]
    ciphertext = b""
    for piece in _padded(plaintext):
        for index, block in enumerate(piece):
            _, s1, s2, s3, s4, s5 = lanes[index]
            ciphertext += _xor(block, s1, s4, s5, _and(s2, s3))
            lanes[index] = _update(lanes[index], block)
    lengths = b"".join((8 * len(part)).to_bytes(8, "little") for part in (associated, plaintext))
    tag = bytes(16)
    for lane in lanes:
        message, last = _xor(lane[3], lengths), lane
        for _ in range(7):
            last = _update(last, message)
        tag = _xor(tag, *last)
    return ciphertext[: len(plaintext)] + tag
