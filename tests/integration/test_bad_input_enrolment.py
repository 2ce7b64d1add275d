"""Bad input to enrolment and identity: wrong codes, wrong receivers, foreign and revoked sources.

A code is worth nothing to whoever is not the receiver that made it, and its secret is never said
to anybody else; a certificate is worth nothing once its source has been forgotten.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from protocol.activation import ActivationCode
from protocol.identity import Identity, load_identity
from receiver.authority import Authority
from tests.support.loops import MIB
from tests.support.pair import Pair, pair, until
from tests.support.serving import Serving, begin, fails, logged, serving, written_disk

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("enrolment")) as made:
        yield made


@pytest.fixture
def it(running: Serving) -> Iterator[Serving]:
    """The running pair, which must serve on after the test as before."""
    yield running
    running.still_serves()


@pytest.fixture
def newcomer(running: Serving, tmp_path: Path) -> Iterator[Pair]:
    """A source that is not enrolled anywhere; its own receiver does not run."""
    disk = tmp_path / "new.img"
    disk.write_bytes(bytes(MIB))
    with pair([str(disk)], start=False, tracker="off") as made:
        made.source.config.write_text(made.source.config.read_text().replace("web01", "web02"))
        yield made


def code_of(both: Pair, *options: str) -> str:
    code: str = both.receiver.run("activation", "create", *options)["code"]
    return code


def enrol_fails(
    it: Serving, newcomer: Pair, code: str, status: int, activation: str
) -> dict[str, Any]:
    """``enroll`` of the newcomer at the running receiver fails, and leaves no trace on either."""
    before = it.world()
    enroll = ("enroll", "-", "--receiver", f"127.0.0.1:{it.both.control}")
    error = fails(newcomer.source, code, status, *enroll, stdin=activation)
    assert it.world() == before
    assert not (newcomer.directory / "ss" / "identity.json").exists()
    digits = activation.strip().upper().replace("-", "")
    for text in (it.both.logs(), str(error)):
        assert activation not in text
        assert digits[4:20] not in text.replace("-", "")
    return error


# --- codes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda code: code[:20] + ("0" if code[20] != "0" else "2") + code[21:], "checksum"),
        (lambda code: code[:-3], "characters"),
        (lambda code: code.replace("RPL1", "RPL9"), "RPL1"),
        (lambda code: code[:-1] + "U", "'U'"),
        (lambda code: "garbage", "RPL1"),
        (lambda code: code * 50, "characters"),
    ],
)
def test_a_malformed_code_is_a_wrong_use(
    running: Serving, newcomer: Pair, spoil: Any, says: str
) -> None:
    """One wrong character is told from an unknown code without asking the receiver."""
    code = code_of(running.both)
    assert says in enrol_fails(running, newcomer, "RPL-2001", 2, spoil(code))["message"]
    running.both.receiver.run("activation", "list")


def test_a_well_formed_code_that_nobody_made_is_unknown(it: Serving, newcomer: Pair) -> None:
    real = ActivationCode.parse(code_of(it.both))
    made_up = ActivationCode(secret=bytes(16), authority=real.authority).format()
    enrol_fails(it, newcomer, "RPL-2002", 3, made_up)


def test_an_expired_code_is_refused(it: Serving, newcomer: Pair) -> None:
    code = code_of(it.both, "--valid", "1s")
    rows = it.both.receiver.run("activation", "list")
    expires = max(dt.datetime.fromisoformat(row["expires"]) for row in rows if row["used"] == 0)
    soonest = min(dt.datetime.fromisoformat(row["expires"]) for row in rows if row["used"] == 0)
    assert soonest <= expires
    until(lambda: dt.datetime.now(dt.UTC) > soonest + dt.timedelta(seconds=0.2), 10, "its end")
    error = enrol_fails(it, newcomer, "RPL-2003", 3, code)
    assert soonest.isoformat()[:19] in error["message"]


def test_a_used_up_code_is_refused(it: Serving, newcomer: Pair, tmp_path: Path) -> None:
    code = code_of(it.both)
    where = ("enroll", "-", "--receiver", f"127.0.0.1:{it.both.control}")
    newcomer.source.run(*where, stdin=code)
    (newcomer.directory / "ss" / "identity.json").unlink()
    assert "1 of 1" in enrol_fails(it, newcomer, "RPL-2004", 3, code)["message"]
    it.both.receiver.run("source", "forget", "web02")


def test_a_name_that_is_taken_is_refused_and_costs_no_use(it: Serving, newcomer: Pair) -> None:
    config = newcomer.source.config
    config.write_text(config.read_text().replace("web02", "web01"))
    enrol_fails(it, newcomer, "RPL-2009", 3, code_of(it.both))


def test_enrolling_twice_is_refused(it: Serving) -> None:
    where = ("enroll", "-", "--receiver", f"127.0.0.1:{it.both.control}")
    it.refused("RPL-2010", 3, *where, stdin=code_of(it.both), source=True)


# --- receivers ------------------------------------------------------------------------------------


def test_a_code_of_another_receiver_is_refused(it: Serving, newcomer: Pair) -> None:
    """The code of receiver A used with B: refused by the source, and neither has changed."""
    newcomer.receiver.start()
    code = code_of(newcomer)
    enrol_fails(it, newcomer, "RPL-2005", 3, code)
    assert [row["used"] for row in newcomer.receiver.run("activation", "list")] == [0]
    newcomer.source.run("enroll", "-", "--receiver", f"127.0.0.1:{newcomer.control}", stdin=code)


class Impostor:
    """A TLS server that is not the receiver and writes down everything that it is told.

    It answers the greeting and gives out an authority's certificate, which is public. Its own
    certificate is signed by ``signer``.
    """

    def __init__(self, signer: Path, given_out: str) -> None:
        self.heard = bytearray()
        self.handshakes = 0
        self.broken = 0
        now = dt.datetime.now(dt.UTC)
        self._context = Authority.open(signer, now).server_context()
        self._given_out = given_out
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, name="impostor")
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(10)
            with sock, contextlib.suppress(OSError):
                self._talk(sock)

    def _talk(self, sock: socket.socket) -> None:
        try:
            tls = self._context.wrap_socket(sock, server_side=True)
        except ssl.SSLError:
            self.broken += 1
            raise
        self.handshakes += 1
        with tls:
            self._hear(tls, b'"hello"')
            self._say(tls, {"type": "welcome", "version": 1})
            self._hear(tls, b'"authority-request"')
            self._say(tls, {"type": "authority", "answers": 1, "certificate_pem": self._given_out})
            while data := tls.recv(65536):
                self.heard += data

    def _hear(self, tls: ssl.SSLSocket, what: bytes) -> None:
        said = b""
        while what not in said and (data := tls.recv(65536)):
            said += data
        self.heard += said

    @staticmethod
    def _say(tls: ssl.SSLSocket, message: dict[str, Any]) -> None:
        body = msgspec.json.encode(message)
        tls.sendall(len(body).to_bytes(4, "big") + body)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(20)


@pytest.mark.parametrize("gives_out", ["its own authority", "the real authority"])
def test_an_impostor_never_hears_the_secret(
    it: Serving, newcomer: Pair, tmp_path: Path, gives_out: str
) -> None:
    """Neither one with an authority of its own, nor one that repeats the real one's certificate."""
    authority = it.both.storage / "authority" / "authority.pem"
    own = Authority.open(tmp_path, dt.datetime.now(dt.UTC)).pem
    impostor = Impostor(
        tmp_path, own if gives_out == "its own authority" else authority.read_text()
    )
    code = code_of(it.both)
    try:
        where = ("enroll", "-", "--receiver", f"127.0.0.1:{impostor.port}")
        error = fails(newcomer.source, "RPL-2005", 3, *where, stdin=code)
    finally:
        impostor.close()
    assert str(impostor.port) in error["message"]
    heard = bytes(impostor.heard)
    assert b"authority-request" in heard
    assert impostor.handshakes == 2  # once for each of the two commands
    assert impostor.broken == (0 if gives_out == "its own authority" else 2)
    secret = ActivationCode.parse(code).secret
    assert b"enrol" not in heard.replace(b"enroll", b"")
    for form in (secret, secret.hex().encode(), code.encode(), code.replace("-", "").encode()):
        assert form not in heard
    assert not (newcomer.directory / "ss" / "identity.json").exists()


