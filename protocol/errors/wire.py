"""What happens between two processes: 3xxx."""

from __future__ import annotations

from protocol.errors.fault import Exit, Kind

UNREACHABLE = Kind(
    "RPL-3001",
    "unreachable",
    "the receiver at {address} cannot be reached: {detail}",
    "Check the address, the network, and that the receiver runs; it is tried again by itself.",
)
PROTOCOL = Kind(
    "RPL-3002",
    "protocol",
    "the peer broke the protocol: {detail}",
    "Check that both sides run compatible versions; if they do, someone may be interfering.",
)
VERSION = Kind(
    "RPL-3003",
    "version",
    "no common version: the receiver speaks {receiver}, the source {source}; {older} is older",
    "Upgrade the software of {older}, then it connects by itself.",
    Exit.REFUSED,
)
TOO_LONG = Kind(
    "RPL-3004",
    "too_long",
    "the peer announced {size} bytes where at most {limit} are allowed ({what})",
    "Check that it is one of our daemons that talks to this port.",
)
SILENT = Kind(
    "RPL-3005",
    "silent",
    "the peer said nothing for {seconds:g} s",
    "Check the network between the two; the connection is made again by itself.",
)
TAMPERED = Kind(
    "RPL-3006",
    "tampered",
    "a frame does not open with this connection's key: changed, replayed, reordered or not ours",
    "The connection is made again by itself; if this repeats, someone is changing traffic.",
)
CORRUPT = Kind(
    "RPL-3007",
    "corrupt",
    "the content of a frame does not have the digest that was sent with it",
    "Memory of one of the two machines may be failing: test it. The extent is sent again.",
)
SESSION_FENCED = Kind(
    "RPL-3008",
    "session_fenced",
    "the session was replaced by a newer one",
    "Nothing to do; if it repeats, two daemons are running with the same identity.",
)
CONNECTION_LOST = Kind(
    "RPL-3009",
    "connection_lost",
    "the connection to {peer} was lost: {detail}",
    "It is made again by itself; what was in flight is sent again.",
)
TOO_MANY = Kind(
    "RPL-3010",
    "too_many",
    "too many connections: {what}",
    "Wait, or look for what is connecting so often.",
)
HELLO_REFUSED = Kind(
    "RPL-3011",
    "hello_refused",
    "a data connection was refused: {detail}",
    "The source makes new ones with a new session; if this repeats, look for who connects.",
)
NO_CIPHER = Kind(
    "RPL-3012",
    "no_cipher",
    "no common cipher: the receiver takes {receiver}, the source {source}",
    "Let 'cipher' in [tuning] be \"auto\" on both sides, or the same; restart the daemon that was "
    "changed, then 'receiver job retry'.",
    Exit.REFUSED,
)
