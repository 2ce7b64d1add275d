"""Every limit of the wire protocol, in one place, with its unit and its reason.

Both sides enforce all of them on what they receive: a length is compared with its limit
before anything is allocated for it, and an amount before any work is done for it. A limit
that docs/protocol.md states is part of the protocol; changing it is a new protocol version.
"""

from __future__ import annotations

from typing import Final

# --- versions --------------------------------------------------------------------------------

VERSIONS: Final = (1,)
"""Protocol versions that this software speaks, best first."""

CAPABILITIES: Final = frozenset({"zstd", "digests", "hold", "verify"})
"""What this software can do beyond the bare protocol: compressed payloads, compare passes,
checkpoints that are held, verification. Both sides use what both name."""

AES_256_GCM: Final = "aes-256-gcm"
AEGIS_256X2: Final = "aegis-256x2"
CIPHERS: Final = (AES_256_GCM, AEGIS_256X2)
"""The ciphers of data frames by their names on the wire; see :mod:`protocol.wire.ciphers`."""

CIPHERS_OFFERED_MAX: Final = 16
"""ciphers in one OpenSession, each at most :data:`NAME_MAX` characters."""

VERSIONS_OFFERED_MAX: Final = 32
"""versions in one Hello: a peer that lists more is not listing what it speaks."""

CAPABILITIES_OFFERED_MAX: Final = 64
"""capabilities in one Hello or Welcome, each at most :data:`NAME_MAX` characters."""

NAME_MAX: Final = 64
"""characters of a source's name, because it becomes a common name (X.520 ub-common-name), and
of a capability or boot id."""

TEXT_MAX: Final = 2048
"""characters of a refusal that are kept and shown: one sentence, not a page."""

DISKS_OFFERED_MAX: Final = 1024
"""disks in one inventory: more than any server has, less than what would fill a catalog."""

FREEZE_BUDGET_MAX: Final = 600.0
"""seconds that an order may let filesystems stay frozen; the watchdog refuses more as well."""

RANGES_MAX: Final = 256
"""ranges that a verification names: a person reads a dozen, a message holds them all, and a
disk that differs in more places than that has one trouble, not many."""

# --- control connection ----------------------------------------------------------------------

CONTROL_MESSAGE_MAX: Final = 1 << 20
"""bytes of one control message: an inventory of a thousand disks with their mounts fits."""

CONTROL_GREETING_MAX: Final = 16 << 10
"""bytes of one control message before the peer is known and agreed with: a certificate
request with an RSA-4096 key is under 2 KiB, so this is generous and still cheap."""

ASKED_MAX: Final = 64
"""requests (Enrol, OpenSession, Commit, Ask) without an answer on one control connection."""

CONTROL_RATE: Final = 1 << 20
CONTROL_BURST: Final = 4 << 20
"""bytes of one control connection that are read in a second, and at once. A report of 256 disks
is 90 KiB and comes about once a second; decoding 1 MiB of JSON costs the loop some 20 ms."""

MESSAGES_RATE: Final = 100.0
MESSAGES_BURST: Final = 400.0
"""messages of one control connection that are carried out in a second, and at once. A busy source
says ten in a second; some of them make the receiver write to its catalog."""

HANDSHAKE_TIMEOUT: Final = 15.0
"""seconds from accepting a connection to its end of greeting, enrolment included. Covers TLS
over a slow satellite link with one retransmission; a silent peer holds a slot no longer."""

HEARTBEAT: Final = 10.0
"""seconds between heartbeats unless the Welcome says otherwise. Middleboxes forget an idle
TCP connection after 60 s or more."""

HEARTBEAT_MIN: Final = 0.05
HEARTBEAT_MAX: Final = 60.0
"""seconds; a Welcome with an interval outside is refused. The lower bound serves tests."""

SILENCE_BEATS: Final = 3.0
"""heartbeat intervals without a byte from the peer after which it counts as gone."""

# --- data connections ------------------------------------------------------------------------

SECTOR: Final = 512
"""bytes: the unit of offsets and lengths on the wire, as everywhere in the Linux block layer."""

DISK_MAX: Final = 1 << 60
"""bytes of one disk. A signed 64-bit file offset with room to add lengths without overflow."""

