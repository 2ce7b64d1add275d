"""Bad input to commands about jobs: refused by name, before anything is made or written.

One job runs over a written disk all the while; after each refusal it takes an exact checkpoint.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.loops import MIB, loop_device, mounted, run
from tests.support.pair import until
from tests.support.serving import DISK_SIZE, Serving, command, misused, said_once, serving

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("jobs")) as made:
        yield made


@pytest.fixture
def it(running: Serving) -> Iterator[Serving]:
    """The running pair, which must serve on after the test as before."""
    yield running
    running.watched.clear()
    running.still_serves()


CREATE = ("job", "create", "--source", "web01")


def test_a_job_is_refused_for_an_unknown_source(it: Serving) -> None:
    error = it.refused("RPL-4001", 3, "job", "create", "--source", "nobody")
    assert "nobody" in error["message"]


def test_a_job_is_refused_for_an_unknown_disk(it: Serving) -> None:
    error = it.refused("RPL-4002", 3, *CREATE, "--disk", "/dev/vdz")
    assert "/dev/vdz" in error["message"]


def test_a_second_unfinished_job_of_a_source_is_refused(it: Serving) -> None:
    error = it.refused("RPL-4004", 3, *CREATE)
    assert it.both.job in error["message"]


@pytest.mark.parametrize("action", ["show", "start", "pause", "retry", "cancel", "delete"])
def test_an_unknown_job_is_refused(running: Serving, action: str) -> None:
    assert "nonesuch" in running.refused("RPL-4003", 3, "job", action, "nonesuch")["message"]


@pytest.mark.parametrize("action", ["start", "delete"])
def test_what_a_running_job_cannot_do_is_refused(running: Serving, action: str) -> None:
    assert "syncing" in running.refused("RPL-4005", 3, "job", action, running.both.job)["message"]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--bandwidth", "200Apples"), "200Apples"),
        (("--bandwidth", "25Mb"), "25Mb"),
        (("--freeze-budget", "2parsecs"), "2parsecs"),
        (("--every", "fortnightly"), "fortnightly"),
        (("--every", "200h"), "every"),
        (("--every", "0s"), "every"),
        (("--start", "at", "garbage"), "garbage"),
        (("--start", "at", "2026-03-01T02:30:00"), "2026-03-01T02:30:00"),
        (("--start", "tomorrow"), "tomorrow"),
        (("--compress", "20"), "20"),
        (("--keep", "-1"), "keep"),
        (("--valid", "1x"), "1x"),
        (("--disk", "relative"), "relative"),
        (("--target", "tape:/dev/st0"), "tape:/dev/st0"),
        (("--target", "device:/dev/a", "--target", "raw"), "2 targets"),
        (("--freeze-budgetary", "2s"), "--freeze-budgetary"),
    ],
)
def test_a_wrong_value_is_a_wrong_use(
    running: Serving, options: tuple[str, ...], names: str
) -> None:
    before = running.world()
    misused(running.both.receiver, *CREATE, *options, names=names)
    assert running.world() == before


@pytest.mark.parametrize(
    ("pairs", "names"),
    [
        (("bandwidth=200Apples",), "200Apples"),
        (("freeze_budget=2parsecs",), "2parsecs"),
        (("colour=blue",), "colour"),
        (("keep",), "keep"),
        (("keep=0",), "keep"),
        (("source=web02",), "source"),
    ],
)
def test_a_wrong_change_is_a_wrong_use(
    running: Serving, pairs: tuple[str, ...], names: str
) -> None:
    before = running.world()
    misused(running.both.receiver, "job", "set", running.both.job, *pairs, names=names)
    assert running.world() == before


def test_the_source_refuses_a_wrong_rate(running: Serving) -> None:
    misused(running.both.source, "limit", "200Apples", names="200Apples")


# --- targets --------------------------------------------------------------------------------------


@pytest.fixture
def second(it: Serving) -> Iterator[Serving]:
    """The running pair with its job cancelled, so that another can be asked for; then as before."""
    both, image = it.both, Path(it.both.disks[0])
    both.receiver.run("job", "cancel", both.job)
    yield it
    both.create("--name", "main", "--freeze-budget", "30s")
    assert image.is_block_device()


def target_refused(it: Serving, code: str, path: str | Path, *, kept: Path | None = None) -> str:
    """The message with which a target is refused; its content must not change."""
    it.watched = [kept] if kept else []
    disk = it.both.disks[0]
    error = it.refused(code, 3, *CREATE, "--disk", disk, "--target", f"device:{path}")
    assert str(path) in error["message"]
    return str(error["message"])


def test_dangerous_targets_are_refused_by_name(second: Serving, tmp_path: Path) -> None:
    """Too small, mounted, held, swap, read-only, no device: each by its name, before a byte."""
    small, large = tmp_path / "small.img", tmp_path / "large.img"
    with loop_device(small, DISK_SIZE - MIB) as device:
        said = target_refused(second, "RPL-4101", device, kept=small)
        assert str(DISK_SIZE - MIB) in said
        assert str(DISK_SIZE) in said
    with loop_device(large, DISK_SIZE) as device:
        with mounted(device, tmp_path / "where", "ext4") as where:
            assert str(where) in target_refused(second, "RPL-4102", device)
        held = os.open(device, os.O_RDWR | os.O_EXCL)
        try:
            target_refused(second, "RPL-4103", device, kept=large)
        finally:
            os.close(held)
        run("mkswap", "-q", device)
        run("swapon", device)
        try:
            assert "swap" in target_refused(second, "RPL-4103", device, kept=large)
        finally:
            run("swapoff", device)
    with loop_device(tmp_path / "ro.img", DISK_SIZE, "--read-only") as device:
        assert "read-only" in target_refused(second, "RPL-4105", device)
    target_refused(second, "RPL-4105", tmp_path / "nothing")
    plain = tmp_path / "plain"
    plain.write_bytes(b"precious")
    target_refused(second, "RPL-4105", plain, kept=plain)


def test_the_source_disk_itself_is_no_target(second: Serving) -> None:
    assert "mnt" in target_refused(second, "RPL-4102", second.both.disks[0])


def test_a_target_of_another_job_is_refused(second: Serving, tmp_path: Path) -> None:
    """A job that was cancelled keeps its device until it is deleted."""
    receiver, image = second.both.receiver, tmp_path / "target.img"
    with loop_device(image, DISK_SIZE) as device:
        disk = ("--disk", second.both.disks[0], "--target", f"device:{device}")
        other = receiver.run(*CREATE, *disk, "--start", "manual")["id"]
        receiver.run("job", "cancel", other)
        assert other in target_refused(second, "RPL-4104", device, kept=image)
        receiver.run("job", "delete", other)


# --- names and waiting ----------------------------------------------------------------------------


def test_a_name_that_two_jobs_have_is_refused(second: Serving) -> None:
    """The cancelled job and its successor have one name: an id must say which is meant."""
    both, first = second.both, second.both.job
    both.create("--name", "main", "--start", "manual")
    before = second.world()
    misused(both.receiver, "job", "cancel", "main", names=first)
    misused(both.receiver, "job", "cancel", "main", names=both.job)
    assert second.world() == before
    both.receiver.run("job", "cancel", both.job)


def test_a_checkpoint_that_takes_too_long_ends_the_wait_only(it: Serving) -> None:
    """Exit 5 for whoever waits; the checkpoint itself is taken all the same."""
    both, epoch = it.both, it.both.show()["epoch"]
    slow = both.hook("pre-freeze", "10-slow", "sleep 3")
    wait = ("job", "checkpoint", both.job, "--wait", "--timeout", "0.5")
    done = command(both.receiver, *wait, "--json")
    assert done.returncode == 5, done
    assert json.loads(done.stdout)["error"]["code"] == "RPL-1104"
    until(lambda: both.show()["epoch"] == epoch + 1, 30, "the checkpoint")
    done = command(both.receiver, *wait)
    assert done.returncode == 5
    said_once(done.stderr, "RPL-1104")
    until(lambda: both.show()["epoch"] == epoch + 2, 30, "the checkpoint")
    slow.unlink()
