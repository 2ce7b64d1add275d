"""Activation codes: counted, dated, hashed, and not burnt by an enrolment that fails."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.activation import ActivationCode
from protocol.errors import Fault
from protocol.identity import make_request
from receiver import activation
from receiver.authority import Authority
from receiver.catalog import Catalog

NOW = 1_800_000_000.0
CA = bytes(range(20))


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(tmp_path / "catalog.sqlite") as opened:
        yield opened


def code_for(catalog: Catalog, uses: int = 1, valid: float = 60.0) -> ActivationCode:
    return activation.create(catalog, CA, uses=uses, valid=valid, now=NOW)[0]


def test_a_code_works_as_often_as_it_says(catalog: Catalog) -> None:
    code, row = activation.create(catalog, CA, uses=2, valid=60, now=NOW)
    assert (code.authority, row.uses, row.used, row.expires) == (CA, 2, 0, NOW + 60)
    assert ActivationCode.parse(code.format()) == code
    for _ in range(2):
        activation.redeem(catalog, code.secret, NOW)
    with pytest.raises(Fault, match=r"RPL-2004.*2 of 2"):
        activation.redeem(catalog, code.secret, NOW)


def test_a_code_expires_on_the_second(catalog: Catalog) -> None:
    code = code_for(catalog, uses=9)
    activation.redeem(catalog, code.secret, NOW + 59.9)
    with pytest.raises(Fault, match=r"RPL-2003.*2027-01-15T08:01:00Z"):
        activation.redeem(catalog, code.secret, NOW + 60)


@pytest.mark.parametrize("secret", [b"", bytes(16), bytes(17)])
def test_another_secret_is_unknown(catalog: Catalog, secret: bytes) -> None:
    code_for(catalog)
    with pytest.raises(Fault, match="RPL-2002"):
        activation.redeem(catalog, secret, NOW)


def test_a_label_alone_opens_nothing(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    code_for(catalog)
    label = catalog.activations.all()[0].label
    monkeypatch.setattr(activation, "_label", lambda _: label)
    with pytest.raises(Fault, match="RPL-2002"):
        activation.redeem(catalog, b"x" * 16, NOW)


def test_the_catalog_does_not_hold_the_secret(catalog: Catalog, tmp_path: Path) -> None:
    code = code_for(catalog)
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        assert code.secret not in content
        assert code.secret.hex().encode() not in content
    assert code.secret.hex() not in repr(catalog.activations.all())


def test_a_revoked_code_is_worthless(catalog: Catalog) -> None:
    code = code_for(catalog)
    other = code_for(catalog)
    label = catalog.activations.all()[0].label
    activation.revoke(catalog, label)
    left = [activation.redeem, activation.redeem]
    outcomes = []
    for redeem, each in zip(left, (code, other), strict=True):
        try:
            redeem(catalog, each.secret, NOW)
            outcomes.append("ok")
        except Fault as fault:
            outcomes.append(fault.code)
    assert sorted(outcomes) == ["RPL-2002", "ok"]
    with pytest.raises(Fault, match="RPL-2002"):
        activation.revoke(catalog, label)


@pytest.mark.parametrize(
    ("uses", "valid"), [(0, 60.0), (activation.USES_MAX + 1, 60.0), (1, 0.0), (1, 1e12)]
)
def test_bounds(catalog: Catalog, uses: int, valid: float) -> None:
    with pytest.raises(Fault, match="RPL-1002"):
        activation.create(catalog, CA, uses=uses, valid=valid, now=NOW)


def test_a_failed_enrolment_burns_no_use(catalog: Catalog, tmp_path: Path) -> None:
    authority = Authority.open(tmp_path, dt.datetime.fromtimestamp(NOW, dt.UTC))
    code = code_for(catalog, uses=2)

    def enrol(name: str, request: str, presented: str = "") -> str:
        return activation.enrol(
            catalog,
            authority,
            secret=code.secret,
            name=name,
            request_pem=request,
            now=NOW,
            presented=presented,
        ).fingerprint

    good = make_request("web01").request_pem
    first = enrol("web01", good)
    for name, request, expected in (
        ("web01", good, "RPL-2009"),
        ("../x", good, "RPL-2006"),
        ("web02", "junk", "RPL-2006"),
    ):
        with pytest.raises(Fault, match=expected):
            enrol(name, request)
    assert catalog.activations.all()[0].used == 1
    second = enrol("web01", make_request("web01").request_pem, presented=first)
    assert second != first
    with pytest.raises(Fault, match="RPL-2004"):
        enrol("web03", good)
    assert [source.name for source in catalog.sources.all()] == ["web01"]