UNREADABLE_MAX: Final = 16
"""ranges of one disk that a report names; their bytes are always told in full."""

PAYLOAD_MAX: Final = 1 << 20
"""bytes of one frame's payload, before and after compression: one extent batch. Larger ones
gain nothing measurable and make every pooled buffer larger."""

META_MAX: Final = 16 << 10
"""bytes of one frame's meta: :data:`SEGMENTS_MAX` segments need 3.1 KiB; the rest is room."""

META_LENGTH: Final = 2
"""bytes of the length of the meta, which end every plaintext."""

SEGMENTS_MAX: Final = 256
"""segments of one DATA frame, ranges of one DIGESTS frame: 1 MiB of single 4 KiB granules."""

SEGMENT_SECTORS_MAX: Final = (1 << 31) - 1
"""sectors of one segment or range (1 TiB): the top bit of the 32-bit field says 'zero'."""

DIGEST_SIZE: Final = 16
"""bytes of an xxh3-128 digest."""

BLOCK: Final = 64 << 10
"""bytes that one digest of a DIGESTS frame is of: an equal disk costs 1/4,096 of it."""

FINE_BLOCK: Final = 4 << 10
"""bytes that one digest of a DIFF frame is of: what differs is found to the granule."""

ANSWER_BYTES: Final = DIGEST_SIZE + BLOCK // FINE_BLOCK * DIGEST_SIZE
"""bytes that a block's digest and the longest answer to it are: what a source may have to keep."""

DIGESTS_MAX: Final = 256
"""digests of one DIGESTS frame: 16 MiB of disk, the most that one frame can make the receiver
read; if all of it differs the answer has 64 KiB."""

TAG: Final = 16
"""bytes that either cipher adds."""

LENGTH: Final = 4
"""bytes of the length in front of every frame and every control message."""

PLAINTEXT_MAX: Final = PAYLOAD_MAX + META_MAX + META_LENGTH
"""bytes of one opened frame."""

FRAME_MAX: Final = PLAINTEXT_MAX + TAG
"""bytes of one sealed frame without its length."""

FRAME_MIN: Final = 1 + META_LENGTH + TAG
"""bytes of the shortest sealed frame (one byte of meta) without its length."""

REPLY_FRAME_MAX: Final = 68 << 10
"""bytes of one sealed frame from receiver to source: the largest is a DIFF of which all
:data:`DIGESTS_MAX` blocks differ (64 KiB and 32 bytes of bits)."""

BUFFER: Final = -(-(FRAME_MAX + LENGTH) // 4096) * 4096
"""bytes of a pooled buffer that holds any plaintext, any sealed frame with its length in
front, and any sealed frame with the next one's length behind. Whole pages."""

CONNECTIONS_MAX: Final = 64
"""data connections of one session at one time. Two saturate 10 Gbit/s; a long fat pipe with
small windows may want more."""

CONNECTION_INDEXES_MAX: Final = 1 << 20
"""data connections of one session over its whole life. Every one has its own keys, and the
used ones are remembered; a session that reconnected so often is replaced by a new one."""

PINGS_RATE: Final = 50.0
PINGS_BURST: Final = 50.0
"""pings of one data connection that are answered in a second, and at once. A ping is the one
frame that makes the loop work and costs its sender nothing; one a second would do."""

WINDOW_FRAMES_MAX: Final = 4096
"""frames of one connection that wait for their ack: bounds the bookkeeping when frames are
small. The bytes are bounded by SessionOpened.window_bytes."""

# --- keys ------------------------------------------------------------------------------------

SECRET: Final = 32
"""bytes of a session's secret, the size of the strongest key that is derived from it."""

REKEY_FRAMES: Final = 1 << 18
"""frames sealed with one key, after which both sides derive the next by themselves. 2^18 frames
of at most 1 MiB are 2^34 blocks; the bound of RFC 8446 section 5.5 and
draft-irtf-cfrg-aead-limits (advantage 2^-60) for AES-GCM is 2^34.5 blocks. AEGIS needs no bound
that can be reached (draft-irtf-cfrg-aegis-aead) and has the same one."""

FRAMES_MAX: Final = 1 << 48
"""frames of one connection and direction. Not reachable (4,000 years at 2 GB/s with full
frames); it exists so that the counter's end is defined and tested."""
