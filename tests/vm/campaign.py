"""What is tried on a kernel, in which order, and what came out.

Each check is a file of tests that pytest runs inside the machine (tests/vm/guest); here is only
which, for how long, and on which kernels. All checks of a kernel share one machine, because a boot
costs more than most of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.vm import images
from tests.vm.images import Kernel
from tests.vm.machine import Machine, VmFailed, machine

GUEST = "tests/vm/guest"
PYTEST = (
    "exec /opt/replicad/venv/bin/python -m pytest -v -rfE --tb=short -p no:cacheprovider"
    " -p no:hypothesispytest --color=no"
)


@dataclass(frozen=True)
class Check:
    """One row of the table."""

    name: str
    steps: tuple[str, ...]
    """Arguments of pytest; between two of them the power is cut."""
    seconds: float
    """For each step, on a machine that has little else to do."""
    tracked: bool = False
    """Only where the kernel carries the tracker."""


BRIEF = "scsi or multipath or linear or raid0"
LOOPS = "tests/integration/test_tracker_exact.py tests/integration/test_tracker_race.py"
EVERYTHING: tuple[Check, ...] = (
    Check("disks", (f"{GUEST}/check_tracker.py",), 900, tracked=True),
    Check(
        "loops",
        (f"{LOOPS} -k 'not bpf'",),
        900,
        tracked=True,
    ),
    Check("replication", (f"{GUEST}/check_replication.py",), 900),
    Check("services", (f"{GUEST}/check_services.py",), 900),
    Check(
        "restart",
        (f"{GUEST}/check_restart.py -k before", f"{GUEST}/check_restart.py -k after"),
        600,
    ),
)
"""What ``./run test-vm`` does."""
BRIEF_CHECKS: tuple[Check, ...] = (
    Check(
        "disks",
        (f"{GUEST}/check_tracker.py -k '(exact and ({BRIEF})) or (completions and raid1)'",),
        400,
        tracked=True,
    ),
    Check("replication", (f"{GUEST}/check_replication.py -k 'check_says or linear'",), 400),
)
"""What ``--brief`` and ``./run test -m campaign tests/vm`` do, on one kernel."""
BRIEF_KERNEL = "6.1"
"""The oldest that carries the tracker, and of the userland's own suite: one set of lists to fetch.
The other end, the newest, is what the host runs."""


@dataclass(frozen=True)
class Result:
    """What came of a check: ``said`` is pytest's last line, or what went wrong."""

    kernel: str
    check: str
    passed: bool
    seconds: float
    said: str


Show = Callable[[str], None]


def run_kernel(which: Kernel, checks: Sequence[Check], show: Show) -> Iterator[Result]:
    """Boots a kernel and yields what came of the boot and of each check."""
    begun = time.monotonic()

    def result(check: str, passed: bool, said: str) -> Result:
        nonlocal begun
        before, begun = begun, time.monotonic()
        return Result(which.name, check, passed, begun - before, said)

    boot = images.kernel(which)
    images.system()
    images.payload()
    yield result("build", True, boot.release)
    with machine(boot) as running:
        try:
            release = running.wait_ready()
        except VmFailed as failed:
            yield result("boot", False, str(failed))
            return
        yield result("boot", True, release)
        for check in checks:
            if check.tracked and not which.carries_tracker:
                continue
            try:
                passed, said = _run_check(running, which, check, show)
            except VmFailed as failed:
                yield result(check.name, False, str(failed))
                return
            yield result(check.name, passed, said)


def _run_check(running: Machine, which: Kernel, check: Check, show: Show) -> tuple[bool, str]:
    said = ""
    tracker = "ebpf" if which.carries_tracker else "none"
    for number, step in enumerate(check.steps):
        if number:
            before = running.boot_ids[-1]
            running.cut_power()
            assert running.boot_ids[-1] != before, "it is the same boot"
        script = f"export REPLICAD_VM_TRACKER={tracker}; {PYTEST} {step}"
        code, output = running.run(script, check.seconds, show)
        said = (output.splitlines() or [""])[-1]
        if code:
            return False, f"exit {code}: {output[-6000:]}"
    return True, said


def table(results: Sequence[Result]) -> str:
    """The results as text, one line each."""
    lines = [f"{'kernel':8} {'check':12} {'':6} {'seconds':>7}"]
    for each in results:
        mark = "ok" if each.passed else "FAILED"
        said = each.said.strip().splitlines()[-1][:90] if each.said.strip() else ""
        lines.append(f"{each.kernel:8} {each.check:12} {mark:6} {each.seconds:7.1f}  {said}")
    return "\n".join(lines)
