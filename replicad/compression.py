"""Which zstd level is worth its time, from what sending and compressing really take. Pure.

Compressing pays while the line is what everybody waits for: then each byte that is not sent is
time saved, and the processor has nothing better to do. So the level goes up while sender threads
spend most of their time waiting for the line, and down when they do not, in the end to nothing:
on a line that nobody waits for a byte that is not sent saves no time, and making it smaller costs
ten times as much as encrypting and sending it (docs/decisions/0173). Up only on evidence:
now and then an extent is compressed a second time, at the next level, and what that would have
saved and cost is known before anything depends on it. The idea of taking the level from measured
rates is that of zstd's ``--adapt`` and of rsync's and btrfs's "give up on what does not shrink";
the trial is ours, because the ratio of two levels depends on the content and not on the machine.

Incompressible content is recognised by samples (:mod:`replicad.encoder`). After a run of it even
they are taken of every eighth extent only, until something shrinks again.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Final

LADDER: Final = (None, -1, 1, 3, 6, 9)
"""Levels to choose from, None for not compressing: each costs about twice the time of the one
before. Above 9 the window outgrows an extent of 1 MiB and nothing is gained."""

FIRST: Final = -1
"""Where a job begins: a step from the right place whether its line is slow or fast."""

PERIOD_SECONDS: Final = 0.25
PERIOD_FRAMES: Final = 32
"""A decision needs both. Fewer frames are noise, and less than what socket buffers swallow before
anything is waited for; a longer time would be most of a pass on a fast line."""

WAITING: Final = 0.5
"""Share of the senders' time that goes to the line from which the line is what is waited for."""

IDLE_LINE: Final = 0.1
"""Below this share the line is not what is waited for."""

PROBE_FRAMES: Final = 16
"""One in so many compressed frames is tried at the next level while the line is waited for."""

PROBES: Final = 4
"""Trials that a step up needs."""

WORTH: Final = 0.03
"""Of the wire bytes that the next level must save."""

BUSY: Final = 0.5
"""Of the senders' time that compressing may take after a step: the server has other work."""

TIRED: Final = 64
"""Extents in a row that did not shrink, after which only each :data:`SELDOM` th is looked at."""

SELDOM: Final = 8


@dataclass(slots=True)
class _Period:
    begun: float
    frames: int = 0
    wire: int = 0
    compress: float = 0.0
    line: float = 0.0
    other: float = 0.0

    @property
    def busy(self) -> float:
        return self.compress + self.line + self.other


@dataclass(slots=True)
class _Trials:
    count: int = 0
    raw: int = 0
    here: int = 0
    there: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Choice:
    """What is done now, for ``status``: the level, None for none, and why in a few words."""

    level: int | None = FIRST
    because: str = "nothing has been measured yet"


def level_of(mode: str, choice: Choice) -> tuple[int | None, str]:
    """The level in a mode (``auto``, ``none`` or a level as text), None for none, and why."""
    if mode == "auto":
        return choice.level, choice.because
    return (None if mode == "none" else int(mode)), "as the job says"


@dataclass(slots=True)
class Tuner:
    """Chooses the level for all senders of a job. Thread-safe; seconds are the caller's clock.

    Attributes:
        choice: what is done now.
    """

    choice: Choice = Choice()
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _period: _Period | None = None
    _trials: _Trials = field(default_factory=_Trials)
    _waiting: bool = False
    _since_probe: int = 0
    _dull: int = 0

    @property
    def level(self) -> int | None:
        """The level of the next frame; None: it is not compressed."""
        return self.choice.level

    def worth_a_look(self) -> bool:
        """Whether an extent should be looked at at all; the caller says what came of it with
        :meth:`looked`."""
        with self._lock:
            if self._dull < TIRED:
                return True
            self._dull += 1
            return self._dull % SELDOM == 0

    def looked(self, *, shrank: bool) -> None:
        """What became of an extent that was looked at."""
        with self._lock:
            self._dull = 0 if shrank else self._dull + 1

    def next_level(self) -> int | None:
        """The level at which this extent should be tried as well; None for almost all."""
        with self._lock:
            if not self._waiting or self.level == LADDER[-1]:
                return None
            self._since_probe += 1
            if self._since_probe < PROBE_FRAMES:
                return None
            self._since_probe = 0
            return LADDER[LADDER.index(self.level) + 1]

    def tried(self, raw: int, here: int, there: int, seconds: float) -> None:
        """A trial: bytes before, at the present level, at the next, and how long that took."""
        with self._lock:
            trials = self._trials
            trials.count += 1
            trials.raw += raw
            trials.here += here
            trials.there += there
            trials.seconds += seconds

    def sent(self, wire: int, compress: float, line: float, other: float, now: float) -> None:
        """A frame has left: its bytes, and seconds spent compressing, waiting for the line (also
        for a limit), and with anything else."""
        with self._lock:
            period = self._period
            if period is None:
                period = self._period = _Period(now)
            period.frames += 1
            period.wire += wire
            period.compress += compress
            period.line += line
            period.other += other
            elapsed = now - period.begun
            if elapsed >= PERIOD_SECONDS and period.frames >= PERIOD_FRAMES:
                self._decide(period, elapsed)
                self._period = _Period(now)

    def _decide(self, period: _Period, elapsed: float) -> None:
        share = period.line / period.busy if period.busy > 0 else 0.0
        self._waiting = share >= WAITING
        at = LADDER.index(self.level)
        if share < IDLE_LINE and at > 0:
            self._step(at - 1, f"the line is waited for {share:.0%} of the time only")
        elif self._waiting and self._trials.count >= PROBES:
            self._judge(period, elapsed, at)

    def _judge(self, period: _Period, elapsed: float, at: int) -> None:
        trials, self._trials = self._trials, _Trials()
        saved = 1 - trials.there / trials.here if trials.here else 0.0
        # The line carries as much as now; at the next level that is so much content a second.
        content = period.wire / elapsed * trials.raw / max(1, trials.there)
        threads = period.busy / elapsed
        load = content * trials.seconds / max(1, trials.raw) / max(threads, 1e-9)
        if saved < WORTH:
            self._stay(f"level {LADDER[at + 1]} would save {saved:.1%} only")
        elif load > BUSY:
            self._stay(f"level {LADDER[at + 1]} would take {load:.0%} of the senders' time")
        else:
            self._step(at + 1, f"the line is waited for, and it saves {saved:.0%} more")

    def _step(self, at: int, because: str) -> None:
        self._trials = _Trials()
        self._since_probe = 0
        self.choice = Choice(LADDER[at], because)

    def _stay(self, because: str) -> None:
        self.choice = Choice(self.level, because)
