"""The authority and the source's identity, over real TLS on a socket pair."""

from __future__ import annotations

import datetime as dt
import os
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from protocol import identity
from protocol.errors import Fault
from receiver.authority import SERVER_DAYS, SERVER_RENEW_DAYS, Authority

# Real TLS compares with the real clock, so "now" must be near it.
NOW = dt.datetime.now(dt.UTC)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path, NOW)


def enrolled(authority: Authority, name: str = "web01") -> identity.Identity:
    request = identity.make_request(name)
    certificate = authority.sign_source(request.request_pem, name, NOW)
    return identity.issued(request, certificate.pem, authority.pem, address="h:8080", receiver="r")


def talk(server: ssl.SSLContext, client: ssl.SSLContext) -> bytes | None:
    """One handshake and one byte each way; the client's certificate as the server saw it."""
    near, far = socket.socketpair()
    near.settimeout(10)
    far.settimeout(10)
    failure: list[Exception] = []
    seen: list[bytes | None] = []

    def serve() -> None:
        try:
            with server.wrap_socket(far, server_side=True) as tls:
                seen.append(tls.getpeercert(binary_form=True))
                tls.sendall(tls.recv(1))
        except OSError as error:
            failure.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(near, server_hostname=identity.RECEIVER_NAME) as tls:
            assert tls.version() == "TLSv1.3"
            tls.sendall(b"x")
            assert tls.recv(1) == b"x"
    finally:
        near.close()
        thread.join()
    assert not failure
    return seen[0]


def test_key_files_are_private_and_survive_a_restart(tmp_path: Path) -> None:
    first = Authority.open(tmp_path, NOW)
    again = Authority.open(tmp_path, NOW)
    assert again.pem == first.pem
    assert len(again.fingerprint()) == 20
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "authority").iterdir()}
    assert modes == {"authority-key.pem": 0o600, "authority.pem": 0o644, "server.pem": 0o600}


@pytest.mark.parametrize("lost", ["authority.pem", "server.pem"])
def test_a_start_after_a_crash_in_the_middle_keeps_the_fingerprint(
    tmp_path: Path, lost: str
) -> None:
    first = Authority.open(tmp_path, NOW)
    source = enrolled(first)
    (tmp_path / "authority" / lost).unlink()
    again = Authority.open(tmp_path, NOW)
    assert again.fingerprint() == first.fingerprint()
    assert talk(again.server_context(), source.client_context()) is not None


def test_a_lost_key_is_refused_rather_than_replaced(tmp_path: Path) -> None:
    Authority.open(tmp_path, NOW)
    (tmp_path / "authority" / "authority-key.pem").unlink()
    with pytest.raises(Fault, match=r"RPL-2011.*missing"):
        Authority.open(tmp_path, NOW)


def test_a_foreign_certificate_and_a_readable_key_are_refused(tmp_path: Path) -> None:
    Authority.open(tmp_path / "a", NOW)
    Authority.open(tmp_path / "b", NOW)
    ours = tmp_path / "a" / "authority"
    own = (ours / "authority.pem").read_bytes()
    (ours / "authority.pem").write_bytes((tmp_path / "b/authority/authority.pem").read_bytes())
    with pytest.raises(Fault, match="does not belong"):
        Authority.open(tmp_path / "a", NOW)
    (ours / "authority.pem").write_bytes(own)
    (ours / "authority-key.pem").chmod(0o640)
    with pytest.raises(Fault, match="others than its owner"):
        Authority.open(tmp_path / "a", NOW)


