"""Those whom people use today, each copying a file into another. What they made is compared.

Every copy goes into a file that is there, whose pages are touched, and that was zeroed before: no
peer pays for fresh memory, and none is praised for what an earlier one left. (``nbdcopy new file``
and our own receiver make their file, which costs the first touch of each page.)
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.contest import Figures
from bench.images import touch
from bench.sshd import sshd
from tests.support.pair import same_content, until


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds from start to end, and of processors in all processes of the source's side."""

    seconds: float
    cpu_seconds: float

    def figures(self, size: int) -> Figures:
        """As a contestant's: bytes a second, CPU seconds for each GiB of the disk."""
        return {"rate": size / self.seconds, "cpu": self.cpu_seconds * (1 << 30) / size}


def pipeline(*commands: Sequence[str]) -> Spent:
    """Run commands with pipes between them, wait for all, and add up what they used.

    Raises:
        AssertionError: one of them failed.
    """
    begun = time.perf_counter()
    running: list[subprocess.Popen[bytes]] = []
    before: int | None = subprocess.DEVNULL
    try:
        for command in commands:
            last = len(running) == len(commands) - 1
            out = subprocess.DEVNULL if last else subprocess.PIPE
            process = subprocess.Popen(
                command, stdin=before, stdout=out, stderr=subprocess.PIPE, bufsize=0
            )
            if running and running[-1].stdout is not None:
                running[-1].stdout.close()
            running.append(process)
            before = process.stdout.fileno() if process.stdout else None
        used = sum(_ended(process) for process in running)
    finally:
        for process in running:
            if process.returncode is None:
                process.kill()
                process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
    return Spent(time.perf_counter() - begun, used)


def together(*commands: Sequence[str]) -> Spent:
    """Run commands side by side, without pipes, and wait for all.

    Raises:
        AssertionError: one of them failed.
    """
    begun = time.perf_counter()
    running = [subprocess.Popen(c, stdin=subprocess.DEVNULL, bufsize=0) for c in commands]
    try:
        used = sum(_ended(process) for process in running)
    finally:
        for process in running:
            if process.returncode is None:
                process.kill()
                process.wait()
    return Spent(time.perf_counter() - begun, used)


def _ended(process: subprocess.Popen[bytes]) -> float:
    """Wait for it; CPU seconds of it and of those that it waited for."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        said = process.stderr.read() if process.stderr else b""
        raise AssertionError(f"{process.args!r}: exit {process.returncode}: {said.decode()}")
    return usage.ru_utime + usage.ru_stime


@dataclass(frozen=True, slots=True)
class Peers:
    """Ways to copy ``image`` to ``target``. Make with :func:`peers`."""

    image: Path
    target: Path
    ssh: list[str]
    directory: Path

    @property
    def size(self) -> int:
        """Bytes to copy."""
        return self.image.stat().st_size

    def _copied(self, *commands: Sequence[str]) -> Figures:
        """A whole copy: into zeros, timed, compared."""
        touch(self.target, self.size)
        spent = pipeline(*commands)
        self.check()
        return spent.figures(self.size)

    def check(self) -> None:
        """The target holds what the image holds.

        Raises:
            AssertionError: it does not.
        """
        if not same_content(self.image, self.target):
            raise AssertionError(f"{self.target} differs from {self.image}")

    # --- nbdkit and nbdcopy -------------------------------------------------------------------

    def nbd(self) -> Figures:
        """In plaintext over a Unix socket."""
        with self._nbdkit() as socket:
            return self._copied(self._nbdcopy(f"nbd+unix:///?socket={socket}"))

    def nbd_new_file(self) -> Figures:
        """The same, but the target is a new file, as our receiver makes one."""
        self.target.unlink(missing_ok=True)
        self.target.touch()
        os.truncate(self.target, self.size)
        with self._nbdkit() as socket:
            spent = pipeline(self._nbdcopy(f"nbd+unix:///?socket={socket}"))
        self.check()
        return spent.figures(self.size)

    def nbd_tls(self) -> Figures:
        """With TLS and a pre-shared key."""
        keys = self.directory / "psk"
        keys.write_text(f"bench:{secrets.token_hex(32)}\n")
        with self._nbdkit("--tls=require", f"--tls-psk={keys}") as socket:
            where = f"nbds+unix://bench@/?socket={socket}&tls-psk-file={keys}"
            return self._copied(self._nbdcopy(where))

    def _nbdcopy(self, where: str) -> list[str]:
        return ["nbdcopy", "--flush", str(self.image), where]

    @contextlib.contextmanager
    def _nbdkit(self, *options: str) -> Iterator[Path]:
        if not self.target.exists():
            touch(self.target, self.size)
        socket = self.directory / f"nbd-{secrets.token_hex(4)}"
        command = ["nbdkit", "-f", "-U", str(socket), *options, "file", str(self.target)]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            until(socket.exists, 10, "nbdkit listening", step=0.01)
            yield socket
        finally:
            server.terminate()
            server.wait()
            socket.unlink(missing_ok=True)

    # --- over ssh -----------------------------------------------------------------------------

    def _read(self) -> list[str]:
        return ["dd", f"if={self.image}", "bs=1M", "status=none"]

    def _write(self) -> str:
        target = shlex.quote(str(self.target))
        return f"dd of={target} bs=1M iflag=fullblock conv=notrunc status=none"

    def dd_ssh(self) -> Figures:
        """``dd | ssh dd``."""
        return self._copied(self._read(), [*self.ssh, self._write()])

    def dd_zstd_ssh(self) -> Figures:
        """``dd | zstd -1 | ssh 'zstd -d | dd'``."""
        unpack = f"zstd -dc | {self._write()}"
        return self._copied(self._read(), ["zstd", "-1", "-c", "-q"], [*self.ssh, unpack])

    def rsync_command(self, *options: str) -> list[str]:
        """rsync over that ssh, into the file that is there."""
        shell = shlex.join(self.ssh[:-1])
        always = ["--inplace", "--ignore-times", "-e", shell]
        return ["rsync", *always, *options, str(self.image), f"{self.ssh[-1]}:{self.target}"]

    def rsync(self) -> Figures:
        """``rsync --inplace -W``."""
        return self._copied(self.rsync_command("-W"))

    def rsync_z(self) -> Figures:
        """``rsync --inplace -W -z``: whichever compression both ends like best."""
        return self._copied(self.rsync_command("-W", "-z"))


@contextlib.contextmanager
def peers(directory: Path, image: Path) -> Iterator[Peers]:
    """The peers, with an sshd for those that need one."""
    with sshd(directory) as ssh:
        yield Peers(image, directory / "peer.img", ssh, directory)
