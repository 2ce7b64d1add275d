"""How fast is a full pass, beside a plain copy of the same file over the same loopback?

Ours: two real daemons, encrypted, digested, verified, synced. The peer: ``socat`` from file to file
over TCP, in plaintext, without any check. Both on the same RAM-backed files, alternating.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from bench.compare import Contest, Options, alternate
from protocol.admin.client import AdminClient
from tests.support.pair import free_ports, pair, same_content, until

MIB = 1 << 20


def ours(image: Path) -> float:
    """Seconds from ``job start`` until the source has called the full pass done."""
    with pair([str(image)]) as both:
        both.create("--start", "manual", "--compress", "none")
        client = AdminClient(both.directory / "rr/control.sock", daemon="receiver")
        begun = time.perf_counter()
        client.call("job.start", job=both.job)
        until(
            lambda: client.call("job.show", job=both.job)["disks"][0]["passed"],
            what="the full pass",
            step=0.02,
        )
        seconds = time.perf_counter() - begun
        if not same_content(both.intermediate(), image):
            raise AssertionError("the copy differs")
    return seconds


def plain(image: Path) -> float:
    """Seconds that socat takes for the same bytes."""
    (port,) = free_ports(1)
    copy = image.with_suffix(".copy")
    listen = f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr"
    sink = subprocess.Popen(["socat", "-u", "-b", "1048576", listen, f"CREATE:{copy}"])
    try:
        time.sleep(0.2)
        begun = time.perf_counter()
        subprocess.run(
            ["socat", "-u", "-b", "1048576", f"FILE:{image}", f"TCP:127.0.0.1:{port}"], check=True
        )
        sink.wait(60)
        seconds = time.perf_counter() - begun
        if not same_content(copy, image):
            raise AssertionError("socat's copy differs")
    finally:
        sink.kill()
        copy.unlink(missing_ok=True)
    return seconds


def run(options: Options) -> Contest:
    """The contest: rates in bytes per second, and their ratio."""
    size = (256 if options.quick else 1024) * MIB
    directory = Path(tempfile.mkdtemp(prefix="replicad-bench-", dir="/dev/shm"))
    image = directory / "disk.img"
    try:
        with image.open("wb") as file:
            for _ in range(size // MIB):
                file.write(os.urandom(MIB))
        return alternate(
            "full pass, incompressible, encrypted and verified, against plain socat",
            {"replicad": lambda: size / ours(image), "socat": lambda: size / plain(image)},
            options,
        )
    finally:
        shutil.rmtree(directory)
