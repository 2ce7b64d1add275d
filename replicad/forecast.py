"""How long would a freeze take now, and will it ever fit? Pure arithmetic.

While frozen the source reads what is dirty into memory; sending happens after the thaw. So
the freeze is predicted by dirty bytes over the *read* rate, plus what freezing, draining the
tracker and thawing cost by themselves. Live migration of virtual machines decides in the same
way when to stop the guest (Clark et al., "Live Migration of Virtual Machines", NSDI 2005).
"""

from __future__ import annotations

from dataclasses import dataclass

FIXED_SECONDS = 0.05
"""Freezing, draining and thawing with nothing to read; replaced by what was measured."""

SAFETY = 0.7
"""A forecast must fit into this share of the budget, since rates vary."""

RUN_SECONDS = 0.00004
"""What one separate run of dirty granules costs beside its bytes (a read call; measured)."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What was measured, in bytes per second; 0 is 'not known yet'."""

    read: float = 0.0
    send: float = 0.0
    write: float = 0.0


def freeze_seconds(
    dirty_bytes: int, runs: int, rates: Rates, fixed: float = FIXED_SECONDS
) -> float:
    """Seconds that a freeze would last if it began now.

    Args:
        dirty_bytes: what would have to be read while frozen.
        runs: in how many separate pieces it lies.
    """
    read = rates.read or 200e6
    return fixed + dirty_bytes / read + runs * RUN_SECONDS


def fits(forecast: float, budget: float) -> bool:
    """Whether a freeze with this forecast may be tried within the budget (seconds)."""
    return forecast <= budget * SAFETY


def converges(rates: Rates) -> bool:
    """Whether delta passes shrink: what is written must travel faster than it appears."""
    return rates.send <= 0 or rates.write < rates.send


def sentence(dirty_bytes: int, rates: Rates, forecast: float, budget: float) -> str:
    """What the administrator should know when the freeze does not fit yet."""
    if converges(rates):
        return (
            f"a freeze now would take {forecast:.2f} s of {budget:.2f} s allowed; "
            f"{dirty_bytes / 1e6:.1f} MB still differ, another delta pass runs"
        )
    return (
        f"the disk is written at {rates.write / 1e6:.1f} MB/s but sent at "
        f"{rates.send / 1e6:.1f} MB/s: it needs more than {rates.write * 8 / 1e6:.0f} Mbit/s; "
        f"a freeze now would take {forecast:.2f} s of {budget:.2f} s allowed"
    )