def put_key(storage: Path, key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> None:
    (storage / "authority").mkdir()
    path = storage / "authority" / "authority-key.pem"
    path.touch(0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def test_an_administrators_rsa_key_serves_and_a_short_one_does_not(tmp_path: Path) -> None:
    for size in (2048, 1024):
        (tmp_path / str(size)).mkdir()
        key = rsa.generate_private_key(65537, 2048 if size == 2048 else 1024)
        put_key(tmp_path / str(size), key)
    authority = Authority.open(tmp_path / "2048", NOW)
    assert talk(authority.server_context(), enrolled(authority).client_context()) is not None
    with pytest.raises(Fault, match="1024 bits"):
        Authority.open(tmp_path / "1024", NOW)


def test_the_fingerprint_is_of_the_public_key(authority: Authority) -> None:
    import hashlib

    certificate = x509.load_pem_x509_certificate(authority.pem.encode())
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert authority.fingerprint() == hashlib.sha256(spki).digest()[:20]


def test_the_server_sees_the_certificate_that_the_catalog_knows(authority: Authority) -> None:
    request = identity.make_request("web01")
    signed = authority.sign_source(request.request_pem, "web01", NOW)
    source = identity.issued(request, signed.pem, authority.pem, address="h:1", receiver="r")
    der = talk(authority.server_context(), source.client_context())
    assert der is not None
    assert identity.certificate_fingerprint(der) == signed.fingerprint
    assert signed.serial == f"{x509.load_der_x509_certificate(der).serial_number:x}"


def test_enrolment_reaches_only_the_right_receiver(tmp_path: Path) -> None:
    right = Authority.open(tmp_path / "right", NOW)
    wrong = Authority.open(tmp_path / "wrong", NOW)
    code = right.fingerprint()
    pinned = identity.pinned_context(right.pem, code, "h:8080")
    assert talk(right.server_context(), pinned) is None
    with pytest.raises(Fault, match="RPL-2005"):
        identity.pinned_context(wrong.pem, code, "h:8080")
    # An impostor who passes on the right certificate still lacks its key.
    with pytest.raises(ssl.SSLCertVerificationError):
        talk(wrong.server_context(), pinned)
    # The fetching connection would have talked to anyone: that is why it says nothing.
    assert talk(wrong.server_context(), identity.fetching_context()) is None


@pytest.mark.parametrize("junk", ["", "junk", "-----BEGIN CERTIFICATE-----\nAA==\n", "x" * 99999])
def test_what_is_no_certificate_is_a_mismatch(junk: str) -> None:
    with pytest.raises(Fault, match="RPL-2005"):
        identity.check_authority(junk, bytes(20), "h:1")


def test_a_source_of_another_authority_is_refused(tmp_path: Path) -> None:
    ours = Authority.open(tmp_path / "a", NOW)
    other = Authority.open(tmp_path / "b", NOW)
    stranger = enrolled(other)
    lying = identity.Identity(
        name="web01",
        address="",
        receiver="",
        key_pem=stranger.key_pem,
        certificate_pem=stranger.certificate_pem,
        authority_pem=ours.pem,
    )
    with pytest.raises((ssl.SSLError, AssertionError)):
        talk(ours.server_context(), lying.client_context())


def test_a_source_cannot_pose_as_the_receiver(authority: Authority) -> None:
    victim, rogue = enrolled(authority), enrolled(authority, identity.RECEIVER_NAME)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    identity._load_chain(server, rogue.key_pem + rogue.certificate_pem)
    with pytest.raises(ssl.SSLCertVerificationError):
        talk(server, victim.client_context())


def csr(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> str:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "anything")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, algorithm)
    return request.public_bytes(serialization.Encoding.PEM).decode()


def test_requests_are_checked(authority: Authority) -> None:
    good = csr(ec.generate_private_key(ec.SECP256R1()))
    assert authority.sign_source(good, "web01", NOW).serial
    for key in (ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 1024)):
        with pytest.raises(Fault, match="RPL-2006"):
            authority.sign_source(csr(key), "web01", NOW)
    der = bytearray(x509.load_pem_x509_csr(good.encode()).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    import base64

    body = base64.encodebytes(bytes(der)).decode()
    forged = f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(Fault, match="RPL-2006"):
        authority.sign_source(forged, "web01", NOW)
    for bad in ("", "junk", "x" * 99999):
        with pytest.raises(Fault, match="RPL-2006"):
            authority.sign_source(bad, "web01", NOW)


@pytest.mark.parametrize("name", ["", ".", "..", "a..b", "a/b", "-a", "a b", "a\n", "é", "x" * 64])
def test_names_that_could_mean_something_else_are_refused(authority: Authority, name: str) -> None:
    with pytest.raises(Fault, match="RPL-2006"):
        authority.sign_source(identity.make_request("a").request_pem, name, NOW)


def test_the_server_certificate_is_renewed_near_its_end(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path, NOW)
    before = (tmp_path / "authority/server.pem").read_bytes()
    early = NOW + dt.timedelta(days=SERVER_DAYS - SERVER_RENEW_DAYS - 1)
    late = NOW + dt.timedelta(days=SERVER_DAYS - SERVER_RENEW_DAYS + 1)
    assert not authority.renew_server(early)
    assert authority.renew_server(late)
    assert (tmp_path / "authority/server.pem").read_bytes() != before
    assert not authority.renew_server(late)


def test_an_identity_is_stored_whole_and_private(tmp_path: Path, authority: Authority) -> None:
    directory = tmp_path / "state" / "identity"
    with pytest.raises(Fault, match="RPL-2008"):
        identity.load_identity(directory)
    source = enrolled(authority)
    source.store(directory)
    assert identity.load_identity(directory) == source
    assert [p.name for p in directory.iterdir()] == ["identity.json"]
    assert (directory / "identity.json").stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in repr(source) + repr(identity.make_request("a"))
    (directory / "identity.json").write_bytes(b"{")
    with pytest.raises(Fault, match="RPL-2006"):
        identity.load_identity(directory)


def test_a_failed_replacement_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    identity.replace_file(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        identity.replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_kill_left_of_a_replacement_is_used_up(tmp_path: Path) -> None:
    path, left = tmp_path / "file", tmp_path / ".file.new"
    left.write_bytes(b"longer than what comes")
    left.chmod(0o644)
    identity.replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_two_that_replace_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([number]) * 1000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: identity.replace_file(path, content), contents))
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_an_answer_for_another_request_is_refused(authority: Authority) -> None:
    ours, other = identity.make_request("web01"), identity.make_request("web01")
    pem = authority.sign_source(other.request_pem, "web01", NOW).pem
    with pytest.raises(Fault, match="another key"):
        identity.issued(ours, pem, authority.pem, address="", receiver="")
    pem = authority.sign_source(ours.request_pem, "web02", NOW).pem
    with pytest.raises(Fault, match="web02"):
        identity.issued(ours, pem, authority.pem, address="", receiver="")


def test_every_damaged_byte_of_its_own_certificate_is_noticed(tmp_path: Path) -> None:
    """Most of a certificate is parsed only when it is needed: that was a traceback at the start."""
    Authority.open(tmp_path, NOW)
    (path,) = tmp_path.rglob("authority.pem")
    good = x509.load_pem_x509_certificate(path.read_bytes())
    der = good.public_bytes(serialization.Encoding.DER)
    for at in range(len(der)):
        damaged = bytearray(der)
        damaged[at] ^= 0x11
        text = ssl.DER_cert_to_PEM_cert(bytes(damaged))
        path.write_text(text)
        with pytest.raises(Fault, match="RPL-2011"):
            Authority.open(tmp_path, NOW)
