"""What a fuzz target is, and the list of all of them.

Declaring is registering: a function with :func:`target` above it is found by the tests, by
``./run fuzz`` and by the corpus. The examples are valid input; every engine begins with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import strategies as st

CORPUS = Path(__file__).parent / "corpus"

LONGEST = 8192
"""Bytes of an input unless its target says otherwise: longer ones find nothing new here, only
slower. What size alone does is tested with sizes (tests/integration/test_hostile_*)."""


@dataclass(frozen=True)
class Target:
    """One target.

    Attributes:
        run: takes any bytes; what it raises is a finding.
        seeds: makes valid examples.
        shaped: makes a strategy of input that gets past the first checks; None: mutations of
            the seeds do.
        longest: bytes of an input.
    """

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    shaped: Callable[[], st.SearchStrategy[bytes]] | None = None
    longest: int = LONGEST

    @property
    def corpus(self) -> Path:
        """Where its kept inputs are."""
        return CORPUS / self.name

    def kept(self) -> list[Path]:
        """The kept inputs."""
        return sorted(self.corpus.glob("*")) if self.corpus.is_dir() else []

    def inputs(self) -> st.SearchStrategy[bytes]:
        """What hypothesis tries: shaped input, bent examples, and noise."""
        examples = [*self.seeds(), *(path.read_bytes() for path in self.kept())]
        ways = [st.binary(max_size=512)]
        if examples:
            ways.append(bent(examples))
        if self.shaped is not None:
            ways += [self.shaped()] * 2
        return st.one_of(*ways)


@dataclass
class _Registry:
    targets: dict[str, Target] = field(default_factory=dict)


_registry = _Registry()


def target(
    seeds: Callable[[], Iterable[bytes]],
    shaped: Callable[[], st.SearchStrategy[bytes]] | None = None,
    longest: int = LONGEST,
) -> Callable[[Callable[[bytes], None]], Callable[[bytes], None]]:
    """Declares the function below it as a target of its own name."""

    def declare(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
        name = run.__name__
        if name in _registry.targets:
            raise ValueError(f"two targets are called {name}")
        _registry.targets[name] = Target(name, run, seeds, shaped, longest)
        return run

    return declare


def all_targets() -> dict[str, Target]:
    """Every target by name."""
    from tests.fuzz import targets

    assert targets.MODULES
    return dict(sorted(_registry.targets.items()))


def bent(examples: list[bytes]) -> st.SearchStrategy[bytes]:
    """Examples with some bytes changed, cut out, doubled or put in."""
    edit = st.tuples(st.integers(0, 1 << 16), st.integers(0, 3), st.binary(max_size=6))
    return st.builds(_bend, st.sampled_from(examples), st.lists(edit, max_size=6))


def _bend(example: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    data = bytearray(example)
    for place, how, said in edits:
        at = place % (len(data) + 1)
        if how == 0:
            data[at : at + len(said)] = said
        elif how == 1:
            data[at:at] = said
        elif how == 2:
            del data[at : at + max(1, len(said))]
        else:
            data[at:at] = data[at : at + 16 * len(said)]
    return bytes(data)
