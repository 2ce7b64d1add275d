"""The demo as users run it: it ends with ``identical`` and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo import stage
from replicad.tracker.pins import pin_directory

TREE = Path(__file__).parents[2]
PLACE = re.compile(r"/\S*/replicad-demo-[^/\s]+")


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "demo", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=TREE,
        env={**os.environ, "DEMO_SIZE": "128M", "COLUMNS": "200"},
    )


def assert_nothing_is_left(text: str) -> None:
    found = PLACE.search(text)
    assert found, text
    place = Path(found[0])
    assert not place.exists()
    assert str(place) not in Path("/proc/self/mountinfo").read_text()
    assert stage.loops(place) == []
    assert not pin_directory(place / "replicad-run").exists()
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert str(place).encode() not in process.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue


def finish(*words: str) -> str:
    with start(*words) as process:
        text, _ = process.communicate(timeout=170)
    assert process.returncode == 0, text
    assert "identical" in text.splitlines()
    assert "DIFFERENT" not in text
    assert_nothing_is_left(text)
    return text


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_three_checkpoints_under_load_are_identical() -> None:
    text = finish()
    assert text.count(": frozen") == 4
    assert len(re.findall(r"checkpoint \d+: frozen \d+ ms, identical", text)) == 3
    assert "tracked by ebpf" in text


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_an_image_file_is_compared_and_the_rest_is_said() -> None:
    assert "not shown" in finish("image")


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", ["busy with", "the first copy", "checkpoint 1"])
def test_a_signal_in_the_middle_leaves_nothing(number: signal.Signals, when: str) -> None:
    seen = []
    with start() as process:
        assert process.stdout is not None
        for line in process.stdout:
            seen.append(line)
            if when in line:
                process.send_signal(number)
                break
        rest, _ = process.communicate(timeout=100)
    text = "".join(seen) + rest
    assert process.returncode == 128 + number, text
    assert "identical" not in text.splitlines()
    assert_nothing_is_left(text)
