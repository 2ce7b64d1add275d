"""First contact: TLS, certificates and requests of strangers, activation codes, the identity file.

PEM is only armour: with the first byte odd the rest is taken for DER and put into it, so that the
fuzzer gets to the structure inside.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import functools
import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from protocol.activation import ActivationCode
from protocol.errors import (
    ACTIVATION_MALFORMED,
    CA_MISMATCH,
    CERTIFICATE_REFUSED,
    NOT_ENROLLED,
    LocalFault,
    PeerFault,
)
from protocol.identity import (
    RECEIVER_NAME,
    Identity,
    KeyRequest,
    check_authority,
    fetching_context,
    issued,
    load_identity,
    make_request,
)
from receiver.authority import Authority
from tests.fuzz.registry import target

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
_contexts: list[ssl.SSLContext] = []
"""The server's context of the authority below, made while its files were there."""


@functools.cache
def _authority() -> Authority:
    with tempfile.TemporaryDirectory(prefix="replicad-fuzz-") as directory:
        found = Authority.open(Path(directory), NOW)
        _contexts.append(found.server_context())
        return found


@functools.cache
def _request() -> KeyRequest:
    return make_request("web01")


@functools.cache
def _certificate() -> str:
    return _authority().sign_source(_request().request_pem, "web01", NOW).pem


def _pem(data: bytes, label: str) -> str:
    """The text of a peer: as it is, or armour around DER."""
    if data[:1] and data[0] & 1:
        body = base64.encodebytes(data[1:]).decode()
        return f"-----BEGIN {label}-----\n{body}-----END {label}-----\n"
    return data[1:].decode("utf-8", "replace")


def _der_of(pem: str) -> bytes:
    return base64.b64decode("".join(pem.strip().splitlines()[1:-1]))


def _requests() -> list[bytes]:
    made = [_request().request_pem]
    for key in (
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
        rsa.generate_private_key(public_exponent=65537, key_size=1024),
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP256K1()),
    ):
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
        request = x509.CertificateSigningRequestBuilder().subject_name(name)
        signed = request.sign(key, hashes.SHA256())
        made.append(signed.public_bytes(serialization.Encoding.PEM).decode())
    name = x509.Name([])
    bare = x509.CertificateSigningRequestBuilder().subject_name(name)
    ed = bare.sign(ed25519.Ed25519PrivateKey.generate(), None)
    made.append(ed.public_bytes(serialization.Encoding.PEM).decode())
    return [b"\0" + pem.encode() for pem in made] + [b"\1" + _der_of(pem) for pem in made]


@target(seeds=_requests)
def certificate_request(data: bytes) -> None:
    """What a stranger with a good code asks to have signed."""
    pem = _pem(data, "CERTIFICATE REQUEST")
    try:
        signed = _authority().sign_source(pem, "web01", NOW)
    except PeerFault as fault:
        assert fault.code == CERTIFICATE_REFUSED.code
        return
    name = x509.load_pem_x509_certificate(signed.pem.encode()).subject
    assert [a.value for a in name.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["web01"]


@target(seeds=lambda: [b"web01", b"..", b"a" * 64, b"web\x0001", "wéb".encode(), b"a/b"])
def source_name(data: bytes) -> None:
    """The name that a stranger wants."""
    name = data.decode("utf-8", "replace")
    with contextlib.suppress(PeerFault):
        _authority().sign_source(_request().request_pem, name, NOW)
        assert 0 < len(name) < 64
        assert name.isascii()
        assert "/" not in name
        assert ".." not in name


@target(
    seeds=lambda: [
        b"\0" + _authority().pem.encode(),
        b"\1" + _der_of(_authority().pem),
        b"\1" + _der_of(_certificate()),
    ]
)
def authority_certificate(data: bytes) -> None:
    """What an impostor may call its authority."""
    pem = _pem(data, "CERTIFICATE")
    try:
        check_authority(pem, bytes(20), "x:1")
    except PeerFault as fault:
        assert fault.code == CA_MISMATCH.code
        return
    raise AssertionError("a stranger's authority was believed")


@target(
    seeds=lambda: [
        b"\0" + _certificate().encode(),
        b"\1" + _der_of(_certificate()),
        b"\1" + _der_of(_authority().pem),
    ]
)
def issued_certificate(data: bytes) -> None:
    """What a receiver answers to an enrolment."""
    for mine, theirs in (
        (_pem(data, "CERTIFICATE"), _authority().pem),
        (_certificate(), _pem(data, "CERTIFICATE")),
    ):
        with contextlib.suppress(PeerFault):
            issued(_request(), mine, theirs, address="x:1", receiver="r").client_context()


def _client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = fetching_context().wrap_bio(incoming, outgoing, server_hostname=RECEIVER_NAME)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def _server() -> ssl.SSLContext:
    _authority()
    return _contexts[0]


@target(seeds=lambda: [_client_hello(), b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n"])
def tls(data: bytes) -> None:
    """A stranger's first bytes on the control port."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = _server().wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(data)
    with contextlib.suppress(ssl.SSLError):
        session.do_handshake()
        raise AssertionError("a handshake was finished by one side")
    assert outgoing.pending <= 64 << 10


@target(
    seeds=lambda: [
        ActivationCode(bytes(16), bytes(20)).format().encode(),
        ActivationCode(bytes(range(16)), bytes(range(20))).format().lower().encode(),
        b"RPL1-",
    ],
    longest=512,
)
def activation(data: bytes) -> None:
    """An activation code as somebody typed it."""
    text = data.decode("utf-8", "replace")
    try:
        code = ActivationCode.parse(text)
    except LocalFault as fault:
        assert fault.code == ACTIVATION_MALFORMED.code
        assert len(text) < 20 or text not in fault.sentence, "the code is quoted"
        return
    assert ActivationCode.parse(code.format()) == code


def _identity() -> bytes:
    with tempfile.TemporaryDirectory(prefix="replicad-fuzz-") as directory:
        Identity(
            name="web01",
            address="127.0.0.1:8080",
            receiver="r",
            key_pem=_request().key_pem,
            certificate_pem=_certificate(),
            authority_pem=_authority().pem,
        ).store(Path(directory))
        return (Path(directory) / "identity.json").read_bytes()


@target(seeds=lambda: [_identity(), b"{}", b"[]"])
def identity_file(data: bytes) -> None:
    """The source's identity, damaged anywhere."""
    with tempfile.TemporaryDirectory(prefix="replicad-fuzz-", dir="/dev/shm") as directory:
        (Path(directory) / "identity.json").write_bytes(data)
        try:
            load_identity(Path(directory)).client_context()
        except LocalFault as fault:
            assert fault.code in {NOT_ENROLLED.code, CERTIFICATE_REFUSED.code}
