"""What others wait for a real disk is seen, and who they are is told from what we do."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from replicad import latency
from replicad.courtesy import OTHERS_LEAST, Courtesy, Looked
from replicad.latency import HOLD_SECONDS, NICE, Probe, Watch, step_back
from tests.support.loops import MIB, loop_device
from tests.support.pair import until

pytestmark = pytest.mark.root


class Recorded(Courtesy):
    """Remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[Looked] = []
        self.holds: list[float] = []

    def hold(self, until: float) -> None:
        self.holds.append(until)
        super().hold(until)

    def looked(self, found: Looked) -> None:
        self.looks.append(found)
        super().looked(found)


def looks_at(device: str, size: int, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """What is seen of a device in a first look."""
    monkeypatch.setattr(latency, "FIRST_SECONDS", 0.0)
    seen = Recorded()
    read = itertools.count()
    watch = Watch({(device, size): seen}, lambda: next(read))
    watch.start()
    try:
        until(lambda: seen.looks, 30, "a look")
    finally:
        watch.stop()
        watch.join(10)
    assert not watch.is_alive()
    return seen


def test_nobody_else_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with loop_device(tmp_path / "disk.img", 16 * MIB) as device:
        begun = time.monotonic()
        seen = looks_at(device, 16 * MIB, monkeypatch)
        (look, *_) = seen.looks
        assert look.others < OTHERS_LEAST
        assert len(look.without) >= 2
        assert len(look.beside) == latency.PROBES
        assert all(0 < seconds < 5 for seconds in (*look.without, *look.beside))
        assert begun < seen.holds[0] < time.monotonic() + HOLD_SECONDS
        assert seen.share == 1.0


def test_somebody_else_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as memory,  # a disk may take 0.1 s for a sync
        loop_device(Path(memory, "disk.img"), 16 * MIB) as device,
    ):
        over = threading.Event()

        def foreground() -> None:
            fd = os.open(device, os.O_WRONLY | os.O_DSYNC)
            while not over.is_set():
                os.pwrite(fd, bytes(512), 0)
            os.close(fd)

        other = threading.Thread(target=foreground)
        other.start()
        try:
            seen = looks_at(device, 16 * MIB, monkeypatch)
        finally:
            over.set()
            other.join()
        assert seen.looks[0].others > OTHERS_LEAST


def test_nobody_is_looked_at_while_we_read_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "FIRST_SECONDS", 0.0)
    with loop_device(tmp_path / "disk.img", 16 * MIB) as device:
        watch = Watch({(device, 16 * MIB): Recorded()}, lambda: 7)
        before = Probe(device, 16 * MIB).counters().reads
        watch.start()
        time.sleep(2)
        watch.stop()
        watch.join(10)
        assert Probe(device, 16 * MIB).counters().reads - before <= 1


def test_what_is_no_block_device_is_not_looked_at(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(MIB))
    with pytest.raises(OSError, match="no block device"):
        Probe(str(image), MIB)


def test_the_idle_class_is_this_threads() -> None:
    import ctypes

    get = {"x86_64": 252, "aarch64": 31}.get(os.uname().machine)
    if get is None:
        pytest.fail("say here what ioprio_get is on this machine")
    kept: list[int] = []

    def be_idle() -> None:
        me = threading.get_native_id()
        for back in (True, False):
            step_back(me, back=back)
            kept.append(ctypes.CDLL(None).syscall(get, 1, 0) >> 13)

    before = ctypes.CDLL(None).syscall(get, 1, 0)
    thread = threading.Thread(target=be_idle)
    thread.start()
    thread.join()
    assert kept[0] == 3
    assert kept[1] != 3
    assert ctypes.CDLL(None).syscall(get, 1, 0) == before


def niceness(thread: int) -> int:
    """Of a thread of this process (proc_pid_stat(5), field 19)."""
    return int(Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split()[16])


def test_a_thread_that_steps_back_is_nicer_and_nobody_else() -> None:
    begun, ended = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        ended.wait(30)

    thread = threading.Thread(target=wait)
    thread.start()
    begun.wait(30)
    assert thread.native_id is not None
    step_back(thread.native_id, back=True)
    assert niceness(thread.native_id) == NICE
    assert niceness(threading.get_native_id()) == 0
    step_back(thread.native_id, back=False)
    assert niceness(thread.native_id) == 0
    ended.set()
    thread.join()
    step_back(thread.native_id, back=True)  # gone: nothing happens


def test_without_the_right_to_come_back_it_stays_as_it_is() -> None:
    """No CAP_SYS_NICE and no RLIMIT_NICE: nothing is raised. (With the unit's LimitNICE=:
    tests/vm/guest/check_services.py.)"""
    code = (
        "import os, threading; from replicad.latency import step_back as s;"
        "me = threading.get_native_id(); s(me, back=True); a = os.nice(0);"
        "s(me, back=False); print(a, os.nice(0))"
    )
    without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]
    command = ["prlimit", "--nice=0:0", *without, sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(NICE), str(NICE)]
