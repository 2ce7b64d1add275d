"""Who is who, and enrolment: 2xxx."""

from __future__ import annotations

from protocol.errors.fault import Exit, Kind

ACTIVATION_MALFORMED = Kind(
    "RPL-2001",
    "activation_malformed",
    "the activation code is not well formed: {problem}",
    "Copy the whole code as 'receiver activation create' printed it.",
    Exit.USAGE,
)
ACTIVATION_UNKNOWN = Kind(
    "RPL-2002",
    "activation_unknown",
    "the receiver does not know this activation code",
    "Create a new one with 'receiver activation create' on the receiver.",
    Exit.REFUSED,
)
ACTIVATION_EXPIRED = Kind(
    "RPL-2003",
    "activation_expired",
    "the activation code expired at {expired}",
    "Create a new one with 'receiver activation create' on the receiver.",
    Exit.REFUSED,
)
ACTIVATION_USED_UP = Kind(
    "RPL-2004",
    "activation_used_up",
    "the activation code has been used {uses} of {uses} times",
    "Create a new one with 'receiver activation create' on the receiver.",
    Exit.REFUSED,
)
CA_MISMATCH = Kind(
    "RPL-2005",
    "ca_mismatch",
    "{address} is not the receiver that made this activation code: its authority differs",
    "Check the address; if it is right, someone is in between: do not enrol.",
    Exit.REFUSED,
)
CERTIFICATE_REFUSED = Kind(
    "RPL-2006",
    "certificate_refused",
    "the certificate was refused: {detail}",
    "Enrol the source again with a new activation code.",
    Exit.REFUSED,
)
SOURCE_FORGOTTEN = Kind(
    "RPL-2007",
    "source_forgotten",
    "the receiver has forgotten this source ({name})",
    "Enrol it again with a new activation code if it should replicate.",
    Exit.REFUSED,
)
NOT_ENROLLED = Kind(
    "RPL-2008",
    "not_enrolled",
    "this source is not enrolled with a receiver",
    "Run 'replicad enroll CODE --receiver HOST'.",
    Exit.FAILED,
)
SOURCE_NAME_TAKEN = Kind(
    "RPL-2009",
    "source_name_taken",
    "a source named {name} is already enrolled",
    "Give this one another name in its configuration, or 'receiver source forget {name}' first.",
    Exit.REFUSED,
)
ALREADY_ENROLLED = Kind(
    "RPL-2010",
    "already_enrolled",
    "this source is already enrolled with {receiver}",
    "Use 'replicad enroll --replace' if it should leave that receiver.",
    Exit.REFUSED,
)
AUTHORITY_UNUSABLE = Kind(
    "RPL-2011",
    "authority_unusable",
    "the receiver's certificate authority in {path} cannot be used: {problem}",
    "Put the right files back. A new authority means that every source must enrol again.",
)
