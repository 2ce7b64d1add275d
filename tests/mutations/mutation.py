"""What a mutation is: the smallest change that breaks a promise."""

from __future__ import annotations

from dataclasses import dataclass

MODEL = "tests/properties/test_session_walks.py::test_walks_find_nothing"
"""Random walks through the state machine over both ends (docs/promises.md)."""

MAP_MODEL = "tests/properties/test_dirtymap_mutants.py::test_the_world_itself_is_right"
"""Random walks through the state machine over the dirty map alone, with kill -9 between any two
stores."""


@dataclass(frozen=True, slots=True)
class Edit:
    """In ``file``, the text ``old``, which is there exactly once, becomes ``new``."""

    file: str
    old: str
    new: str

    def apply(self, text: str) -> str:
        """The changed text.

        Raises:
            ValueError: ``old`` is not there, or more than once: the mutation has to be renewed.
        """
        found = text.count(self.old)
        if found != 1:
            raise ValueError(f"{self.file} has this text {found} times, not once:\n{self.old}")
        return text.replace(self.old, self.new)


@dataclass(frozen=True, slots=True)
class Mutation:
    """One way to break a promise.

    Attributes:
        name: what is done wrongly, in words with dashes.
        promise: its number in docs/promises.md.
        edits: usually one.
        tests: each of them must fail by an assertion of its own, and passes without the mutation.
        quick: its tests take a second or two and need no root, so CI applies it.
    """

    name: str
    promise: int
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]
    quick: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        """The files that it changes."""
        return tuple(dict.fromkeys(edit.file for edit in self.edits))


def one(
    name: str,
    promise: int,
    file: str,
    old: str,
    new: str,
    *tests: str,
    quick: bool = False,
) -> Mutation:
    """A mutation of one edit."""
    return Mutation(name, promise, (Edit(file, old, new),), tests, quick)
