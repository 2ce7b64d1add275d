"""Applies mutations to a copy of the tree and sees whether their tests notice.

The copy is made once; each mutation is written into it, the tests run there in a process of their
own (the copy stands before the installed tree on ``PYTHONPATH``, so the daemons that tests start
are mutated too), and the files are put back. A test counts as having noticed when it *failed*:
a module that cannot be imported any more proves nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.house.tree import ROOT, tracked
from tests.mutations.mutation import Mutation

BPF_SOURCE = "replicad/tracker/bpf/tracker.bpf.c"
BPF_OBJECT = "replicad/tracker/bpf/tracker.bpf.o"

TEST_SECONDS = 1800.0
"""For all tests of one run. A test that hangs is ended, and fails, by its own limit long before."""

_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
_HERE = "import replicad, receiver, protocol; print(replicad.__file__)"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutation. ``survived``: the tests that did not notice."""

    mutation: Mutation
    survived: tuple[str, ...]
    seconds: float
    output: str

    @property
    def caught(self) -> bool:
        """Whether every test that should notice did."""
        return not self.survived


class Copy:
    """A copy of the tree at ``place``, in which mutations come and go."""

    def __init__(self, place: Path) -> None:
        self.place = place
        for path in tracked():
            target = place / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, target)
        if (ROOT / BPF_OBJECT).exists():
            shutil.copy2(ROOT / BPF_OBJECT, place / BPF_OBJECT)
        (place / ".venv").symlink_to(ROOT / ".venv")
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(place),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HYPOTHESIS_PROFILE": "mutation",
        }
        found = self._python("-c", _HERE).stdout.strip()
        if not found.startswith(f"{place}{os.sep}"):
            raise RuntimeError(f"the tests would run {found}, not the copy")

    def run(self, mutation: Mutation) -> Verdict:
        """Apply it, run its tests, put everything back.

        Raises:
            ValueError: its text is not there; or its tests do not exist (any more).
        """
        begun = time.monotonic()
        kept = {file: (self.place / file).read_text() for file in mutation.files}
        try:
            for edit in mutation.edits:
                path = self.place / edit.file
                path.write_text(edit.apply(path.read_text()))
            self._build(mutation)
            passed, output = self.passing(mutation.tests)
        finally:
            for file, text in kept.items():
                (self.place / file).write_text(text)
            self._build(mutation)
        return Verdict(mutation, passed, time.monotonic() - begun, output)

    def passing(self, tests: Sequence[str]) -> tuple[tuple[str, ...], str]:
        """Which of these tests do not fail, and what pytest said.

        Raises:
            ValueError: pytest could not even run them.
        """
        options = ["-q", "-rfE", "--tb=short", "-p", "no:cacheprovider"]
        if len(tests) == 1:
            options.append("-x")
        done = self._python("-m", "pytest", *options, *tests)
        if done.returncode < 0:
            return (), f"killed by signal {-done.returncode}"  # nobody overlooks that
        if done.returncode not in {0, 1}:
            raise ValueError(f"pytest ended with {done.returncode}:\n{done.stdout[-3000:]}")
        failed = [name.split("[")[0] for name in _FAILED.findall(done.stdout)]
        return tuple(test for test in tests if not _among(test, failed)), done.stdout

    def _build(self, mutation: Mutation) -> None:
        """Compile the tracker anew where the mutation is in it."""
        if BPF_SOURCE in mutation.files:
            done = self._python("replicad/tracker/build.py")
            if done.returncode:
                raise ValueError(f"{mutation.name} does not compile:\n{done.stderr[-3000:]}")

    def _python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.place,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            out, errors = process.communicate(timeout=TEST_SECONDS)
        except BaseException:
            # With the daemons that its tests have started; also when we are told to stop.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.communicate()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, errors)


def _among(test: str, failed: Sequence[str]) -> bool:
    """Whether a test, or one of the file or class ``test``, has failed."""
    return any(name == test or name.startswith(f"{test}::") for name in failed)
