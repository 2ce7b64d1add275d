"""Who a source is: its key, its certificate and the authority that it trusts.

The idea: a source trusts exactly one certificate authority, the receiver's own, and knows it
by the fingerprint in the activation code (:func:`authority_fingerprint`). Host names prove
nothing in a machine room that is being moved, so the receiver's certificate always carries
one fixed internal name and the address is only where to dial.

The first contact authenticates in both directions without any other trust:

1. connect with :func:`fetching_context`, which verifies nothing, and ask for the authority's
   certificate. Nothing else is said on that connection: it may end at an impostor.
2. :func:`check_authority` compares the certificate's key with the activation code.
3. connect again with :func:`pinned_context`, for which that certificate is the only trust
   anchor, and only there send the activation code's secret and the certificate request.

What enrolment yields is kept as *one* file, replaced by one rename, so that a crash leaves
either the old identity or the new one and never a key with another's certificate.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import ssl
from pathlib import Path
from typing import BinaryIO

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from protocol.activation import AUTHORITY_SIZE
from protocol.errors import CA_MISMATCH, CERTIFICATE_REFUSED, NOT_ENROLLED
from protocol.local import crash
from protocol.local.values import parse_address

RECEIVER_NAME = "receiver.replicad.internal"
"""The subject alternative name of every receiver; ``server_hostname`` of every connection."""

RSA_BITS_MIN = 2048
"""Smallest RSA key accepted (NIST SP 800-57: 112 bits of security)."""

CERTIFICATE_PEM_BYTES_MAX = 16 << 10
"""A PEM certificate is 1-3 KiB; more is not read from a peer whom nobody vouches for."""

UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.InvalidVersion)
"""All that cryptography raises for a certificate or request of somebody who means no good."""

_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_FILE = "identity.json"

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


def is_source_name(name: str) -> bool:
    """Whether ``name`` can name a source: 1-63 letters, digits and inner ``.``, ``_``, ``-``.

    It becomes a common name (at most 64 characters, X.520) and part of paths.
    """
    return _NAME.fullmatch(name) is not None and ".." not in name


def authority_fingerprint(certificate: x509.Certificate) -> bytes:
    """20 bytes: the start of SHA-256 over the DER SubjectPublicKeyInfo, as RFC 7469 pins do.

    It names the key rather than the certificate, so a renewed authority keeps its fingerprint.
    """
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).digest()[:AUTHORITY_SIZE]


def certificate_fingerprint(der: bytes) -> str:
    """What the receiver's catalog knows a source's certificate by: SHA-256 of its DER, hex."""
    return hashlib.sha256(der).hexdigest()


def acceptable_key(key: object) -> PublicKey:
    """``key`` if its type and size are ones we rely on.

    Raises:
        ValueError: with the reason, for any other key.
    """
    if isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, _CURVES):
            raise ValueError(f"curve {key.curve.name} is not accepted")  # noqa: TRY004
        return key
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < RSA_BITS_MIN:
            raise ValueError(f"an RSA key of {key.key_size} bits is shorter than {RSA_BITS_MIN}")
        return key
    raise ValueError(f"keys of type {type(key).__name__} are not accepted")


def signature_hash(key: object) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512:
    """The hash that suits a signing key: as strong as its curve."""
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size > 256:
        return hashes.SHA384() if key.curve.key_size == 384 else hashes.SHA512()
    return hashes.SHA256()


def replace_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Put ``content`` at ``path`` whole or not at all, durably (temp, fsync, rename, fsync).

    The file never exists with a wider mode than ``mode``. The temporary one always has the same
    name, so that what a kill leaves, which may be half a private key, is used up by the next.
    """
    temporary = path.with_name(f".{path.name}.new")
    with _open_alone(temporary) as file:
        try:
            os.fchmod(file.fileno(), mode)
            file.truncate()
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            crash.here("file.unnamed")
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    sync_directory(path.parent)


