"""The table of errors: every declaration is usable, and its document says the same."""

from __future__ import annotations

import ast
import re
import string
from pathlib import Path

import pytest

from protocol import errors, errors_doc
from protocol.errors import BY_CODE, KINDS, Exit, Fault, Kind, LocalFault, PeerFault, from_peer

ROOT = Path(__file__).parent.parent.parent
EVERY = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)


def fields(template: str) -> dict[str, str]:
    """Names in a template, with their format specifications."""
    return {
        name: specification or ""
        for _, name, specification, _ in string.Formatter().parse(template)
        if name is not None
    }


def particulars(kind: Kind) -> dict[str, object]:
    """A value of the right type for everything that the sentence names."""
    return {
        name: 1.5 if specification else f"<{name}>"
        for name, specification in fields(kind.sentence).items()
    }


@EVERY
def test_a_declaration_is_well_formed(kind: Kind) -> None:
    assert re.fullmatch(r"RPL-[1-6][0-9]{3}", kind.code)
    assert re.fullmatch(r"[a-z][a-z_]*", kind.name)
    assert getattr(errors, kind.name.upper()) is kind
    # It stands after "RPL-1203: ", so it is no sentence of its own with a full stop.
    assert kind.sentence
    assert kind.sentence == kind.sentence.strip()
    assert not kind.sentence.endswith((".", "!", ":", ","))
    assert not kind.sentence[0].isupper() or kind.sentence.split(maxsplit=1)[0].isupper()
    assert kind.remedy.endswith(".")
    assert kind.remedy[0].isupper()
    assert "\n" not in kind.sentence + kind.remedy
    assert kind.exit_code is not Exit.DONE


@EVERY
def test_a_remedy_needs_nothing_that_the_sentence_does_not_name(kind: Kind) -> None:
    assert set(fields(kind.remedy)) <= set(fields(kind.sentence))
    assert "" not in fields(kind.sentence), "every particular has a name"


@EVERY
def test_it_can_be_raised_on_either_side(kind: Kind) -> None:
    for fault, type_ in ((kind.fault, LocalFault), (kind.peer, PeerFault)):
        raised = fault(**particulars(kind))
        assert isinstance(raised, type_)
        assert str(raised) == f"{kind.code}: {raised.sentence}"
        assert "{" not in raised.sentence + raised.remedy
        assert raised.exit_code == kind.exit_code


@EVERY
def test_it_crosses_a_socket(kind: Kind) -> None:
    sent = kind.fault(**particulars(kind))
    said = sent.as_dict()
    received = from_peer(said["code"], said["message"], said["remedy"])
    assert isinstance(received, PeerFault)
    assert received.as_dict() == said
    assert received.exit_code == sent.exit_code


def test_codes_and_names_are_unique() -> None:
    assert len({kind.code for kind in KINDS}) == len({kind.name for kind in KINDS}) == len(KINDS)
    assert set(BY_CODE) == {kind.code for kind in KINDS}


def test_an_error_of_a_newer_peer_is_kept_as_it_is() -> None:
    fault = from_peer("RPL-9999", "something new", "Upgrade.")
    assert isinstance(fault, Fault)
    assert (fault.code, fault.exit_code) == ("RPL-9999", Exit.FAILED)


def test_a_missing_particular_is_a_mistake_that_shows() -> None:
    with pytest.raises(KeyError):
        errors.TARGET_MOUNTED.fault(path="/dev/sdb")


def test_the_exit_codes_are_those_that_scripts_rely_on() -> None:
    assert [int(exit_) for exit_ in Exit] == [0, 1, 2, 3, 4, 5]


def raised_with(source: str) -> list[tuple[str, set[str], int]]:
    """Every ``KIND.fault(...)`` and ``KIND.peer(...)`` of a module: name, particulars, line."""
    found: list[tuple[str, set[str], int]] = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner = node.func.value
        name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
        given = {keyword.arg for keyword in node.keywords}
        if node.func.attr in ("fault", "peer") and name.isupper() and None not in given:
            found.append((name, {str(arg) for arg in given}, node.lineno))
    return found


def test_every_error_is_raised_with_the_particulars_that_it_needs() -> None:
    by_name = {kind.name.upper(): kind for kind in KINDS}
    calls = [
        (path.relative_to(ROOT), *call)
        for package in ("protocol", "replicad", "receiver")
        for path in (ROOT / package).rglob("*.py")
        for call in raised_with(path.read_text())
    ]
    assert len(calls) > 20
    wrong = [
        f"{path}:{line}: {name} needs {sorted(fields(by_name[name].sentence))}, not {sorted(given)}"
        for path, name, given, line in calls
        if name in by_name and not set(fields(by_name[name].sentence)) <= given
    ]
    assert not wrong


def test_the_document_is_up_to_date() -> None:
    said = errors_doc.PATH.read_text(encoding="utf-8")
    assert said == errors_doc.document(), "run: python -m protocol.errors_doc"


@EVERY
def test_the_document_names_it(kind: Kind) -> None:
    text = errors_doc.document()
    assert f"### {kind.code} `{kind.name}`" in text
    assert "{" not in text.partition("\n## ")[2]
