"""replicad copies the disk on which it lives itself: its interpreter, its packages, its state, its
log and its hooks. Only the runtime directory is in memory, as the configuration demands.

The page cache is dropped before each freeze, so whatever was not locked into memory would have to
be read from the frozen filesystem; and an audit hook in the daemon tells what it opens or imports
while the filesystem stands still.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.loops import MIB, flush, loop_device, mounted
from tests.support.pair import Pair, Process, busy_writer, pair, same_content, until
from tests.support.stall import Observer

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(240)]

ROOT = Path(__file__).resolve().parents[2]
NOT_NEEDED = ("test", "tests", "idlelib", "ensurepip", "site-packages", "dist-packages", "config-*")
DEVELOPMENT = (
    *("pip", "mypy", "mypyc", "*__mypyc*", "setuptools", "hypothesis", "pytest", "_pytest"),
    *("ruff", "pygments", "__pycache__", "tests", "__editable__*", "distutils-*"),
)

AUDIT = """
import os, sys
_record, _where = os.environ["AUDIT_RECORD"], os.environ["AUDIT_WHERE"]
_out = os.open(os.environ["AUDIT_SEEN"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
def _watch(event, arguments):
    if event == "import" or (event == "open" and str(arguments[0]).startswith(_where)):
        if os.access(_record, os.F_OK):
            os.write(_out, f"{event} {arguments[0]}\\n".encode())
sys.addaudithook(_watch)
"""


class Own(Process):
    """``replicad run`` from an interpreter and packages of its own, its log on the same disk."""

    def __init__(self, there: Process, where: Path, seen: Path) -> None:
        super().__init__("replicad", there.config, where / "log/replicad.log", there._control)
        self._where = where
        self._seen = seen

    def begin(self, output: int) -> None:
        """Start it with standard output and error on ``output``."""
        runtime = self._control.parent
        words = [str(self._where / "python/bin/python3"), "-c"]
        words += ["import sys; from replicad.cli import main; sys.exit(main())"]
        self._process = subprocess.Popen(
            [*words, "--config", str(self.config), "run"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env={
                "PATH": os.environ["PATH"],
                "LD_LIBRARY_PATH": str(self._where / "python/lib"),
                "PYTHONPATH": f"{self._where}/tree:{self._where}/packages",
                "AUDIT_RECORD": str(runtime / "frozen.json"),
                "AUDIT_SEEN": str(self._seen),
                "AUDIT_WHERE": str(self._where),
            },
        )
        until(self._answers, 30, "replicad answering")

    @property
    def files(self) -> set[str]:
        """The files that are mapped into it."""
        lines = Path(f"/proc/{self.pid}/maps").read_text().splitlines()
        return {line.split(None, 5)[5] for line in lines if "/" in line}


def settle_there(where: Path) -> None:
    """Interpreter, standard library, packages and our own code onto a filesystem.

    Bytecode is not copied: what is imported late has to be read and compiled from its source.
    """
    library = Path(os.__file__).parent
    ignore = shutil.ignore_patterns("__pycache__", *NOT_NEEDED)
    shutil.copytree(library, where / "python/lib" / library.name, ignore=ignore)
    for shared in library.parent.glob("libpython3*.so*"):
        shutil.copy(shared, where / "python/lib" / shared.name)
    (where / "python/bin").mkdir()
    shutil.copy(Path(sys.executable).resolve(), where / "python/bin/python3")
    packages = Path(msgspec_directory()).parent
    shutil.copytree(packages, where / "packages", ignore=shutil.ignore_patterns(*DEVELOPMENT))
    for package in ("replicad", "protocol"):
        shutil.copytree(
            ROOT / package, where / "tree" / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    (where / "tree/sitecustomize.py").write_text(AUDIT)
    for directory in ("log", "hooks"):
        (where / directory).mkdir()


def msgspec_directory() -> str:
    """Where the packages are that we use."""
    import msgspec

    return str(Path(msgspec.__file__).parent)


def own(both: Pair, where: Path) -> Own:
    """The source of a pair, moved onto the filesystem; logs at length."""
    moved = both.source.config.read_text()
    shutil.move(both.directory / "ss", where / "state")
    moved = moved.replace(f'"{both.directory}/ss"', f'"{where}/state"')
    moved = moved.replace(f'"{both.hooks}"', f'"{where}/hooks"')
    both.source.config.write_text(f'{moved}[log]\nlevel = "debug"\nformat = "json"\n')
    both.hooks = where / "hooks"
    found = Own(both.source, where, both.directory / "seen")
    both.source = found
    return found


def forget(where: Path) -> None:
    """Have the page cache drop the files of a filesystem, and nobody else's."""
    flush(where)
    for path in where.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def test_its_own_disk(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with (
        loop_device(image, 512 * MIB) as device,
        mounted(device, tmp_path / "mnt", "ext4") as where,
        pair([device], start=False) as both,
    ):
        settle_there(where)
        source = own(both, where)
        both.receiver.start()
        # What is copied above is not what runs: enrolment is a command of the ordinary program.
        with source.log.open("ab") as log:
            source.begin(log.fileno())
        both.enrol()
        outside = [
            path
            for path in source.files
            if (path.endswith(".so") or "python" in path) and not path.startswith(str(where))
        ]
        assert not [path for path in outside if "site-packages" in path or "lib-dynload" in path]
        both.create("--freeze-budget", "8s")
        both.synced()
        reference = both.directory / "reference.img"
        both.keep_reference(image, reference)
        with busy_writer(where, "10M"), Observer(where) as observer:
            flush(where)
            Path("/proc/sys/vm/drop_caches").write_text("3")
            assert both.checkpoint("--hold")["frozen_seconds"] < 8.0
            assert same_content(both.intermediate(), reference)
            both.resume()
            (both.hooks / "frozen.d/10-reference.img").unlink()
            both.receiver.ask("job.set", job=both.job, changes={"freeze_budget": 1.0})
            for _ in range(2):
                forget(where / "python")
                forget(where / "packages")
                forget(where / "tree")
                observer.restart()
                taken = both.checkpoint()
                print(f"frozen {taken['frozen_seconds']:.3f} s, seen {observer.stalled:.3f} s")
                assert taken["frozen_seconds"] < 1.0
            # Standard output is a pipe now that nobody reads: the log's queue fills, no more.
            source.stop()
            reading, writing = os.pipe()
            try:
                os.set_blocking(writing, False)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        os.write(writing, bytes(4096))
                os.set_blocking(writing, True)
                source.begin(writing)
                both.state("syncing")
                forget(where / "tree")
                assert both.checkpoint()["frozen_seconds"] < 1.0
            finally:
                os.close(reading)
                os.close(writing)
        events = [json.loads(line) for line in source.log.read_text().splitlines()]
        again = [event for event in events if event["event"] == "checkpoint.again"]
        assert not [event for event in again if "RPL-6003" in str(event)], again
        assert not again, again
        assert [event for event in events if event["level"] == "debug"]
        seen = source._seen.read_text().splitlines()
        assert not [line for line in seen if "/log/" in line or "/state/" in line], seen
        assert not [line for line in seen if line.startswith("import")], seen
        assert not seen, seen