def _open_alone(path: Path) -> BinaryIO:
    """The file, new or left over, which nobody else writes until it is closed."""
    while True:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.fdopen(os.open(path, flags, 0o600), "wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
        file.close()  # whom we waited for has given it its name


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable (fsync(2): a file's own fsync does not)."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


# --- the source's key and request -------------------------------------------------------------


class KeyRequest(msgspec.Struct, frozen=True):
    """A fresh private key and the request to certify it. The key never leaves the machine."""

    name: str
    key_pem: str
    request_pem: str

    def __repr__(self) -> str:
        return f"KeyRequest(name={self.name!r})"


def make_request(name: str) -> KeyRequest:
    """A fresh P-256 key and a certificate signing request (RFC 2986) for ``name``."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .sign(key, hashes.SHA256())
    )
    return KeyRequest(
        name=name,
        key_pem=_private_pem(key),
        request_pem=request.public_bytes(serialization.Encoding.PEM).decode(),
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


# --- what enrolment yields --------------------------------------------------------------------


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """An enrolled source: everything it needs to dial its receiver and be believed.

    ``address`` is ``HOST:PORT`` of the receiver's control port, ``receiver`` what it calls itself.
    """

    name: str
    address: str
    receiver: str
    key_pem: str
    certificate_pem: str
    authority_pem: str

    def __repr__(self) -> str:
        return f"Identity(name={self.name!r}, address={self.address!r})"

    def store(self, directory: Path) -> None:
        """Keep it under ``directory``, mode 0600, replacing an older one in one step."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(directory / _FILE, msgspec.json.encode(self), 0o600)

    def client_context(self) -> ssl.SSLContext:
        """TLS 1.3 as this source: its own certificate, its receiver's authority, nothing else.

        Connect with ``server_hostname=RECEIVER_NAME``.
        """
        context = _anchored(self.authority_pem)
        _load_chain(context, self.key_pem + self.certificate_pem)
        return context


def load_identity(directory: Path) -> Identity:
    """The identity that :meth:`Identity.store` kept.

    Raises:
        LocalFault: NOT_ENROLLED when there is none, CERTIFICATE_REFUSED when it is damaged.
    """
    path = directory / _FILE
    try:
        identity = msgspec.json.decode(path.read_bytes(), type=Identity)
        # Made once here to see that it can be: key, certificate and authority are one part each
        # of a file that may have been damaged anywhere.
        identity.client_context()
        parse_address(identity.address)
    except FileNotFoundError:
        raise NOT_ENROLLED.fault() from None
    except ssl.SSLError as error:
        detail = f"{path} is damaged ({error.reason or error})"
        raise CERTIFICATE_REFUSED.fault(detail=detail) from error
    except (ValueError, TypeError) as error:  # not JSON, no identity, no address; no ASCII in PEM
        raise CERTIFICATE_REFUSED.fault(detail=f"{path} is damaged ({error})") from error
    return identity


def issued(
    request: KeyRequest, certificate_pem: str, authority_pem: str, *, address: str, receiver: str
) -> Identity:
    """The identity made of our request and the receiver's answer, if they belong together.

    Raises:
        PeerFault: CERTIFICATE_REFUSED: another key, another name or another signer.
    """
    if not (certificate_pem + authority_pem).isascii():
        raise CERTIFICATE_REFUSED.peer(detail="it is not PEM")
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
        authority = x509.load_pem_x509_certificate(authority_pem.encode())
        certificate.verify_directly_issued_by(authority)
        key, name = certificate.public_key(), common_name(certificate)
    except UNREADABLE as error:
        raise CERTIFICATE_REFUSED.peer(detail=f"its signature is not right ({error})") from error
    if key != x509.load_pem_x509_csr(request.request_pem.encode()).public_key():
        raise CERTIFICATE_REFUSED.peer(detail="it was made for another key")
    if name != request.name:
        raise CERTIFICATE_REFUSED.peer(detail=f"it was made for {name!r}")
    return Identity(
        name=request.name,
        address=address,
        receiver=receiver,
        key_pem=request.key_pem,
        certificate_pem=certificate_pem,
        authority_pem=authority_pem,
    )


def common_name(certificate: x509.Certificate) -> str:
    """The one common name of a certificate's subject; empty when it has not exactly one."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


# --- TLS --------------------------------------------------------------------------------------


def fetching_context() -> ssl.SSLContext:
    """TLS 1.3 that verifies nobody: only good for asking who the authority claims to be."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def check_authority(authority_pem: str, fingerprint: bytes, address: str) -> None:
    """Refuse an authority other than the activation code's, before any secret is sent to it.

    Raises:
        PeerFault: CA_MISMATCH, also for what is no certificate at all.
    """
    # What stands around a certificate is no part of it, but OpenSSL takes none that is not ASCII.
    if len(authority_pem) > CERTIFICATE_PEM_BYTES_MAX or not authority_pem.isascii():
        raise CA_MISMATCH.peer(address=address)
    try:
        authority = x509.load_pem_x509_certificate(authority_pem.encode())
        acceptable_key(authority.public_key())
        offered = authority_fingerprint(authority)
    except UNREADABLE as error:
        raise CA_MISMATCH.peer(address=address) from error
    if not hmac.compare_digest(offered, fingerprint):
        raise CA_MISMATCH.peer(address=address)


def pinned_context(authority_pem: str, fingerprint: bytes, address: str) -> ssl.SSLContext:
    """TLS 1.3 to the receiver that made the activation code and to nobody else.

    Connect with ``server_hostname=RECEIVER_NAME``; an impostor fails in the handshake, before
    anything is sent.

    Raises:
        PeerFault: CA_MISMATCH.
    """
    check_authority(authority_pem, fingerprint, address)
    return _anchored(authority_pem)


def _anchored(authority_pem: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    # A source may choose any common name, so a common name must never pass for a host name.
    context.hostname_checks_common_name = False
    # An administrator's authority may itself be signed by another one that we do not know.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=authority_pem)
    return context


def _load_chain(context: ssl.SSLContext, pem: str) -> None:
    """Give a context a key and certificate that stand in no file.

    The standard library loads them from a path only; a memory file (memfd_create(2)) has one
    under /proc and is gone with its descriptor, so the key is never written anywhere else.
    """
    memory = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        os.write(memory, pem.encode())
        context.load_cert_chain(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)
