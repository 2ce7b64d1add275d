"""Run what the administrator wants done around a freeze.

Hooks are executables in ``pre-freeze.d``, ``frozen.d`` and ``post-thaw.d`` under the hooks
directory, run one after the other in name order, as run-parts(8) does. They run with the
daemon's rights, so only files that nobody else can have written are run. Each is its own process
group and is killed as a whole when its time is over. Its output is kept in memory, bounded:
while filesystems are frozen there is no log file that could be written.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from protocol.errors import HOOK_FAILED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Phase = Literal["pre-freeze", "frozen", "post-thaw"]

OUTPUT_BYTES = 16 * 1024
"""Of what a hook prints are kept; the rest is read and dropped, so that it never blocks."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class HookContext:
    """What a hook learns about the checkpoint. ``disks`` are the job's paths."""

    job: str
    job_name: str
    epoch: int
    disks: tuple[str, ...] = ()

    def environment(self, phase: str) -> dict[str, str]:
        """The whole environment of a hook: nothing of the daemon's own leaks into it."""
        return {
            "PATH": PATH,
            "LC_ALL": "C.UTF-8",
            "REPLICAD_JOB": self.job,
            "REPLICAD_JOB_NAME": self.job_name,
            "REPLICAD_EPOCH": str(self.epoch),
            "REPLICAD_PHASE": phase,
            "REPLICAD_DISKS": "\n".join(self.disks),
            "JOB": self.job,
            "EPOCH": str(self.epoch),
        }


@dataclass(frozen=True, slots=True)
class HookRun:
    """What became of one hook. ``detail`` is empty when it succeeded."""

    hook: str
    seconds: float
    detail: str
    output: str

    @property
    def ok(self) -> bool:
        """It ran and ended with 0."""
        return not self.detail


def raise_failed(runs: Sequence[HookRun]) -> None:
    """Raise ``hook_failed`` for the first hook that failed, if one did.

    Raises:
        LocalFault: ``hook_failed``.
    """
    for run in runs:
        if not run.ok:
            said = f"; it said: {run.output[-300:].strip()}" if run.output.strip() else ""
            raise HOOK_FAILED.fault(hook=run.hook, detail=run.detail + said)


def find_hooks(directory: Path, phase: Phase) -> list[tuple[Path, str]]:
    """The hooks of a phase in name order, each with '' or the reason why it may not run.

    Hidden files and those that are not executable (README, name.disabled) are no hooks.
    """
    folder = directory / f"{phase}.d"
    try:
        entries = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    distrust = _distrust(folder)
    hooks = []
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            status = entry.stat()
        except FileNotFoundError:
            hooks.append((entry, "it is a link to nothing"))
            continue
        if stat.S_ISREG(status.st_mode) and status.st_mode & 0o111:
            hooks.append((entry, distrust or _distrust(entry)))
    return hooks


def _distrust(path: Path) -> str:
    """Why a file may have been written or replaced by somebody else; '' when it cannot.

    Who can write to a directory on the way can put another file there, so each is looked at;
    except that a sticky one (/tmp) lets nobody rename what is another's.
    """
    real = path.resolve()
    for place in (real, *real.parents):
        status = place.stat()
        if status.st_uid not in (0, os.geteuid()):
            return f"{place} belongs to user id {status.st_uid}, not to root or the daemon"
        if place != real and status.st_mode & stat.S_ISVTX:
            continue
        if status.st_mode & stat.S_IWOTH:
            return f"{place} can be written by everybody"
        if status.st_mode & stat.S_IWGRP and status.st_gid != 0:
            return f"{place} can be written by group id {status.st_gid}"
    return ""


async def run_hooks(
    directory: Path, phase: Phase, context: HookContext, limit: float
) -> list[HookRun]:
    """Run the hooks of a phase; ``limit`` is seconds for each.

    The first failure ends the phase, except in ``post-thaw``, where each hook undoes something
    of its own and all are run. Cancelling kills the hook that runs.
    """
    runs: list[HookRun] = []
    for hook, refusal in find_hooks(directory, phase):
        if refusal:
            run = HookRun(str(hook), 0.0, f"it was not run: {refusal}", "")
        else:
            run = await _run(hook, context.environment(phase), limit)
        runs.append(run)
        if not run.ok and phase != "post-thaw":
            break
    return runs


async def _run(hook: Path, environment: dict[str, str], limit: float) -> HookRun:
    begun = time.monotonic()
    output = _Output()
    try:
        process = await asyncio.create_subprocess_exec(
            str(hook),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output.write_end,
            stderr=asyncio.subprocess.STDOUT,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        output.close()
        return HookRun(str(hook), 0.0, f"it cannot be started: {error.strerror}", "")
    output.begin()
    detail = ""
    try:
        async with asyncio.timeout(limit):
            code = await process.wait()
        if code:
            detail = f"killed by signal {-code}" if code < 0 else f"it ended with exit code {code}"
    except TimeoutError:
        detail = f"it ran longer than {limit:g} s and was killed"
    finally:
        _kill_group(process.pid)
        await process.wait()
        output.close()
    return HookRun(str(hook), time.monotonic() - begun, detail, output.text)


class _Output:
    """A pipe that is read as long as the hook runs, and the first part of what came.

    Not asyncio's own pipe: with that, the end of a process is not seen before the end of all
    that it left in the background with its output open.
    """

    def __init__(self) -> None:
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        self._kept = bytearray()
        self._loop = asyncio.get_running_loop()

    def begin(self) -> None:
        """The hook has its end of the pipe."""
        os.close(self.write_end)
        self.write_end = -1
        self._loop.add_reader(self._read_end, self._read)

    def _read(self) -> bool:
        """Whether there may be more."""
        try:
            block = os.read(self._read_end, OUTPUT_BYTES)
        except BlockingIOError:
            return False
        if not block:
            self._loop.remove_reader(self._read_end)
        self._kept += block[: OUTPUT_BYTES - len(self._kept)]
        return bool(block)

    def close(self) -> None:
        """Take what is still in the pipe, which holds a bounded amount, and end."""
        if self.write_end >= 0:
            os.close(self.write_end)
        else:
            while len(self._kept) < OUTPUT_BYTES and self._read():
                pass
            self._loop.remove_reader(self._read_end)
        os.close(self._read_end)

    @property
    def text(self) -> str:
        """What was kept."""
        return self._kept.decode("utf-8", "replace")


def _kill_group(leader: int) -> None:
    """Also after a normal end: what a hook leaves behind must not outlive the checkpoint."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
