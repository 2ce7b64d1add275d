"""Activation codes: how a source that nobody knows becomes one that has a certificate.

The idea: a code is a one-time secret of 128 random bits. The receiver keeps only its SHA-256,
so a stolen catalog enrols nobody (no slow hash is needed: there is no guessing 128 bits). The
first four bytes of the hash are the code's public label, used to find it and to list and
revoke it; the whole hash is then compared in constant time.

Redeeming, naming and certifying are one transaction: an enrolment that fails for another
reason (a name that is taken, a bad request) does not burn a use.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING

from protocol.activation import SECRET_SIZE, ActivationCode
from protocol.errors import (
    ACTIVATION_EXPIRED,
    ACTIVATION_UNKNOWN,
    ACTIVATION_USED_UP,
    USAGE,
)
from protocol.local import crash
from protocol.units import format_instant, instant_of

if TYPE_CHECKING:
    from receiver.authority import Authority, SourceCertificate
    from receiver.catalog import ActivationRow, Catalog

LABEL_BYTES = 4
"""Enough to tell codes apart; it reveals 32 bits of a hash, nothing of the secret."""

USES_MAX = 10_000
"""Sources that one code may enrol; a bound on what a leaked code costs."""

VALID_SECONDS_MAX = 365 * 24 * 3600.0
"""A code that is older than a year has been forgotten somewhere."""


def create(
    catalog: Catalog, authority: bytes, *, uses: int, valid: float, now: float
) -> tuple[ActivationCode, ActivationRow]:
    """Make a code. This is the only time that it can be shown.

    Args:
        catalog: where its hash is kept.
        authority: the authority's fingerprint, 20 bytes.
        uses: how many sources may enrol with it.
        valid: seconds until it expires.
        now: Unix seconds.

    Raises:
        LocalFault: USAGE for values out of bounds.
    """
    if not 1 <= uses <= USES_MAX:
        raise USAGE.fault(problem=f"uses: from 1 to {USES_MAX}")
    if not 1 <= valid <= VALID_SECONDS_MAX:
        raise USAGE.fault(problem="valid: from 1 second to 365 days")
    while True:
        secret = secrets.token_bytes(SECRET_SIZE)
        digest = hashlib.sha256(secret).digest()
        if catalog.activations.add(
            _label(digest), digest, uses=uses, created=now, expires=now + valid
        ):
            break
    found = catalog.activations.find(_label(digest))
    if found is None:
        raise AssertionError("a code that was just kept is not there")
    return ActivationCode(secret=secret, authority=authority), found[0]


def redeem(catalog: Catalog, secret: bytes, now: float) -> ActivationRow:
    """Use a code once. Call within the transaction that makes the use worth it.

    Raises:
        PeerFault: ACTIVATION_UNKNOWN, ACTIVATION_EXPIRED or ACTIVATION_USED_UP. Only who
            has the secret learns that a code expired or is used up.
    """
    digest = hashlib.sha256(secret).digest()
    found = catalog.activations.find(_label(digest))
    if found is None or not hmac.compare_digest(found[1], digest):
        raise ACTIVATION_UNKNOWN.peer()
    code = found[0]
    if now >= code.expires:
        raise ACTIVATION_EXPIRED.peer(expired=format_instant(instant_of(code.expires)))
    if not catalog.activations.count_use(code.label):
        raise ACTIVATION_USED_UP.peer(uses=code.uses)
    return code


def enrol(
    catalog: Catalog,
    authority: Authority,
    *,
    secret: bytes,
    name: str,
    request_pem: str,
    now: float,
    presented: str = "",
) -> SourceCertificate:
    """Everything that an ``Enrol`` message asks for, all or nothing.

    Args:
        catalog: the receiver's catalog.
        authority: signs the certificate.
        secret: the activation code's.
        name: what the source wants to be called.
        request_pem: its certificate signing request.
        now: Unix seconds.
        presented: fingerprint of the certificate with which the peer connected, if it asks to
            replace its own; empty otherwise.

    Raises:
        Fault: of :func:`redeem`, of ``Authority.sign_source``, or SOURCE_NAME_TAKEN.
    """
    with catalog.transaction():
        redeem(catalog, secret, now)
        certificate = authority.sign_source(
            request_pem, name, dt.datetime.fromtimestamp(now, dt.UTC)
        )
        crash.here("source.certified")
        catalog.sources.enrol(
            name,
            fingerprint=certificate.fingerprint,
            serial=certificate.serial,
            now=now,
            replaces=presented,
        )
    return certificate


def revoke(catalog: Catalog, label: str) -> None:
    """Make a code worthless at once.

    Raises:
        LocalFault: ACTIVATION_UNKNOWN.
    """
    if not catalog.activations.remove(label):
        raise ACTIVATION_UNKNOWN.fault()


def _label(digest: bytes) -> str:
    return digest[:LABEL_BYTES].hex()