# --- sources --------------------------------------------------------------------------------------


def swapped(both: Pair, **changes: str) -> None:
    """Replace parts of the source's identity while it is stopped, then start it again."""
    both.source.stop()
    identity = load_identity(both.directory / "ss")
    msgspec.structs.replace(identity, **changes).store(both.directory / "ss")
    both.source.start()


@pytest.fixture
def own_identity(it: Serving) -> Iterator[Identity]:
    """The source's identity, put back after the test."""
    file = it.both.directory / "ss" / "identity.json"
    kept = it.both.directory / "kept.json"
    shutil.copy(file, kept)
    yield load_identity(file.parent)
    it.both.source.stop()
    shutil.copy(kept, file)
    it.both.source.start()
    it.restarted()


def foreign_identity(newcomer: Pair) -> Identity:
    """What another receiver's authority would certify for a source named web01."""
    config = newcomer.source.config
    config.write_text(config.read_text().replace("web02", "web01"))
    newcomer.receiver.start()
    where = ("enroll", "-", "--receiver", f"127.0.0.1:{newcomer.control}")
    newcomer.source.run(*where, stdin=code_of(newcomer))
    return load_identity(newcomer.directory / "ss")


def test_a_certificate_of_another_authority_is_refused(
    it: Serving, own_identity: Identity, newcomer: Pair
) -> None:
    """It names the same source, but another authority signed it: refused in the handshake."""
    foreign = foreign_identity(newcomer)
    before = it.both.receiver.run("job", "show", it.both.job)
    swapped(it.both, key_pem=foreign.key_pem, certificate_pem=foreign.certificate_pem)
    logged(it.both.source, '"code":"RPL-2006"')
    status = it.both.source.run("status")
    assert not status["connected"]
    assert "certificate" in status["sentence"]
    fails(it.both.source, "RPL-3001", 1, "pause")
    assert not it.both.receiver.run("source", "show", "web01")["connected"]
    after = it.both.receiver.run("job", "show", it.both.job)
    assert (after["state"], after["epoch"]) == (before["state"], before["epoch"])


