"""`protocol` stands on its own, and the two daemons know each other only through it."""

from __future__ import annotations

import ast

import pytest

from tests.house.tree import ROOT, tracked

FORBIDDEN = {
    "protocol": {"replicad", "receiver", "tests", "bench", "demo"},
    "replicad": {"receiver", "tests", "bench", "demo"},
    "receiver": {"replicad", "tests", "bench", "demo"},
}

# Imports by name, which an import statement does not show.
BY_NAME = {"import_module", "__import__", "find_spec"}


def imported(source: str) -> dict[str, int]:
    """Every top-level package that a module names in an import, with the line."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in BY_NAME:
                names = [str(node.args[0].value)]
        for name in names:
            found.setdefault(name.partition(".")[0], getattr(node, "lineno", 0))
    return found


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_nothing_is_imported_across_a_border(package: str) -> None:
    broken = [
        f"{path}:{line} imports {name}"
        for path in tracked(f"{package}/*.py")
        for name, line in imported((ROOT / path).read_text()).items()
        if name in FORBIDDEN[package]
    ]
    assert not broken


@pytest.mark.parametrize(
    "source",
    [
        "import receiver.disk",
        "import os, receiver",
        "from receiver import jobs",
        "from receiver.jobs.table import Job",
        "if True:\n    def f():\n        import receiver as r",
        "import importlib\nimportlib.import_module('receiver.disk')",
        "__import__('receiver')",
    ],
)
def test_every_way_to_import_is_seen(source: str) -> None:
    assert "receiver" in imported(source)


def test_a_name_that_only_looks_alike_is_not_an_import() -> None:
    assert "receiver" not in imported("import receivers\nreceiver = 1\nfrom . import receiver\n")
