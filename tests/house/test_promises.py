"""docs/promises.md names what there is: every file, every test, every mutation."""

from __future__ import annotations

import ast

import pytest

from tests.house.tree import ROOT
from tests.mutations.document import PROMISES, document
from tests.mutations.listed import MUTATIONS

TESTS = sorted({test for mutation in MUTATIONS for test in mutation.tests})


def test_the_document_is_up_to_date() -> None:
    """If not: .venv/bin/python -m tests.mutations --document >docs/promises.md"""
    assert (ROOT / "docs/promises.md").read_text() == document()


def test_it_names_every_mutation() -> None:
    text = (ROOT / "docs/promises.md").read_text()
    assert not [mutation.name for mutation in MUTATIONS if f"`{mutation.name}`" not in text]


@pytest.mark.parametrize("test", TESTS)
def test_every_test_exists(test: str) -> None:
    file, *names = test.split("::")
    body: list[ast.stmt] = ast.parse((ROOT / file).read_text()).body
    for name in names:
        (found,) = [each for each in body if getattr(each, "name", None) == name]
        body = getattr(found, "body", [])
    assert body


def test_every_file_exists() -> None:
    files = {file for promise in PROMISES.values() for file, _ in promise.holders}
    assert not [file for file in sorted(files) if not (ROOT / file).is_file()]
