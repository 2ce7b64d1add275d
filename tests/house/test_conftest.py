"""A root test is never skipped unseen: the rule of `conftest.py`, on suites that break it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.house.tree import ROOT

if TYPE_CHECKING:
    from pathlib import Path

OUTSIDE = "import pytest\n"
SUITES = {
    "the test skips": "@pytest.mark.root\ndef test_it():\n    pytest.skip('no zram')\n",
    "a mark skips": "@pytest.mark.root\n@pytest.mark.skip('no zram')\ndef test_it(): pass\n",
    "a fixture skips": (
        "@pytest.fixture\ndef device(): pytest.skip('no zram')\n"
        "@pytest.mark.root\ndef test_it(device): pass\n"
    ),
    "the module skips": "pytest.skip('no zram', allow_module_level=True)\n",
}


def outcomes(directory: Path, source: str, *, required: bool) -> dict[str, int]:
    """Run the source as a suite under our conftest; how many of each outcome."""
    shutil.copy(ROOT / "tests" / "conftest.py", directory / "conftest.py")
    (directory / "pytest.ini").write_text("[pytest]\nmarkers = root: needs root\n")
    (directory / "test_suite.py").write_text(OUTSIDE + source)
    # PYTEST_ADDOPTS of the outer run may name directories: the suite would then start itself
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rA", str(directory)],
        env={**clean, "REPLICAD_REQUIRE_ROOT_TESTS": "1" if required else "0"},
        cwd=directory,
        timeout=60,
        capture_output=True,
        text=True,
        check=False,
    )
    closing = done.stdout.rstrip().splitlines()[-1]
    found = {kind: int(count) for count, kind in re.findall(r"(\d+) ([a-z]+)", closing)}
    if required and "skipped" not in found:
        assert "a root test may not" in done.stdout or "a module may not" in done.stdout
    return found


@pytest.mark.parametrize("source", SUITES.values(), ids=SUITES.keys())
def test_a_skipped_root_test_fails_where_it_is_required(tmp_path: Path, source: str) -> None:
    assert outcomes(tmp_path, source, required=True).keys() <= {"failed", "error", "errors"}


@pytest.mark.parametrize("source", SUITES.values(), ids=SUITES.keys())
def test_elsewhere_it_is_skipped(tmp_path: Path, source: str) -> None:
    assert outcomes(tmp_path, source, required=False) == {"skipped": 1}


def test_other_tests_may_skip_or_fail_as_expected_anywhere(tmp_path: Path) -> None:
    source = (
        "def test_one(): pytest.skip('no shellcheck')\n"
        "@pytest.mark.xfail\ndef test_two(): assert False\n"
    )
    assert outcomes(tmp_path, source, required=True) == {"skipped": 1, "xfailed": 1}
