"""What every file keeps to: it can be read in one sitting, and names no place to download from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.house.tree import ROOT, tracked

LINES_AT_MOST = 400

# Put together here, so that this file does not hold what it looks for.
REGISTRIES = [
    "".join(parts)
    for parts in (
        ("pypi", ".org"),
        ("pypi", ".python.org"),
        ("pythonhosted", ".org"),
        ("debian", ".org"),
        ("ubuntu", ".com"),
        ("fedoraproject", ".org"),
        ("docker", ".io"),
        ("ghcr", ".io"),
        ("quay", ".io"),
        ("npmjs", ".org"),
        ("crates", ".io"),
        ("proxy.golang", ".org"),
        ("index", "-url"),
        ("trusted", "-host"),
    )
]


# The options that keep such a line out of the lock have the name in them.
def _allowed(line: str) -> bool:
    return "--no-emit-" in line


def registries_in(text: str) -> list[str]:
    """What the text says about where packages come from."""
    return [
        f"line {number}: {name}"
        for number, line in enumerate(text.lower().splitlines(), 1)
        for name in REGISTRIES
        if name in line and not _allowed(line)
    ]


def test_no_file_names_a_registry_or_a_mirror() -> None:
    found = [
        f"{path} {hit}"
        for path in tracked()
        for hit in registries_in((ROOT / path).read_text(errors="replace"))
    ]
    assert not found


@pytest.mark.parametrize("name", REGISTRIES)
def test_a_registry_would_be_found(name: str) -> None:
    assert registries_in(f"fine\n# from HTTPS://Files.{name}/simple\n") == [f"line 2: {name}"]


def too_long(sources: dict[Path, str]) -> list[str]:
    """The Python files over the limit."""
    return [
        f"{path}: {count} lines"
        for path, source in sources.items()
        if (count := len(source.splitlines())) > LINES_AT_MOST
    ]


def test_every_python_file_can_be_read_in_one_sitting() -> None:
    assert not too_long({path: (ROOT / path).read_text() for path in tracked("*.py")})


def test_a_long_file_would_be_found() -> None:
    fits, long = "x\n" * LINES_AT_MOST, "x\n" * (LINES_AT_MOST + 1)
    assert too_long({Path("fits.py"): fits, Path("long.py"): long}) == ["long.py: 401 lines"]


def test_every_module_says_why_it_exists() -> None:
    silent = [
        str(path)
        for path in tracked("protocol/*.py", "replicad/*.py", "receiver/*.py")
        if not (ROOT / path).read_text().lstrip().startswith(('"""', 'r"""', "#!"))
    ]
    assert not silent