def test_a_receiver_of_another_authority_is_not_dialled(
    it: Serving, own_identity: Identity, newcomer: Pair
) -> None:
    """The other way round: the source trusts another authority than the one that answers."""
    swapped(it.both, authority_pem=foreign_identity(newcomer).authority_pem)
    logged(it.both.source, '"code":"RPL-2005"')
    assert not it.both.source.run("status")["connected"]


def test_a_name_in_the_greeting_other_than_the_certificates_is_refused(
    it: Serving, own_identity: Identity
) -> None:
    swapped(it.both, name="web02")
    logged(it.both.source, '"code":"RPL-2006"')
    assert "web02" in it.both.source.run("status")["sentence"]


def test_a_forgotten_source_is_dismissed_and_keeps_running(tmp_path: Path) -> None:
    """Its job is cancelled, its copy stays, its status says why, and it does not come back."""
    with written_disk(tmp_path) as (device, image), pair([device]) as both:
        it = begin(both, image)
        copy = both.intermediate()
        assert both.receiver.run("source", "forget", "web01") == {"forgotten": "web01"}
        view = both.show()
        assert (view["state"], view["outcome"]) == ("finished", "cancelled")
        assert copy.stat().st_size == both.show()["disks"][0]["size"]
        sentence = until(lambda: forgotten(both), 20, "word of it at the source")
        assert "web01" in sentence
        logged(both.source, '"code":"RPL-2007"')
        assert fails(both.source, "RPL-3001", 1, "pause")["message"].count("forgotten") == 1
        fails(both.receiver, "RPL-4001", 3, "job", "create", "--source", "web01")
        fails(both.receiver, "RPL-4001", 3, "source", "forget", "web01")
        # It may come back with a new code, to a new job, while the same process runs.
        both.source.run("enroll", "-", "--replace", "--receiver", f"127.0.0.1:{both.control}",
                        stdin=code_of(both))  # fmt: skip
        until(lambda: both.source.run("status")["connected"], 40, "the source's return")
        both.create("--name", "again", "--freeze-budget", "30s")
        it.still_serves()


def forgotten(both: Pair) -> str:
    status = both.source.run("status")
    sentence: str = status["sentence"]
    return sentence if not status["connected"] and "forgotten" in sentence else ""
