"""What does not do the same on every Python that is supported (3.11.0 and later)."""

from __future__ import annotations

import ast

from tests.house.tree import ROOT, tracked

RAISES = """
try:
    work()
except* OSError as errors:
    {}
"""


def raises_in_groups(source: str) -> list[int]:
    """Lines of ``raise`` in an ``except*``: before 3.11.4 what is raised there comes out in a group
    even alone, so that no ``except`` further out finds it (as in Debian 12, which has 3.11.2)."""
    return [
        found.lineno
        for block in ast.walk(ast.parse(source))
        if isinstance(block, ast.TryStar)
        for handler in block.handlers
        for found in ast.walk(handler)
        if isinstance(found, ast.Raise)
    ]


def test_nothing_is_raised_where_it_would_come_out_in_a_group() -> None:
    found = {str(path): raises_in_groups((ROOT / path).read_text()) for path in tracked("*.py")}
    assert not {path: lines for path, lines in found.items() if lines}


def test_what_would_come_out_in_a_group_is_found() -> None:
    assert raises_in_groups(RAISES.format("raise errors.exceptions[0] from None")) == [5]
    assert not raises_in_groups(RAISES.format("failed = errors.exceptions[0]"))
