"""The two engines: how one target is run for so many seconds, and what of it is kept."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.registry import Target

ATHERIS = "atheris==3.0.0"

INPUT_SECONDS = 20
"""An input that takes longer is a finding: nothing here is more than a few kilobytes."""

MEMORY_MB = 1536
"""Likewise memory: the target's own imports are some 150 MB with their instrumentation."""

KEPT_BYTES_MAX = 4096
KEPT_FILES_MAX = 40
"""Of one target, beside findings; tests/fuzz/test_corpus.py allows some more."""

ROUND = 400
"""Inputs of hypothesis between two looks at the clock."""


class EngineMissingError(Exception):
    """An engine cannot be had here; ``str()`` says why."""


@dataclass(frozen=True)
class Outcome:
    """What a run of one target came to."""

    target: str
    engine: str
    seconds: float
    inputs: int
    findings: tuple[Path, ...]
    said: str = ""

    def __str__(self) -> str:
        rate = self.inputs / self.seconds if self.seconds else 0.0
        line = f"{self.target:24} {self.inputs:9} inputs {rate:8.0f}/s"
        return line + "".join(f"\n  FOUND {path}\n{self.said}" for path in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "target": self.target,
            "engine": self.engine,
            "seconds": round(self.seconds, 1),
            "inputs": self.inputs,
            "findings": [str(path) for path in self.findings],
            "said": self.said,
        }


def name_of(data: bytes) -> str:
    """What a kept input is called."""
    return hashlib.sha256(data).hexdigest()[:16]


# --- hypothesis -----------------------------------------------------------------------------------


def run_hypothesis(target: Target, seconds: float, place: Path) -> Outcome:
    """Rounds of shaped and bent input with fresh seeds until the time is over."""
    begun, inputs = time.monotonic(), 0
    failed: list[bytes] = []
    inputs_of = target.inputs()

    def tried(data: bytes) -> None:
        nonlocal inputs
        inputs += 1
        cut = data[: target.longest]
        try:
            target.run(cut)
        except BaseException:
            failed.append(cut)  # the last one is the smallest, when hypothesis has shrunk it
            raise

    while time.monotonic() - begun < seconds:
        chosen = settings(
            max_examples=ROUND,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        try:
            seed(random.getrandbits(64))(chosen(given(inputs_of)(tried)))()
        except Exception:  # noqa: BLE001 - whatever a target lets out is the finding
            path = _store(place / "findings" / target.name, failed[-1])
            spent = time.monotonic() - begun
            return Outcome(
                target.name, "hypothesis", spent, inputs, (path,), traceback.format_exc(limit=-6)
            )
    return Outcome(target.name, "hypothesis", time.monotonic() - begun, inputs, ())


def _store(folder: Path, data: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name_of(data)
    path.write_bytes(data)
    return path


# --- atheris --------------------------------------------------------------------------------------


def run_atheris(target: Target, seconds: float, place: Path) -> Outcome:
    """libFuzzer over the target in a process of its own, from examples and kept corpus."""
    findings = place / "findings" / target.name
    findings.mkdir(parents=True, exist_ok=True)
    before = set(findings.iterdir())
    begun = time.monotonic()
    done = _libfuzzer(
        target,
        place,
        f"-max_total_time={max(1, round(seconds))}",
        f"-max_len={target.longest}",
        f"-timeout={INPUT_SECONDS}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-artifact_prefix={findings}/",
        "-print_final_stats=1",
        str(_working(target, place)),
        *([str(target.corpus)] if target.corpus.is_dir() else []),
    )
    executed = re.search(r"stat::number_of_executed_units: +(\d+)", done.stderr)
    found = tuple(sorted(set(findings.iterdir()) - before))
    if done.returncode and not found:
        raise EngineMissingError(f"atheris ended with {done.returncode}: {done.stderr[-2000:]}")
    said = (done.stdout + done.stderr)[-6000:] if found else ""
    spent = time.monotonic() - begun
    return Outcome(target.name, "atheris", spent, int(executed[1]) if executed else 0, found, said)


def _working(target: Target, place: Path) -> Path:
    """The corpus that grows from run to run, begun with the examples."""
    folder = place / "work" / target.name
    for example in target.seeds():
        _store(folder, example)
    return folder


def _libfuzzer(target: Target, place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    library = _installed(place)
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz.guided", target.name, *arguments],
        env={**os.environ, "PYTHONPATH": f"{library}{os.pathsep}{Path.cwd()}"},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def _installed(place: Path) -> Path:
    """Atheris beside the virtual environment, so that the locks stay what they are.

    Raises:
        EngineMissingError: it cannot be installed here.
    """
    library = place / "atheris"
    if not (library / "atheris").is_dir():
        shutil.rmtree(library, ignore_errors=True)
        fresh = place / "atheris.new"
        shutil.rmtree(fresh, ignore_errors=True)
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", fresh, ATHERIS],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise EngineMissingError(f"{ATHERIS} cannot be installed: {done.stderr[-300:].strip()}")
        fresh.rename(library)
    return library


def keep(target: Target, place: Path) -> None:
    """Put the smallest inputs that reach code which no kept one reaches into the corpus."""
    target.corpus.mkdir(parents=True, exist_ok=True)
    merged = place / "merged" / target.name
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir(parents=True)
    work = str(_working(target, place))
    _libfuzzer(target, place, "-merge=1", f"-timeout={INPUT_SECONDS}", str(merged), work)
    known = {path.read_bytes() for path in target.kept()} | set(target.seeds())
    room = KEPT_FILES_MAX - len(target.kept())
    small = sorted(merged.iterdir(), key=lambda path: path.stat().st_size)
    for path in small:
        data = path.read_bytes()
        if room > 0 and len(data) <= KEPT_BYTES_MAX and data not in known:
            _store(target.corpus, data)
            known.add(data)
            room -= 1


ENGINES: dict[str, Callable[[Target, float, Path], Outcome]] = {
    "atheris": run_atheris,
    "hypothesis": run_hypothesis,
}
