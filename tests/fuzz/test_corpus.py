"""Every target in CI: its examples, its kept corpus, and a short run of hypothesis.

A finding is mended and its input kept in ``corpus/TARGET/``, so it stays mended. The long runs,
guided by coverage, are ``./run fuzz``.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from protocol.wire.rules import RULES
from tests.fuzz.registry import CORPUS, Target, all_targets
from tests.fuzz.targets.control import conversation, nearly_right
from tests.house.tree import ROOT, tracked

TARGETS = all_targets()

EXAMPLES = int(os.environ.get("REPLICAD_FUZZ_EXAMPLES", "25"))
"""Inputs that hypothesis tries for each target here."""

KEPT_BYTES_MAX = 16 << 10
"""Bytes of one kept input: a corpus is read by people when something breaks."""

KEPT_FILES_MAX = 60
"""Kept inputs of one target."""

each = pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))


@each
def test_the_examples_and_the_kept_corpus_are_understood_or_refused(target: Target) -> None:
    examples = list(target.seeds())
    assert examples
    for example in examples:
        target.run(example)
    for path in target.kept():
        target.run(path.read_bytes())


@each
def test_hypothesis_finds_nothing(target: Target) -> None:
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs())
    def tried(data: bytes) -> None:
        target.run(data[: target.longest])

    tried()


def test_no_value_of_any_message_gets_past_what_the_daemons_rely_on() -> None:
    """Exhaustive where hypothesis would need luck: one hostile value in a message that is right
    otherwise."""
    tried: set[str] = set()
    for name, data in nearly_right():
        tried.add(name)
        conversation(data)
    assert tried == {kind.__name__ for kind in RULES}


def test_the_corpus_is_of_targets_that_exist_small_and_without_doubles() -> None:
    kept = [ROOT / path for path in tracked("tests/fuzz/corpus/*")]
    assert kept
    assert {path.parent.name for path in kept} <= set(TARGETS)
    assert all(path.stat().st_size <= KEPT_BYTES_MAX for path in kept)
    for target in TARGETS.values():
        contents = [path.read_bytes() for path in target.kept()]
        assert len(contents) == len(set(contents)), target.name
        assert len(contents) <= KEPT_FILES_MAX, target.name


def test_the_corpus_is_binary_to_git() -> None:
    """A line end that git changed would make another input of it."""
    attributes = (ROOT / ".gitattributes").read_text()
    assert "tests/fuzz/corpus/** binary" in attributes
    assert CORPUS.is_dir()


def test_a_target_that_lets_something_out_is_found() -> None:
    """The engine notices: a parser with a bug, and hypothesis on its examples."""

    def run(data: bytes) -> None:
        if b"{" in data and b"}" not in data:
            raise KeyError(data)

    bad = Target("bad", run, lambda: [b'{"a": 1}'])

    @settings(max_examples=300, derandomize=True, database=None, deadline=None)
    @given(bad.inputs())
    def tried(data: bytes) -> None:
        bad.run(data)

    with pytest.raises(KeyError):
        tried()


@given(st.binary(max_size=64))
@settings(max_examples=50, database=None)
def test_inputs_stay_within_their_length(data: bytes) -> None:
    assert all(target.longest <= 16 << 10 for target in TARGETS.values())
    TARGETS["activation"].run(data)
