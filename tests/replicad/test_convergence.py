"""What is known over all sessions: one statement, once a second, and what freezes teach."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from replicad import convergence
from replicad.convergence import Outlook
from replicad.forecast import FIXED_SECONDS
from replicad.rates import Sent

GRANULE = 4096
MB = 10**6


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Said:
    """A log that keeps what is said."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def warning(self, event: str, **_: object) -> None:
        self.events.append(event)

    info = warning


def job(dirty: int, *, tracked: bool = True, suspect: int = 0) -> Any:
    """A disk set with one disk of which so many bytes are dirty."""
    held = SimpleNamespace(
        dirty_bytes=dirty, dirty_granules=dirty // GRANULE, suspect_bytes=suspect
    )
    disk = SimpleNamespace(map=held, live_map=held, size=10**9, waits_for_first=bool(suspect))
    return SimpleNamespace(disks=(disk,), tracked=tracked, suspect=bool(suspect))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outlook(clock: Clock) -> Outlook:
    return Outlook(10.0, clock)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    found = Said()
    monkeypatch.setattr(convergence, "_log", found)
    return found


def write(outlook: Outlook, clock: Clock, rate: float, seconds: int = 20) -> None:
    """Drains, once a second, of blocks that are always new."""
    step = int(rate / GRANULE / 64)
    for _ in range(seconds):
        clock.now += 1
        words = np.full(step, np.uint64(0xFFFFFFFFFFFFFFFF))
        outlook.writing.add("/dev/vda", GRANULE, int(clock.now) * step, words)
        outlook.drained()


def send(outlook: Outlook, clock: Clock, rate: float, seconds: int = 12) -> None:
    outlook.sending.begin(clock.now, Sent())
    clock.now += seconds
    outlook.sending.end(clock.now, Sent(int(rate * seconds), 0, int(rate * seconds)))


def look(outlook: Outlook, clock: Clock, dirty: int = 0, limit: int = 0) -> Any:
    clock.now += 2
    return outlook.look(job(dirty), None, 2.0, limit)


def test_each_change_is_said_once(outlook: Outlook, clock: Clock, said: Said) -> None:
    assert look(outlook, clock).state == "unknown"
    write(outlook, clock, 20 * MB)
    send(outlook, clock, 10 * MB)
    found = look(outlook, clock, 50 * MB)
    for _ in range(5):
        assert look(outlook, clock, 50 * MB).state == "not converging"
    assert found.write_bytes_per_second == pytest.approx(20 * MB, rel=0.05)
    assert found.send_bytes_per_second == pytest.approx(10 * MB, rel=0.05)
    send(outlook, clock, 21 * MB)
    assert look(outlook, clock).state == "not converging"
    send(outlook, clock, 40 * MB)
    for _ in range(5):
        assert look(outlook, clock).state == "converging"
    assert said.events == ["convergence.lost", "convergence.regained"]


def test_it_is_made_once_a_second(outlook: Outlook, clock: Clock) -> None:
    first = look(outlook, clock, 10 * MB)
    assert outlook.look(job(10**9), None, 2.0, 0) is first
    clock.now += 1
    assert (outlook.look(job(10**9), None, 2.0, 0).freeze_forecast_seconds or 0.0) > 2


def test_the_smaller_limit_holds_and_is_named(outlook: Outlook, clock: Clock) -> None:
    clock.now += 2
    found = outlook.look(job(0), None, 60.0, 0)
    assert found.freeze_allowed_seconds == 10.0
    assert "this server allows 10s" in found.sentence
    assert "this server" not in look(outlook, clock).sentence


def test_without_a_tracker_all_of_it_counts(outlook: Outlook, clock: Clock) -> None:
    clock.now += 2
    found = outlook.look(job(0, tracked=False), None, 2.0, 0)
    assert found.state == "unknown"
    assert "not tracked" in found.sentence
    assert found.freeze_forecast_seconds == pytest.approx(5 + FIXED_SECONDS)


def test_hopeless_is_only_what_a_long_pass_cannot_mend(outlook: Outlook, clock: Clock) -> None:
    write(outlook, clock, 20 * MB)
    send(outlook, clock, 10 * MB)
    look(outlook, clock)
    assert outlook.hopeless(job(900 * MB), 1.0)
    assert not outlook.hopeless(job(50 * MB), 0.01), "a short pass may be tried"
    assert not outlook.hopeless(job(150 * MB), 9.0), "it fits"
    assert not outlook.hopeless(job(900 * MB, suspect=1), 1.0), "the first copy is waited for"
    send(outlook, clock, 100 * MB)
    assert not outlook.hopeless(job(9000 * MB), 1.0), "passes shrink"


def test_refusals_forget_what_made_them(outlook: Outlook) -> None:
    outlook.froze(frozen=8.0, reading=0.0, hooks=0.0, read_bytes=0, read_runs=0)
    outlook.rest(8.0)
    disks = job(0)
    assert not outlook.fits(disks, 2.0)
    for _ in range(6):
        outlook.too_long(disks, 2.0)
    assert outlook.fits(disks, 2.0)
    assert outlook.forecast_settled(disks) >= FIXED_SECONDS


def test_the_first_forecast_is_a_guess(outlook: Outlook) -> None:
    """It was made of reading beside everything else; the watchdog keeps to the budget anyway."""
    assert outlook.fits(job(600 * MB), 1.0)
    assert not outlook.fits(job(6000 * MB), 1.0)
    outlook.rest(0.1)
    assert not outlook.fits(job(600 * MB), 1.0)


def test_hooks_are_forecast_but_no_reason_to_refuse(outlook: Outlook) -> None:
    for _ in range(8):
        outlook.froze(frozen=5.05, reading=0.0, hooks=5.0, read_bytes=0, read_runs=0)
    assert outlook.forecast(job(0)) == pytest.approx(5.05, rel=0.02)
    assert outlook.fits(job(0), 1.0)


def test_between_freezes_as_much_time_passes(outlook: Outlook, clock: Clock) -> None:
    assert outlook.rest_seconds == 0
    outlook.rest(1.5)
    assert outlook.rest_seconds == pytest.approx(1.5)
    clock.now += 2
    assert outlook.rest_seconds == 0


def test_another_job_begins_from_nothing(outlook: Outlook, clock: Clock) -> None:
    write(outlook, clock, 20 * MB)
    send(outlook, clock, 10 * MB)
    outlook.forget()
    assert look(outlook, clock).state == "unknown"
    assert look(outlook, clock).write_bytes_per_second is None
