"""The receiver's own certificate authority: who may talk to it, and how a source knows it.

The idea: the authority *is* its key. The activation code carries the key's fingerprint, so a
certificate that is lost or expired can be made again from the key, and the files can be
written one by one: key first, then certificate, then the server's certificate. A crash in
between is repaired by the next start; only a missing or foreign key is refused, because a
new authority would silently lock out every source.

Files in ``<storage>/authority/`` (an administrator may put the first two there beforehand):

=====================  ====  =================================================================
``authority-key.pem``  0600  private key, ECDSA P-256 by default, RSA from 2048 bits accepted
``authority.pem``      0644  its certificate
``server.pem``         0600  key and certificate of the TLS server, renewed by itself
=====================  ====  =================================================================

There is no revocation list: the catalog knows every source's certificate by fingerprint and
is asked at each connection, so forgetting a source works at once.
"""

from __future__ import annotations

import datetime as dt
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protocol.errors import AUTHORITY_UNUSABLE, CERTIFICATE_REFUSED, LocalFault
from protocol.identity import (
    CERTIFICATE_PEM_BYTES_MAX,
    RECEIVER_NAME,
    UNREADABLE,
    acceptable_key,
    authority_fingerprint,
    certificate_fingerprint,
    is_source_name,
    replace_file,
    signature_hash,
)
from protocol.local import crash

if TYPE_CHECKING:
    from pathlib import Path

AUTHORITY_DAYS = 7300
"""20 years: longer than any copy job; the key, not the date, is what sources trust."""

SOURCE_DAYS = 3650
"""10 years: a source's right ends by being forgotten, not by a date in the middle of a job."""

SERVER_DAYS = 397
"""13 months, the longest that TLS clients commonly accept of a server."""

SERVER_RENEW_DAYS = 30
"""The server's certificate is made anew when less than this is left of it."""

BACKDATE = dt.timedelta(days=1)
"""Certificates are valid from a day ago, for sources whose clock is behind."""

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class SourceCertificate:
    """A certificate made for a source. ``fingerprint`` is what the catalog knows it by."""

    pem: str
    fingerprint: str
    serial: str


