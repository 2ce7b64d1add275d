"""What holds for every test: who may run it, and how hard hypothesis tries.

A test marked `root` makes block devices, mounts and BPF programs. Without root it is skipped, and
the summary says so. Where `REPLICAD_REQUIRE_ROOT_TESTS=1` such a skip is a failure, whoever asked
for it: this file, the test itself, or a module that skipped itself whole. Otherwise a machine that
lacks something would look like a machine on which everything passed.

A test that hangs fails after its timeout. Where even that hangs, the process says where, and goes.
"""

from __future__ import annotations

import faulthandler
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, settings

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

TEARDOWN_SECONDS = 300.0
"""After a failure pytest and pytest-timeout both stop their clocks; a fixture may then wait for
ever for what the failed test left running."""
STDERR = pytest.StashKey[int]()

ROOT_REQUIRED = os.environ.get("REPLICAD_REQUIRE_ROOT_TESTS") == "1"

# No deadline, no complaint about slowness: on a shared machine one slow example says nothing.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "ci",
    parent=settings.get_profile("dev"),
    max_examples=200,
    print_blob=True,
    database=None,
)
# A long search, for a night or a release.
settings.register_profile("long", parent=settings.get_profile("dev"), max_examples=3000)
# tests/mutations: only finding counts, and what was found once is found again.
settings.register_profile(
    "mutation",
    parent=settings.get_profile("dev"),
    max_examples=1000,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests may take longest come first: started last, one of them would keep a
    worker busy while the others have nothing left to do."""
    patience: dict[Path, float] = {}
    for item in items:
        mark = item.get_closest_marker("timeout")
        seconds = float(mark.args[0]) if mark is not None else 0.0
        patience[item.path] = max(seconds, patience.get(item.path, 0.0))
    items.sort(key=lambda item: -patience[item.path])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a root test for whoever is not root."""
    if item.get_closest_marker("root") is not None and os.geteuid() != 0:
        pytest.skip("needs root")


def pytest_configure(config: pytest.Config) -> None:
    """Keeps the real stderr, for later tests have another, and says what fails when it fails."""
    config.stash[STDERR] = os.dup(2)
    config.pluginmanager.register(SaysAtOnce(config))


class SaysAtOnce:
    """Names a failed test at once: of a run that is ended from outside nothing else is known."""

    def __init__(self, config: pytest.Config) -> None:
        self._plugins = config.pluginmanager

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._plugins.get_plugin("terminalreporter")  # no worker of xdist has one
        if report.failed and terminal is not None:
            crash = getattr(report.longrepr, "reprcrash", None)
            reason = (crash.message if crash else str(report.longrepr)).partition("\n")[0]
            terminal.write_line(f" {report.nodeid}, {report.when}: {reason}")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """A teardown that hangs ends the process, with the stacks of all threads on stderr."""
    faulthandler.dump_traceback_later(TEARDOWN_SECONDS, exit=True, file=item.config.stash[STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _reason(longrepr: object) -> str:
    """What a skip said: pytest keeps it as (path, line, reason)."""
    return str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where root tests are required, a skipped one has failed."""
    report = yield
    if (
        ROOT_REQUIRED
        and report.skipped
        and not hasattr(report, "wasxfail")
        and item.get_closest_marker("root") is not None
    ):
        report.outcome = "failed"
        report.longrepr = f"a root test may not be skipped here: {_reason(report.longrepr)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that skips itself takes its root tests with it, unseen: the same failure."""
    report = yield
    if ROOT_REQUIRED and report.outcome == "skipped":
        report.outcome = "failed"
        report.longrepr = f"a module may not skip itself here: {_reason(report.longrepr)}"
    return report
