"""The files of this repository as the tests of the house see them: what git tracks or would."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def tracked(*patterns: str) -> list[Path]:
    """The files that are or would be committed (`git add .`), relative to the root."""
    git = ["git", "-c", f"safe.directory={ROOT}"]
    listing = subprocess.run(
        [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    names = sorted({name.decode() for name in listing.split(b"\0") if name})
    # a file that is removed in the tree and not yet in the index is no file
    return [Path(name) for name in names if (ROOT / name).is_file()]