class Authority:
    """An opened authority. Create with :meth:`open`; every instant is passed in as ``now``."""

    def __init__(self, directory: Path, key: PrivateKey, certificate: x509.Certificate) -> None:
        self._directory = directory
        self._key = key
        self._certificate = certificate

    @classmethod
    def open(cls, storage: Path, now: dt.datetime) -> Authority:
        """The authority under ``storage``, made at the first start.

        Raises:
            LocalFault: AUTHORITY_UNUSABLE: half of it is missing, or its parts do not fit.
        """
        directory = storage / "authority"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = _load_or_make_key(directory)
        certificate = _load_or_make_certificate(directory, key, now)
        authority = cls(directory, key, certificate)
        authority.renew_server(now)
        return authority

    @property
    def pem(self) -> str:
        """The authority's certificate: public, the answer to an ``AuthorityRequest``."""
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def fingerprint(self) -> bytes:
        """The 20 bytes that go into activation codes."""
        return authority_fingerprint(self._certificate)

    def sign_source(self, request_pem: str, name: str, now: dt.datetime) -> SourceCertificate:
        """Certify a source's key as ``name``. The request's own subject counts for nothing.

        Raises:
            PeerFault: CERTIFICATE_REFUSED: bad request, signature, key or name.
        """
        if not is_source_name(name):
            raise CERTIFICATE_REFUSED.peer(detail="the name is not 1-63 of A-Z a-z 0-9 . _ -")
        if len(request_pem) > CERTIFICATE_PEM_BYTES_MAX:
            raise CERTIFICATE_REFUSED.peer(detail="the request is too long")
        try:
            request = x509.load_pem_x509_csr(request_pem.encode())
            key = acceptable_key(request.public_key())
            proven = request.is_signature_valid
        except UNREADABLE as error:
            raise CERTIFICATE_REFUSED.peer(detail=str(error)) from error
        if not proven:
            raise CERTIFICATE_REFUSED.peer(detail="the request is not signed with its own key")
        builder = self._leaf(name, key, now, SOURCE_DAYS, ExtendedKeyUsageOID.CLIENT_AUTH)
        certificate = builder.sign(self._key, signature_hash(self._key))
        return SourceCertificate(
            pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
            fingerprint=certificate_fingerprint(
                certificate.public_bytes(serialization.Encoding.DER)
            ),
            serial=f"{certificate.serial_number:x}",
        )

    def server_context(self) -> ssl.SSLContext:
        """TLS 1.3 for the control port. A peer may come without a certificate: to enrol only.

        A certificate that is presented must be ours and made for clients, else the handshake
        fails; whether its source has been forgotten is for the catalog to say.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=self.pem)
        # A resumed session would skip the certificate, and long connections gain nothing by it.
        context.num_tickets = 0
        self.load_server_certificate(context)
        return context

    def load_server_certificate(self, context: ssl.SSLContext) -> None:
        """Give ``context`` the present server certificate; connections made later use it."""
        context.load_cert_chain(self._directory / "server.pem")

    def renew_server(self, now: dt.datetime) -> bool:
        """Make the server's certificate anew if it is missing, foreign or near its end.

        Returns:
            Whether a new one was made (then call :meth:`load_server_certificate`).
        """
        path = self._directory / "server.pem"
        if path.exists() and self._server_is_good(path.read_bytes(), now):
            return False
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key()
        builder = self._leaf(
            RECEIVER_NAME, public, now, SERVER_DAYS, ExtendedKeyUsageOID.SERVER_AUTH
        ).add_extension(x509.SubjectAlternativeName([x509.DNSName(RECEIVER_NAME)]), critical=False)
        certificate = builder.sign(self._key, signature_hash(self._key))
        replace_file(path, _key_pem(key) + certificate.public_bytes(serialization.Encoding.PEM))
        return True

    def _server_is_good(self, pem: bytes, now: dt.datetime) -> bool:
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            certificate.verify_directly_issued_by(self._certificate)
            key = serialization.load_pem_private_key(pem, None)
        except (ValueError, TypeError, InvalidSignature):
            return False
        left = certificate.not_valid_after_utc - now
        ours_ends = self._certificate.not_valid_after_utc
        near_end = left < dt.timedelta(days=SERVER_RENEW_DAYS)
        can_be_longer = certificate.not_valid_after_utc < ours_ends
        return key.public_key() == certificate.public_key() and not (near_end and can_be_longer)

    def _leaf(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
        now: dt.datetime,
        days: int,
        purpose: x509.ObjectIdentifier,
    ) -> x509.CertificateBuilder:
        """An RFC 5280 end-entity certificate for one purpose, not outliving the authority."""
        ours = self._certificate
        until = min(now + dt.timedelta(days=days), ours.not_valid_after_utc)
        if until <= now:
            raise AUTHORITY_UNUSABLE.fault(path=self._directory, problem="it has expired")
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(ours.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(now - BACKDATE, ours.not_valid_before_utc))
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(_authority_key_identifier(ours), critical=False)
        )


def _load_or_make_key(directory: Path) -> PrivateKey:
    path = directory / "authority-key.pem"
    if path.exists():
        return _load_key(path)
    if (directory / "authority.pem").exists():
        raise AUTHORITY_UNUSABLE.fault(path=directory, problem="authority-key.pem is missing")
    key = ec.generate_private_key(ec.SECP256R1())
    replace_file(path, _key_pem(key), 0o600)
    crash.here("authority.half_made")
    return key


def _load_key(path: Path) -> PrivateKey:
    if path.stat().st_mode & 0o077:
        raise _unusable(path, "others than its owner may read it (chmod 600)")
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        acceptable_key(key.public_key())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable(path, str(error)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise _unusable(path, f"keys of type {type(key).__name__} are not accepted")
    return key


def _load_or_make_certificate(
    directory: Path, key: PrivateKey, now: dt.datetime
) -> x509.Certificate:
    path = directory / "authority.pem"
    if not path.exists():
        certificate = _self_signed(key, now)
        replace_file(path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
        return certificate
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        if certificate.public_key() != key.public_key():
            raise _unusable(path, "it does not belong to authority-key.pem")
        if not _issued_by_another(certificate):
            # Any bit of it may have changed, and most are parsed only when they are needed.
            certificate.verify_directly_issued_by(certificate)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        _authority_key_identifier(certificate)
    except InvalidSignature as error:
        raise _unusable(path, "it is damaged: its signature is wrong") from error
    except x509.ExtensionNotFound as error:
        raise _unusable(path, "it is not the certificate of an authority") from error
    except UNREADABLE as error:
        raise _unusable(path, str(error)) from error
    if not constraints.value.ca:
        raise _unusable(path, "it is not the certificate of an authority")
    if certificate.not_valid_after_utc <= now:
        raise _unusable(path, f"it expired at {certificate.not_valid_after_utc:%Y-%m-%d}")
    return certificate


def _issued_by_another(certificate: x509.Certificate) -> bool:
    """Whether it names another key than its own as the one that signed it."""
    try:
        issuer = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
        own = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return False
    return issuer.value.key_identifier != own.value.digest


def _self_signed(key: PrivateKey, now: dt.datetime) -> x509.Certificate:
    name = _name("replicad receiver authority")
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + dt.timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, signature_hash(key))
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key_identifier(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        own = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        key = acceptable_key(authority.public_key())
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)


def _key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _unusable(path: Path, problem: str) -> LocalFault:
    return AUTHORITY_UNUSABLE.fault(path=path.parent, problem=f"{path.name}: {problem}")
