"""The quick mutations are applied in CI, each with the first of its tests; all fit the tree.

``./run test-mutations`` applies all, with all of their tests.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.house.tree import ROOT
from tests.mutations.listed import MUTATIONS
from tests.mutations.mutation import Mutation, one
from tests.mutations.runner import Copy

pytestmark = pytest.mark.timeout(400)

QUICK = [mutation for mutation in MUTATIONS if mutation.quick]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    return Copy(tmp_path_factory.mktemp("copy"))


@pytest.mark.parametrize("mutation", QUICK, ids=lambda mutation: mutation.name)
def test_a_quick_mutation_is_noticed(mutation: Mutation, copy: Copy) -> None:
    verdict = copy.run(replace(mutation, tests=mutation.tests[:1]))
    assert verdict.caught, verdict.output


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_fits_the_tree(mutation: Mutation) -> None:
    texts: dict[str, str] = {}
    for edit in mutation.edits:
        before = texts.get(edit.file) or (ROOT / edit.file).read_text()
        texts[edit.file] = edit.apply(before)
        assert texts[edit.file] != before
    assert mutation.tests


def test_names_are_unique_and_every_promise_is_broken() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
    assert {mutation.promise for mutation in MUTATIONS} == set(range(1, 11))


UNITS = "tests/protocol/test_activation.py::test_a_code_has_its_sizes"


def test_what_changes_nothing_survives(copy: Copy) -> None:
    mutation = one("h", 1, "replicad/inflight.py", "batches in flight of one", "batches of", UNITS)
    before = (copy.place / "replicad/inflight.py").read_text()
    verdict = copy.run(mutation)
    assert verdict.survived == (UNITS,)
    assert (copy.place / "replicad/inflight.py").read_text() == before


@pytest.mark.parametrize(
    "mutation",
    [
        one("no such text", 1, "replicad/inflight.py", "nobody wrote this", "", UNITS),
        one("twice", 1, "replicad/inflight.py", "self", "it", UNITS),
        one(
            "no module", 1, "protocol/activation.py", "import binascii\n", "import no_such\n", UNITS
        ),
        one("no test", 1, "replicad/inflight.py", "batches in flight of one", "", f"{UNITS}s"),
    ],
    ids=lambda mutation: mutation.name,
)
def test_a_mutation_that_proves_nothing_is_an_error(mutation: Mutation, copy: Copy) -> None:
    with pytest.raises(ValueError, match=r"text|pytest ended"):
        copy.run(mutation)
