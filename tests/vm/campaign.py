"""What is tried on a kernel, in which order, and what came out.

Each check is a file of tests that pytest runs inside the machine (tests/vm/guest); here is only
which, for how long, and on which kernels. All checks of a kernel share one machine, because a boot
costs more than most of them.
"""

from __future__ import annotations

import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.vm import images, power
from tests.vm.images import Kernel
from tests.vm.machine import EmulatorFailed, Machine, VmFailed, machine

GUEST = "tests/vm/guest"
PYTEST = (
    "exec /opt/replicad/venv/bin/python -m pytest -v -rfE --tb=short -p no:cacheprovider"
    " -p no:hypothesispytest --color=no"
)


Show = Callable[[str], None]


@dataclass(frozen=True)
class Check:
    """One row of the table."""

    name: str
    steps: tuple[str, ...]
    """Arguments of pytest inside; between two of them the power is cut."""
    seconds: float
    """For each step, on a machine that is busy with other tests."""
    tracked: bool = False
    """Only where the kernel carries the tracker."""
    before: str = "true"
    """A command of the shell in the machine, before all steps."""
    here: Callable[[Machine, Show], str] | None = None
    """Instead of steps: what this host does with the machine."""


LOOPS = "tests/integration/test_tracker_exact.py tests/integration/test_tracker_race.py"
MODULES = "modprobe -a loop zram"
"""What those need and a small kernel has not built in."""
EVERYTHING: tuple[Check, ...] = (
    Check("disks", (f"{GUEST}/check_tracker.py",), 1800, tracked=True),
    Check(
        "loops",
        (f"{LOOPS} -k 'not bpf'",),
        1800,
        tracked=True,
        before=MODULES,
    ),
    Check("replication", (f"{GUEST}/check_replication.py",), 1800),
    Check("services", (f"{GUEST}/check_services.py",), 1800),
    Check(
        "restart",
        (f"{GUEST}/check_restart.py -k before", f"{GUEST}/check_restart.py -k after"),
        900,
    ),
    Check("power", (), 0, here=power.receiver_loses_power),
)
"""What ``./run test-vm`` does."""
BRIEF_CHECKS: tuple[Check, ...] = (
    Check("disks", (f"{GUEST}/check_tracker.py -k of_several_disks",), 1200, tracked=True),
    Check("replication", (f"{GUEST}/check_replication.py -k 'check_says or two'",), 1200),
)
"""What an ordinary test run does, on one kernel, in a machine with one CPU."""
BRIEF_KERNEL = "6.1"
"""The oldest that carries the tracker."""


@dataclass(frozen=True)
class Result:
    """What came of a check: ``said`` is pytest's last line, or what went wrong."""

    kernel: str
    check: str
    passed: bool
    seconds: float
    said: str


def run_kernel(
    which: Kernel, checks: Sequence[Check], show: Show, cpus: int = 2
) -> Iterator[Result]:
    """Boots a kernel and yields what came of the boot and of each check.

    Where the emulator failed, that check and those after it are done once more, by a fresh machine
    with one CPU, where it does not fail.
    """
    begun = time.monotonic()

    def result(check: str, passed: bool, said: str) -> Result:
        nonlocal begun
        before, begun = begun, time.monotonic()
        return Result(which.name, check, passed, begun - before, said)

    boot = images.kernel(which)
    images.system()
    images.payload()
    yield result("build", True, boot.release)
    left = [check for check in checks if which.carries_tracker or not check.tracked]
    for again in (True, False):
        with machine(boot, cpus if again else 1) as running:
            doing = "boot"
            try:
                yield result("boot", True, running.wait_ready())
                while left:
                    doing = left[0].name
                    passed, said = _run_check(running, which, left[0], show)
                    yield result(doing, passed, said)
                    del left[0]
                return
            except EmulatorFailed as failed:
                if not again:
                    yield result(doing, False, str(failed))
                    return
                show(f"vm: {doing}: QEMU ran a breakpoint that was gone; once more\n{failed}")
            except VmFailed as failed:
                yield result(doing, False, str(failed))
                return


def _run_check(running: Machine, which: Kernel, check: Check, show: Show) -> tuple[bool, str]:
    if check.here is not None:
        return _run_here(running, check.here, show)
    said = ""
    tracker = "ebpf" if which.carries_tracker else "none"
    for number, step in enumerate(check.steps):
        if number:
            before = running.boot_ids[-1]
            running.cut_power()
            assert running.boot_ids[-1] != before, "it is the same boot"
        script = f"export REPLICAD_VM_TRACKER={tracker} REPLICAD_TEST_PATIENCE=4; "
        script += f"{check.before} && {PYTEST} {step}"
        code, output = running.run(script, check.seconds, show)
        said = (output.splitlines() or [""])[-1]
        if code:
            return False, f"exit {code}: {output[-6000:]}"
    return True, said


def _run_here(running: Machine, do: Callable[[Machine, Show], str], show: Show) -> tuple[bool, str]:
    try:
        return True, do(running, show)
    except VmFailed:
        raise
    except (AssertionError, OSError, ValueError, LookupError, subprocess.SubprocessError):
        return False, traceback.format_exc()


def table(results: Sequence[Result]) -> str:
    """The results as text, one line each."""
    lines = [f"{'kernel':8} {'check':12} {'':6} {'seconds':>7}"]
    for each in results:
        mark = "ok" if each.passed else "FAILED"
        said = each.said.strip().splitlines()[-1][:90] if each.said.strip() else ""
        lines.append(f"{each.kernel:8} {each.check:12} {mark:6} {each.seconds:7.1f}  {said}")
    return "\n".join(lines)
