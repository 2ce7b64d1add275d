"""The limits hold together: what one allows, the others have room for."""

from __future__ import annotations

import math

from protocol.wire import limits


def test_a_full_frame_fits_its_parts() -> None:
    data_head, segment = 26, 12
    assert data_head + limits.SEGMENTS_MAX * segment <= limits.META_MAX
    assert limits.META_MAX < 1 << 16  # its length is 16 bits
    assert limits.DIGESTS_MAX * limits.DIGEST_SIZE <= limits.PAYLOAD_MAX
    assert limits.BUFFER >= limits.FRAME_MAX + limits.LENGTH
    assert limits.BUFFER % 4096 == 0


def test_a_full_diff_fits_a_reply() -> None:
    finer = limits.BLOCK // limits.FINE_BLOCK * limits.DIGEST_SIZE
    diff = limits.DIGESTS_MAX * finer + limits.DIGESTS_MAX // 8 + 13 + 2
    assert diff + limits.TAG <= limits.REPLY_FRAME_MAX


def test_a_disk_fits_a_file_offset_and_a_segment_a_gibibyte_of_zeros() -> None:
    assert limits.DISK_MAX + limits.SEGMENT_SECTORS_MAX * limits.SECTOR < 1 << 63
    assert limits.SEGMENT_SECTORS_MAX * limits.SECTOR > 1 << 30


def test_a_key_seals_less_than_the_bound_of_gcm() -> None:
    """RFC 8446 5.5 aims at an advantage of 2^-60: sigma <= 2^-30 * 2^64.5 blocks under one key."""
    blocks = limits.REKEY_FRAMES * math.ceil(limits.PLAINTEXT_MAX / 16)
    assert math.log2(blocks) < 34.5
    assert limits.REKEY_FRAMES < 1 << 32
    assert limits.FRAMES_MAX // limits.REKEY_FRAMES < 1 << 32  # the step is 32 bits


def test_a_stranger_may_say_less_than_a_friend() -> None:
    assert limits.CONTROL_GREETING_MAX < limits.CONTROL_MESSAGE_MAX
