"""How long would a freeze take now, and will it ever fit? Pure arithmetic.

While frozen the source reads what is dirty into memory; sending happens after the thaw. So
the freeze is predicted by dirty bytes over the *read* rate, plus what freezing, draining the
tracker and thawing cost by themselves. What is dirty then is not what is dirty now: a checkpoint
first makes passes, each of which sends what the one before left behind. Live migration of
virtual machines decides in the same way when to stop the guest (Clark et al., "Live Migration of
Virtual Machines", NSDI 2005).
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.units import format_duration
from protocol.wire.jobs import ConvergenceState

FIXED_SECONDS = 0.05
"""Freezing, draining and thawing with nothing to read; replaced by what was measured."""

SAFETY = 0.7
"""A forecast must fit into this share of the budget, since rates vary."""

RUN_SECONDS = 0.00004
"""What one separate run of dirty granules costs beside its bytes (a read call; measured)."""

RUN_GRANULES = 4
"""Granules of a run, when nobody has counted the runs."""

UNKNOWN_READ = 200e6
"""Bytes per second that a disk is taken to read before it was measured."""

MEMORY_BYTES = 512 << 20
"""What is read into memory while frozen at most: never so much that the server feels it."""

ROUNDS = 2
"""Passes that a checkpoint makes right before the freeze (``checkpoint.SETTLING``)."""

ROUND_SECONDS = 0.1
"""The shortest of these: a sync, a drain, a read and an answer."""

RELIEF = 0.85
"""A job that did not converge is only called converging again when what is written is below
this share of what can be sent: figures near the border must not make it flap."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What was measured, in bytes per second; None is 'not known yet'.

    ``wire_ratio``: bytes on the wire for each byte of content.
    """

    read: float | None = None
    send: float | None = None
    write: float | None = None
    wire_ratio: float = 1.0

    @property
    def needed(self) -> float | None:
        """Bytes per second that the line must be able to carry for passes to shrink."""
        return None if self.write is None else self.write * self.wire_ratio


@dataclass(frozen=True, slots=True)
class Costs:
    """What freezes turned out to cost: ``fixed`` seconds beside reading, how many times as long
    as expected reading took (``reading``), and seconds for which ``hooks`` were waited for."""

    fixed: float = FIXED_SECONDS
    reading: float = 1.0
    hooks: float = 0.0

    def after(self, fixed: float, reading: float, hooks: float, weight: float) -> Costs:
        """With what another freeze cost, which counts so much (0 to 1)."""
        return Costs(
            self.fixed + weight * (fixed - self.fixed),
            self.reading + weight * (reading - self.reading),
            self.hooks + weight * (hooks - self.hooks),
        )


def reading_seconds(dirty_bytes: float, runs: float, rates: Rates) -> float:
    """Seconds that reading ``dirty_bytes`` in so many separate pieces takes."""
    return dirty_bytes / (rates.read or UNKNOWN_READ) + runs * RUN_SECONDS


def freeze_seconds(dirty_bytes: float, runs: float, rates: Rates, costs: Costs = Costs()) -> float:
    """Seconds that a freeze would last that finds so much to read."""
    return costs.fixed + costs.reading * reading_seconds(dirty_bytes, runs, rates)


def after_settling(dirty_bytes: float, rates: Rates) -> float:
    """What would be left of ``dirty_bytes`` after the passes that come before a freeze: each
    leaves what is written while it sends what the one before left."""
    if not rates.write or not rates.send:
        return dirty_bytes
    left = dirty_bytes
    for _ in range(ROUNDS):
        left = min(left, rates.write * max(left / rates.send, ROUND_SECONDS))
    return left


def fits(forecast: float, budget: float) -> bool:
    """Whether a freeze with this forecast may be tried within the budget (seconds)."""
    return forecast <= budget * SAFETY


def judge(rates: Rates, before: ConvergenceState = "unknown") -> ConvergenceState:
    """Whether delta passes shrink: what is newly written must travel faster than it appears.

    Args:
        before: what was said last, so that it does not flap.
    """
    if rates.write is None or rates.send is None:
        return "unknown"
    relief = RELIEF if before == "not converging" else 1.0
    return "not converging" if rates.write > rates.send * relief else "converging"


def sentence(state: ConvergenceState, rates: Rates, forecast: float | None, budget: float) -> str:
    """What the administrator should know: the rates, and what a freeze would take."""
    allowed = f"{budget:.2f} s are allowed"
    freeze = "" if forecast is None else f"a freeze now would take {forecast:.2f} s, {allowed}"
    if state == "unknown" or rates.write is None or rates.send is None:
        return "; ".join(filter(None, ("write and send rate are not measured yet", freeze)))
    written = f"{megabytes(rates.write)} are newly written and {megabytes(rates.send)} can be sent"
    if state == "converging":
        return "; ".join(filter(None, (f"delta passes converge: {written}", freeze)))
    needed = f"more than {megabits(rates.needed or 0.0)} are needed"
    return "; ".join(filter(None, (f"delta passes do not converge: {written}", needed, freeze)))


def capped(order: float, longest: float) -> str:
    """Why less is allowed than the job's budget; '' when it is not."""
    if longest >= order:
        return ""
    return (
        f"the job's budget is {format_duration(order)}, but this server allows "
        f"{format_duration(longest)} ([freeze] longest)"
    )


def megabytes(rate: float) -> str:
    """A rate of content: ``20.1 MB/s``."""
    return f"{rate / 1e6:.1f} MB/s"


def megabits(rate: float) -> str:
    """A rate of a line, as lines are sold: ``161 Mbit/s``."""
    bits = rate * 8 / 1e6
    return f"{bits:.0f} Mbit/s" if bits >= 10 else f"{bits:.1f} Mbit/s"
