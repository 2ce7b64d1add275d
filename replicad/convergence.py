"""Do delta passes converge, and what would a freeze take now? Measured as long as the job lives.

Sessions come and go; what was learned of the writer, the line, the disks and of earlier freezes
stays. Drains feed :attr:`Outlook.writing`, transfers :attr:`Outlook.sending`, checkpoints
:meth:`Outlook.froze`; :meth:`Outlook.look` makes the one statement that status, metrics, log and
checkpoint share.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from protocol.errors import FREEZE_TOO_LONG
from protocol.local import log
from protocol.wire.jobs import Convergence, ConvergenceState
from replicad import forecast
from replicad.rates import SendMeter, WriteMeter

if TYPE_CHECKING:
    from protocol.errors import LocalFault
    from replicad.engine.disks import DiskSet
    from replicad.transfer import Transfer

LOOK_SECONDS = 1.0
"""Between judgements: whoever asks more often gets the last one."""

LEARN = 0.5
"""Weight of the newest freeze in what freezes cost."""

HOPE_SECONDS = 10.0
"""A pass that would take longer than this is not made, or waited for, when what is written
outruns the line: who asked for a checkpoint learns at once that it does not fit."""

TRIAL = 5.0
"""Before the first freeze of a job the forecast is a guess: the disk was read beside everything
else that goes on. Then it must be so many times too long before none is tried at all."""

DOUBT = 0.5
"""Of what is beyond the usual cost that is forgotten when it kept a freeze from being tried."""

READING_BOUNDS = (0.2, 5.0)
"""Within which what reading cost corrects the forecast: beyond, something else was the matter."""

READING_LEAST = 1 << 20
"""Bytes that a freeze must have read to say anything about reading."""

_log = log.get("convergence")


class Outlook:
    """What is known of the writer, the line, the disks and the freezes of one job.

    Args:
        longest: seconds that this server allows a freeze at most.
        clock: monotonic seconds.

    Attributes:
        writing: fed by drains.
        sending: fed by transfers.
        costs: what freezes turned out to cost.
    """

    def __init__(self, longest: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.longest = longest
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Another job, and other disks."""
        self.writing = WriteMeter()
        self.sending = SendMeter()
        self.costs = forecast.Costs()
        self._read: float | None = None
        self._state: ConvergenceState = "unknown"
        self._looked: float | None = None
        self._rest_until = 0.0
        self._tried = False
        self.last = Convergence()

    # --- what is measured ---------------------------------------------------------------------

    def drained(self) -> None:
        """A drain of all disks is complete. In the thread that drains."""
        self.writing.drained(self._clock())

    def froze(
        self, frozen: float, reading: float, hooks: float, read_bytes: int, read_runs: int
    ) -> None:
        """A freeze is over. It took ``frozen`` seconds: ``reading`` of them to read so many
        bytes in so many pieces, ``hooks`` of them only because a hook still ran."""
        factor = self.costs.reading
        if read_bytes >= READING_LEAST:
            low, high = READING_BOUNDS
            expected = forecast.reading_seconds(read_bytes, read_runs, self.rates())
            factor = max(low, min(high, reading / expected))
        fixed = max(0.0, frozen - reading - hooks)
        self.costs = self.costs.after(fixed, factor, hooks, LEARN)

    def doubt(self) -> None:
        """A freeze was not tried because of the forecast. What made it pessimistic is half
        forgotten, or one slow freeze would be the reason never to try again."""
        usual = forecast.Costs()
        self.costs = forecast.Costs(
            self.costs.fixed - DOUBT * max(0.0, self.costs.fixed - usual.fixed),
            self.costs.reading - DOUBT * max(0.0, self.costs.reading - usual.reading),
            self.costs.hooks,
        )

    def believed(self, seconds: float) -> float:
        """A forecast as far as it may be a reason not to try."""
        return seconds if self._tried else seconds / TRIAL

    def rest(self, frozen_seconds: float) -> None:
        """Filesystems stood still for so long: not again before as much time has passed. A
        receiver that wants one checkpoint after the other gets them, but never more than half
        of the server's time."""
        self._tried = True
        self._rest_until = self._clock() + frozen_seconds

    @property
    def rest_seconds(self) -> float:
        """Until the next freeze may begin."""
        return max(0.0, self._rest_until - self._clock())

    # --- what follows from it -----------------------------------------------------------------

    def allowed(self, budget: float) -> float:
        """Seconds that a freeze may take: the job's budget, or what this server allows."""
        return min(budget, self.longest)

    def rates(self) -> forecast.Rates:
        """The rates as they are known now."""
        return forecast.Rates(
            read=self._read,
            send=self.sending.capacity,
            write=self.writing.rate,
            wire_ratio=self.sending.wire_ratio,
        )

    def forecast(self, disks: DiskSet) -> float:
        """Seconds that the freeze of a checkpoint would take that is asked for now."""
        return self._freeze(disks, settled=False) + self.costs.hooks

    def forecast_settled(self, disks: DiskSet) -> float:
        """Seconds that a freeze would take with what is dirty now, when the passes before it
        have been made. Without hooks: nobody knows whether they are still there."""
        return self._freeze(disks, settled=True)

    def fits(self, disks: DiskSet, budget: float) -> bool:
        """Whether a freeze may be tried now, when the job allows ``budget`` seconds."""
        seconds = self.believed(self.forecast_settled(disks))
        return not disks.suspect and forecast.fits(seconds, self.allowed(budget))

    @property
    def outruns(self) -> bool:
        """Whether what is written outruns the line, so that further passes bring nothing."""
        return forecast.judge(self.rates(), self.last.state) == "not converging"

    def hopeless(self, disks: DiskSet, budget: float) -> bool:
        """Whether a checkpoint would only wait for a long pass to find that no freeze fits."""
        rates = self.rates()
        if not self.outruns or not rates.send or not disks.tracked:
            return False
        if any(disk.map is None or disk.waits_for_first for disk in disks.disks):
            return False
        left = sum(disk.live_map.dirty_bytes for disk in disks.disks)
        return left / rates.send > HOPE_SECONDS and not self.fits(disks, budget)

    def too_long(self, disks: DiskSet, budget: float, because: str = "") -> LocalFault:
        """FREEZE_TOO_LONG, with all that helps to decide what to do."""
        rates, seconds = self.rates(), self.forecast_settled(disks)
        self.doubt()
        state = forecast.judge(rates, self.last.state)
        said = forecast.sentence(state, rates, None, self.allowed(budget))
        cap = forecast.capped(budget, self.longest)
        if not because and not forecast.fits(self.costs.fixed, self.allowed(budget)):
            because = f"freezing and thawing alone take about {self.costs.fixed:.3f} s here"
        detail = "; ".join(filter(None, (because, said, cap)))
        return FREEZE_TOO_LONG.fault(forecast=seconds, budget=self.allowed(budget), detail=detail)

    def _freeze(self, disks: DiskSet, *, settled: bool) -> float:
        rates = self.rates()
        if not disks.tracked:
            size = sum(disk.size for disk in disks.disks)
            return forecast.freeze_seconds(size, 0, rates, self.costs)
        maps = [disk.map for disk in disks.disks if disk.map is not None]
        dirty: float = sum(each.dirty_bytes for each in maps)
        granules = sum(each.dirty_granules for each in maps)
        # While it is compared it is written, and the more so the longer that takes.
        suspect = sum(each.suspect_bytes for each in maps)
        dirty += (rates.write or 0.0) * suspect / (rates.read or forecast.UNKNOWN_READ)
        left = dirty if settled else forecast.after_settling(dirty, rates)
        if left > forecast.MEMORY_BYTES:
            # More than is read into memory: it would have to be sent while frozen.
            return self.costs.fixed + left / (rates.send or rates.read or forecast.UNKNOWN_READ)
        runs = granules / forecast.RUN_GRANULES * (left / dirty if dirty else 0.0)
        return forecast.freeze_seconds(left, runs, rates, self.costs)

    def look(
        self, disks: DiskSet | None, transfer: Transfer | None, budget: float, limit: int
    ) -> Convergence:
        """The statement, made anew once a second.

        Args:
            budget: the job's freeze budget, seconds.
            limit: bytes per second that may be sent on the wire, 0 for unlimited.
        """
        now = self._clock()
        if self._looked is not None and now - self._looked < LOOK_SECONDS:
            return self.last
        self._looked = now
        self.sending.set_limit(limit)
        if transfer is not None:
            self.sending.sample(now, transfer.sent)
            self._read = transfer.read_rate or self._read
        self.last = self._judge(disks, budget)
        return self.last

    def _judge(self, disks: DiskSet | None, budget: float) -> Convergence:
        rates, allowed = self.rates(), self.allowed(budget)
        known = (
            disks is not None and bool(disks.disks) and all(d.map is not None for d in disks.disks)
        )
        seconds = self.forecast(disks) if disks is not None and known else None
        if disks is not None and known and not disks.tracked:
            state: ConvergenceState = "unknown"
            text = (
                "writes are not tracked: all of it is compared while frozen; "
                f"a freeze now would take {seconds:.2f} s, {allowed:.2f} s are allowed"
            )
        else:
            state = forecast.judge(rates, self._state)
            text = forecast.sentence(state, rates, seconds, allowed)
        text = "; ".join(filter(None, (text, forecast.capped(budget, self.longest))))
        self._say(state, text)
        return Convergence(
            state=state,
            write_bytes_per_second=rates.write,
            send_bytes_per_second=rates.send,
            read_bytes_per_second=rates.read,
            needed_bytes_per_second=rates.needed,
            freeze_forecast_seconds=seconds,
            freeze_allowed_seconds=allowed,
            sentence=text,
        )

    def _say(self, state: ConvergenceState, text: str) -> None:
        """Log it, once for each change that matters."""
        before, self._state = self._state, state
        if state == "not converging" != before:
            _log.warning("convergence.lost", because=text)
        elif before == "not converging" != state:
            _log.info("convergence.regained", state=state, because=text)
