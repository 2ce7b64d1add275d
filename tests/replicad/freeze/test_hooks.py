from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
import uvloop

from protocol.errors import LocalFault
from replicad.freeze.hooks import (
    OUTPUT_BYTES,
    HookContext,
    HookRun,
    Phase,
    find_hooks,
    raise_failed,
    run_hooks,
)

CONTEXT = HookContext("job-1", "web", 7, ("/dev/vda", "/dev/vdb"))


def hook(directory: Path, phase: str, name: str, text: str, mode: int = 0o755) -> Path:
    folder = directory / f"{phase}.d"
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(mode)
    return path


def ran(directory: Path, phase: Phase, limit: float = 10.0) -> list[HookRun]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # As in the daemon.
        return runner.run(run_hooks(directory, phase, CONTEXT, limit))


def gone(pid: int) -> bool:
    """Whether it ends: a killed process is seen for a moment, then as a zombie."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            if ") Z " in Path(f"/proc/{pid}/stat").read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
    return False


def test_no_directory_is_no_hook(tmp_path: Path) -> None:
    assert ran(tmp_path, "pre-freeze") == []


def test_in_name_order_with_the_environment_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "of the daemon")
    hook(tmp_path, "frozen", "20-b", "echo second")
    hook(tmp_path, "frozen", "10-a", "env")
    hook(tmp_path, "frozen", "README", "not run", 0o644)
    hook(tmp_path, "frozen", ".hidden", "exit 1")
    first, second = ran(tmp_path, "frozen")
    assert (first.ok, second.ok, second.output) == (True, True, "second\n")
    for line in (
        "REPLICAD_JOB=job-1",
        "REPLICAD_JOB_NAME=web",
        "REPLICAD_EPOCH=7",
        "REPLICAD_PHASE=frozen",
        "REPLICAD_DISKS=/dev/vda\n/dev/vdb",
        "JOB=job-1",
        "EPOCH=7",
    ):
        assert line in first.output
    assert "SECRET" not in first.output


def test_a_failure_ends_the_phase_and_is_a_fault(tmp_path: Path) -> None:
    hook(tmp_path, "pre-freeze", "1", "echo database is down >&2; exit 3")
    hook(tmp_path, "pre-freeze", "2", "true")
    runs = ran(tmp_path, "pre-freeze")
    assert [(run.ok, run.detail) for run in runs] == [(False, "it ended with exit code 3")]
    with pytest.raises(LocalFault, match=r"RPL-6005.*exit code 3; it said: database is down"):
        raise_failed(runs)


def test_after_the_thaw_all_are_run(tmp_path: Path) -> None:
    hook(tmp_path, "post-thaw", "1", "exit 1")
    hook(tmp_path, "post-thaw", "2", "kill -9 $$")
    hook(tmp_path, "post-thaw", "3", "true")
    assert [run.detail for run in ran(tmp_path, "post-thaw")] == [
        "it ended with exit code 1",
        "killed by signal 9",
        "",
    ]


def test_nothing_of_a_hook_outlives_its_limit(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    hook(tmp_path, "frozen", "1", f"trap '' TERM; sleep 100 & echo $! $$ > {pids}; wait")
    begun = time.monotonic()
    (run,) = ran(tmp_path, "frozen", 0.5)
    assert time.monotonic() - begun < 3
    assert run.detail == "it ran longer than 0.5 s and was killed"
    assert all(gone(int(pid)) for pid in pids.read_text().split())


def test_what_a_hook_leaves_in_the_background_is_ended(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    hook(tmp_path, "pre-freeze", "1", f"sleep 100 & echo $! > {pid}")
    begun = time.monotonic()
    (run,) = ran(tmp_path, "pre-freeze")
    assert run.ok
    assert time.monotonic() - begun < 3
    assert gone(int(pid.read_text()))


def test_output_is_bounded_and_never_blocks(tmp_path: Path) -> None:
    hook(tmp_path, "pre-freeze", "1", "head -c 1000000 /dev/zero | tr '\\0' x")
    (run,) = ran(tmp_path, "pre-freeze")
    assert run.ok
    assert run.output == "x" * OUTPUT_BYTES


def test_cancelling_kills_the_hook(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    hook(tmp_path, "frozen", "1", f"echo $$ > {pid}; exec sleep 100")

    async def scenario() -> None:
        task = asyncio.create_task(run_hooks(tmp_path, "frozen", CONTEXT, 50))
        while not pid.exists() or not pid.read_text():  # noqa: ASYNC110 - a file tells no event
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert gone(int(pid.read_text()))


def test_what_anybody_can_write_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    hook(tmp_path, "pre-freeze", "1", f"touch {mark}", 0o757)
    (run,) = ran(tmp_path, "pre-freeze")
    assert "can be written by everybody" in run.detail
    assert not mark.exists()


def test_a_directory_that_anybody_can_write_is_not_trusted(tmp_path: Path) -> None:
    path = hook(tmp_path, "pre-freeze", "1", "true")
    path.parent.chmod(0o777)
    (run,) = ran(tmp_path, "pre-freeze")
    assert f"{path.parent} can be written by everybody" in run.detail


@pytest.mark.root
@pytest.mark.parametrize("what", ["hook", "folder", "hooks", "target"])
def test_what_a_group_can_write_or_replace_is_not_run(tmp_path: Path, what: str) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir(mode=0o755)
    path = hook(hooks, "pre-freeze", "1", "true")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    if what == "target":
        path.rename(elsewhere / "1")
        path.symlink_to(elsewhere / "1")
    assert find_hooks(hooks, "pre-freeze")[0][1] == ""
    place = {"hook": path, "folder": path.parent, "hooks": hooks, "target": elsewhere}[what]
    os.chown(place, 0, 12345)
    place.chmod(0o775)
    assert f"{place} can be written by group id 12345" in find_hooks(hooks, "pre-freeze")[0][1]


@pytest.mark.root
def test_what_belongs_to_somebody_else_is_not_run(tmp_path: Path) -> None:
    path = hook(tmp_path, "pre-freeze", "1", "true")
    os.chown(path, 12345, 0)
    ((_, reason),) = find_hooks(tmp_path, "pre-freeze")
    assert "belongs to user id 12345" in reason


def test_what_cannot_be_started_is_a_failure(tmp_path: Path) -> None:
    path = hook(tmp_path, "pre-freeze", "1", "")
    path.write_text("#!/nowhere/interpreter\n")
    (run,) = ran(tmp_path, "pre-freeze")
    assert "cannot be started" in run.detail
