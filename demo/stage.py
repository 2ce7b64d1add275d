"""Where the demo plays, and how it leaves nothing behind.

Everything lives under one directory whose ``lock`` is held for as long as the demo lives. A
demo that was killed cannot tidy up, but the kernel lets go of its lock: the next demo
finds directories with a free lock and removes what belongs to them. What belongs to them is
found from the system itself (mounts and loop devices whose backing file is in the directory,
processes that were recorded with their start time), not from a list that may not have been
written.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from replicad.tracker.pins import collect_garbage

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "replicad-demo-"
MEMORY = Path("/dev/shm")
COPIES = 5
"""Source, intermediate disk, reference, and room for a receiver that keeps whole copies."""

PATIENCE_SECONDS = 10.0
"""How long a process may take to end after SIGTERM before it is killed."""


def run(*command: str | os.PathLike[str], check: bool = True) -> str:
    """Run a system command and return what it printed; with ``check`` a failure is raised."""
    done = subprocess.run(
        [os.fspath(part) for part in command], check=False, capture_output=True, text=True
    )
    if check and done.returncode:
        raise RuntimeError(f"{command[0]} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def roots() -> list[Path]:
    """Where a demo's directory may be: in memory, or where temporary files go."""
    return [path for path in (MEMORY, Path(tempfile.gettempdir())) if path.is_dir()]


def choose_root(size: int) -> Path:
    """Memory when it has room for every copy of ``size`` bytes, else the temporary directory."""
    for root in roots():
        free = shutil.disk_usage(root).free
        if root == MEMORY:
            free = min(free, _available_memory() // 2)
        if free >= COPIES * size:
            return root
    raise RuntimeError(
        f"the demo needs {COPIES * size >> 20} MiB in {' or '.join(map(str, roots()))}; "
        "set TMPDIR, or a smaller DEMO_SIZE"
    )


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


@contextlib.contextmanager
def directory(root: Path) -> Iterator[Path]:
    """A new directory that is ours for as long as we live, removed with all that uses it."""
    place = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
    with open(place / "lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield place
        finally:
            clear(place)


def clear_leftovers() -> list[Path]:
    """Remove what killed demos of this user left; returns their directories."""
    found = []
    for root in roots():
        for place in sorted(root.glob(PREFIX + "*")):
            if place.is_symlink() or place.stat().st_uid != os.getuid():
                continue
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                with open(place / "lock", "rb") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    clear(place)
                found.append(place)
    return found


def clear(place: Path) -> None:
    """End the processes, thaw and unmount, detach and delete, all that is under ``place``."""
    for pid in recorded(place):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while recorded(place) and time.monotonic() < deadline:
        time.sleep(0.05)
    for mount in _mounts(place):
        run("fsfreeze", "--unfreeze", mount, check=False)
    for pid in recorded(place):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for mount in _mounts(place):
        _unmount(mount)
    for device in loops(place):
        run("losetup", "--detach", device, check=False)
    shutil.rmtree(place)
    # only now: the tracker's pins are garbage when the runtime directory of their daemon is gone
    collect_garbage()


def _unmount(mount: str) -> None:
    """A killed writer may hold the mount for a moment longer: try until it lets go."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while os.path.ismount(mount):
        run("umount", mount, check=time.monotonic() > deadline)
        if os.path.ismount(mount):
            time.sleep(0.05)


def _mounts(place: Path) -> list[str]:
    """Mount points under ``place``, the innermost first (proc(5), mountinfo, field 5)."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in reversed(points) if point.startswith(f"{place}/")]


def loops(place: Path) -> list[str]:
    """Loop devices whose backing file is under ``place``."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if backing.read_text().startswith(f"{place}/"):
                found.append(f"/dev/{backing.parent.parent.name}")
    return found


def record_process(place: Path, pid: int) -> None:
    """Note a process, so that whoever tidies up ends this one and not a later namesake."""
    with open(place / "processes", "a") as file:
        file.write(f"{pid} {_started(pid)}\n")


def recorded(place: Path) -> list[int]:
    """The recorded processes that are still the same ones and alive."""
    file = place / "processes"
    if not file.exists():
        return []
    pairs = [line.split() for line in file.read_text().splitlines()]
    return [int(pid) for pid, started in pairs if _started(int(pid)) == int(started)]


def _started(pid: int) -> int:
    """Start time in clock ticks since boot (proc(5), stat, field 22); -1 when gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return -1 if fields[0] == "Z" else int(fields[19])
