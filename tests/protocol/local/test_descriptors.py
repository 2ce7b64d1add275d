"""The limit of open files, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = (
    "import resource; from protocol.local.descriptors import allow_many;"
    "resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard})); allow_many();"
    "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
)


@pytest.mark.parametrize(
    ("soft", "hard", "after"), [(64, 512, "512 512"), (300, 300, "300 300"), (100, 400, "400 400")]
)
def test_it_is_raised_as_far_as_is_allowed(soft: int, hard: int, after: str) -> None:
    script = SCRIPT.format(soft=soft, hard=hard)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.strip() == after
