"""Runs commands for the test on the host, one at a time, over a port of the virtual console.

A line of JSON each way. From the host: ``{"run": SHELL, "seconds": N}``. From here ``{"hello":
RELEASE, "boot": ID}`` once, then for each command ``{"line": TEXT}`` as it is printed, and
``{"exit": CODE}`` (124 when the time was over). Nothing but the standard library: it runs whatever
the tree is like.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

PORT_NAME = "replicad.agent"
TREE = Path("/run/payload/tree")
SCRIPT = Path("/run/agent.sh")


def find_port() -> Path:
    """The port's device; udev's names for ports are not waited for."""
    while True:
        for name in Path("/sys/class/virtio-ports").glob("*/name"):
            if name.read_text().strip() == PORT_NAME:
                return Path("/dev") / name.parent.name
        time.sleep(0.1)


class Port:
    """Lines of JSON over the port. Reads block in the kernel."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR)
        self._rest = b""

    def say(self, **message: Any) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self._fd, data) :]

    def hear(self) -> dict[str, Any]:
        while b"\n" not in self._rest:
            got = os.read(self._fd, 65536)
            if not got:
                time.sleep(0.2)  # the host is not there
            self._rest += got
        line, _, self._rest = self._rest.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message


def run(port: Port, script: str, seconds: float) -> int:
    """Runs a shell script and sends its lines; 124 if it had to be killed."""
    SCRIPT.write_text(script)  # an argument may not be as long as a script
    process = subprocess.Popen(
        ["/bin/sh", SCRIPT],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=TREE,
        start_new_session=True,
    )
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    end = time.monotonic() + seconds
    rest = b""
    with selectors.DefaultSelector() as waiting:
        waiting.register(process.stdout, selectors.EVENT_READ)
        while time.monotonic() < end:
            if waiting.select(0.5):
                got = process.stdout.read()
                if got == b"":
                    break
                *lines, rest = (rest + (got or b"")).split(b"\n")
                for line in lines:
                    port.say(line=line.decode(errors="replace"))
            elif process.poll() is not None:
                break  # somebody that it started holds the pipe
    if rest:
        port.say(line=rest.decode(errors="replace"))
    try:
        return process.wait(max(0.1, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return 124


def main() -> None:
    port = Port(find_port())
    port.say(
        hello=os.uname().release, boot=Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    )
    while True:
        asked = port.hear()
        port.say(exit=run(port, asked["run"], asked["seconds"]))


if __name__ == "__main__":
    main()
