"""The demo's stage: chosen where there is room, and left as it was found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from demo import signals, stage
from demo.disk import busy, loop_disk

SIZE = 64 << 20
KILLED = """
import sys, time
from pathlib import Path
from demo import signals, stage
from demo.disk import busy, loop_disk
with stage.directory(Path(sys.argv[1])) as place, loop_disk(place, 64 << 20) as (device, mount):
    with busy(place, "files", mount):
        print(place, device, flush=True)
        time.sleep(60)
"""


def using(place: Path) -> list[str]:
    """Processes, mounts and loop devices that have to do with a directory."""
    found = [line for line in Path("/proc/mounts").read_text().splitlines() if str(place) in line]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes()
        except OSError:
            continue
        if str(place).encode() in words:
            found.append(words.decode(errors="replace"))
    return found + stage.loops(place)


def test_a_directory_that_is_in_use_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "roots", lambda: [tmp_path])
    with stage.directory(tmp_path) as place:
        assert stage.clear_leftovers() == []
        assert place.exists()
    assert not place.exists()


def test_a_directory_whose_owner_is_gone_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "roots", lambda: [tmp_path])
    place = tmp_path / f"{stage.PREFIX}x"
    place.mkdir()
    (place / "lock").touch()
    process = subprocess.Popen(["sleep", "60"])
    stage.record_process(place, process.pid)
    stage.record_process(place, os.getpid())
    # a recorded number that another process has by now: this one must not be ended
    records = (place / "processes").read_text().splitlines()
    (place / "processes").write_text(f"{records[0]}\n{os.getpid()} 1\n")
    assert stage.clear_leftovers() == [place]
    assert process.wait(10) != 0
    assert not place.exists()


def test_too_large_a_demo_says_what_to_set() -> None:
    with pytest.raises(RuntimeError, match="DEMO_SIZE"):
        stage.choose_root(1 << 60)


@pytest.mark.root
def test_a_loop_disk_is_undone(tmp_path: Path) -> None:
    with stage.directory(tmp_path) as place:
        with loop_disk(place, SIZE) as (device, mount):
            assert mount.is_mount()
            assert stage.loops(place) == [device]
        assert using(place) == []


@pytest.mark.root
def test_what_a_killed_demo_leaves_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "roots", lambda: [tmp_path])
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    with process:
        assert process.stdout is not None
        place = Path(process.stdout.readline().split()[0])
        time.sleep(0.2)
        process.kill()
    assert using(place)
    assert stage.clear_leftovers() == [place]
    assert using(place) == []
    assert not place.exists()


@pytest.mark.root
def test_a_load_that_ends_early_is_an_error(tmp_path: Path) -> None:
    with stage.directory(tmp_path) as place, loop_disk(place, SIZE) as (_, mount):
        load = busy(place, "files", mount)
        load.__enter__()
        writer = stage.recorded(place)[0]
        os.kill(writer, signal.SIGKILL)
        os.waitid(os.P_PID, writer, os.WEXITED | os.WNOWAIT)
        with pytest.raises(RuntimeError, match="ended before"):
            load.__exit__(None, None, None)


def test_a_signal_waits_for_the_end_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {number: signal.getsignal(number) for number in signals.SIGNALS}
    monkeypatch.setattr(signals, "_waiting", [])
    done = []
    try:
        signals.catch()
        with pytest.raises(SystemExit) as caught, signals.undisturbed():  # noqa: PT012
            signal.raise_signal(signal.SIGTERM)
            done.append("all of the block")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert done
    assert caught.value.code == 128 + signal.SIGTERM
